"""Runs the other tools, each in a process of its own, on the same model and frames."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from peers_runners.parent import environment

from int8_runners.child import Job
from int8_runners.options import MODELOPT, Tool
from segformer_deploy.bench import read_frame
from segformer_deploy.cli.common import progress, say
from segformer_deploy.errors import SegdeployError
from segformer_deploy.runtime.preprocess import prepare
from segformer_deploy.spec import ModelSpec

MODELOPT_PACKAGE = "nvidia-modelopt[onnx]"


@dataclass(frozen=True)
class Made:
    """A tool's INT8 file, and what its process said of it.

    Attributes:
        seconds: from the start of the process to its end, calibration and all.
        facts: versions, settings and notes.
    """

    name: str
    path: Path
    seconds: float
    facts: dict[str, Any]


def evenly_spread(files: Sequence[Path], count: int) -> list[Path]:
    """`count` of the files from the first to the last; all where there are no more."""
    if count >= len(files):
        return list(files)
    places = np.linspace(0, len(files) - 1, count).round().astype(int)
    return [files[place] for place in places]


def write_frames(files: Sequence[Path], spec: ModelSpec, folder: Path) -> None:
    """The frames as the network sees them: `NNNNN.npy`, uint8 `[1, h, w, 3]` RGB."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with progress("calibration frames", len(files)) as advance:
        for index, file in enumerate(files):
            frame = prepare(read_frame(file), spec.resize)
            np.save(folder / f"{index:05d}.npy", frame[None])
            advance(index + 1)


def interpreters(tools: Sequence[Tool], modelopt: Path, *, make: bool) -> dict[str, str]:
    """The Python of each tool's module; ModelOpt's environment is made where that was asked.

    Raises SegdeployError where ModelOpt's is missing or has no ModelOpt.
    """
    found = {tool.module: sys.executable for tool in tools}
    if MODELOPT in found:
        if make and not modelopt.exists():
            _make_environment(modelopt.parents[1])
        _check_modelopt(modelopt)
        found[MODELOPT] = str(modelopt)
    return found


def _make_environment(folder: Path) -> None:
    say(f"making {folder}: {MODELOPT_PACKAGE} and what it brings, some gigabytes")
    python = folder / "bin" / "python"
    try:
        _call([sys.executable, "-m", "venv", str(folder)])
        _call([str(python), "-m", "pip", "install", MODELOPT_PACKAGE])
    except BaseException:
        # Half an environment would be taken for a whole one the next time.
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _call(command: list[str]) -> None:
    # pip's own progress is for the reader; stdout stays for --json.
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode:
        raise SegdeployError(
            f"ModelOpt's environment could not be made (exit code {done.returncode})",
            "exit code 0",
            f"run it alone: {' '.join(command)}",
        )


def _check_modelopt(python: Path) -> None:
    try:
        found = subprocess.run(
            [
                str(python),
                "-c",
                "from importlib.metadata import version;version('nvidia-modelopt')",
            ],
            capture_output=True,
        )
        problem = "has no ModelOpt" if found.returncode else ""
    except OSError:
        problem = "does not run" if python.exists() else "does not exist"
    if problem:
        raise SegdeployError(
            f"{python} {problem}",
            f"the Python of an environment with {MODELOPT_PACKAGE}",
            "make one with --prepare, name one with --modelopt-python, or choose with --only",
        )


def quantise(tool: Tool, python: str, model: Path, frames: Path, work: Path, threads: int) -> Made:
    """The tool's INT8 file of `model`; SegdeployError where it fails.

    `work` holds one folder per tool, of the tool's name, which is cleared first.
    """
    folder = work / tool.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # A copy: some tools write files of their own beside the model.
    own = Path(shutil.copy(model, folder / "fp32.onnx"))
    job = Job(own, frames, folder / "int8.onnx", tool.preset)
    command = [python, "-m", f"int8_runners.{tool.module}", *job.arguments()]
    started = perf_counter()
    with progress(tool.name, len(list(frames.glob("*.npy")))) as advance:
        facts = _run(tool.name, command, folder / "log.txt", threads, advance)
    return Made(tool.name, job.output, perf_counter() - started, facts)


def _run(
    name: str, command: list[str], log: Path, threads: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """The process's last answer; its messages go to `log`."""
    answers: deque[dict[str, Any]] = deque(maxlen=1)
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(threads)
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                answers.append(json.loads(line))
                advance(answers[0].get("frame", 0))
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code or not answers or "versions" not in answers[0]:
        raise _failed(name, log, code)
    return answers[0]


def _failed(name: str, log: Path, code: int) -> SegdeployError:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    return SegdeployError(
        f"{name} made no INT8 file (exit code {code}): {last[:300]}",
        "an INT8 file of the model",
        f"read its messages in {log}, or leave it out with --only",
    )
