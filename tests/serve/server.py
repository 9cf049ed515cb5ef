"""The real Triton server for tests: CPU, Python backend, out of the wheel `nvidia-pytriton`.

The wheel is never installed: it pins an old NumPy. It is unpacked into a folder of its own,
which `SEGDEPLOY_TRITON` may name; otherwise it is fetched once and kept in the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

WHEEL = "nvidia-pytriton==0.7.0"
REQUIRED = os.environ.get("SEGDEPLOY_REQUIRE_FLEET") == "1"
_CACHE = Path(os.environ.get("SEGDEPLOY_TRITON_CACHE") or Path.home() / ".cache" / "segdeploy")
_START_SECONDS = 90
ROOT = Path(__file__).resolve().parents[2]


def missing() -> str | None:
    """Why the real server cannot be used here; None where it can. Fetches the wheel if need be."""
    if find_spec("tritonclient") is None:
        return "tritonclient is not installed"
    try:
        triton_folder()
    except (OSError, RuntimeError) as error:
        return f"no Triton server: {error}"
    return None


def need_server() -> None:
    """Skip the test that calls this where there is no server; fail where one is required."""
    _need(missing())


def need_client() -> None:
    """The same for tests that only read with tritonclient what a server would read."""
    _need(None if find_spec("tritonclient") else "tritonclient is not installed")


def _need(reason: str | None) -> None:
    if reason is None:
        return
    if REQUIRED:
        pytest.fail(f"{reason}, and SEGDEPLOY_REQUIRE_FLEET=1")
    pytest.skip(reason)


@lru_cache(maxsize=1)
def triton_folder() -> Path:
    """The folder that holds `pytriton/tritonserver` and `nvidia_pytriton.libs`."""
    named = os.environ.get("SEGDEPLOY_TRITON")
    folder = Path(named) if named else _CACHE / WHEEL.replace("==", "-")
    if not named and not folder.is_dir():
        _fetch(folder)
    if not (folder / "pytriton" / "tritonserver" / "bin" / "tritonserver").is_file():
        raise RuntimeError(f"{folder} holds no pytriton/tritonserver/bin/tritonserver")
    return folder


def _fetch(folder: Path) -> None:
    if not REQUIRED:
        # 55 MB are fetched by who asks for these tests, not by every test run.
        raise RuntimeError("SEGDEPLOY_TRITON names none (SEGDEPLOY_REQUIRE_FLEET=1 fetches it)")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(aside)]
        subprocess.run([*command, WHEEL], check=True, timeout=600)
        (wheel,) = aside.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(aside)
        wheel.unlink()
        aside.rename(folder)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"pip download {WHEEL} failed") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@dataclass
class Server:
    """A running server.

    Attributes:
        http, grpc: ``127.0.0.1:PORT``, as tritonclient takes it.
        process: of the server.
        log_path: what it and its models wrote.
    """

    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether it runs and says that it is live."""
        return self.process.poll() is None and _answers(f"http://{self.http}/v2/health/live")

    def ready(self, model: str) -> bool:
        return _answers(f"http://{self.http}/v2/models/{model}/ready")

    def statistics(self, model: str) -> dict[str, Any]:
        """`inference_count`, `execution_count`, `batch_stats` … of the newest version."""
        with urllib.request.urlopen(
            f"http://{self.http}/v2/models/{model}/stats", timeout=10
        ) as answer:
            found = json.load(answer)["model_stats"][-1]
        assert isinstance(found, dict)
        return found

    def stop(self) -> None:
        """End it as a container's stop does; kill it where it does not go."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@contextmanager
def running_server(
    repository: Path,
    scratch: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[Server]:
    """Serve `repository` on free ports until the block ends.

    Args:
        scratch: an empty or absent folder for the log and the backend's files.
        arguments: further ones of tritonserver.
        environment: further variables of the server; its models inherit them.
        wait: until all models are ready (RuntimeError with the log where the server ends first).
    """
    scratch.mkdir(parents=True, exist_ok=True)
    home = triton_folder() / "pytriton" / "tritonserver"
    ports = _free_ports(3)
    log_path = scratch / "triton.log"
    command = [
        str(home / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={_backends(home, scratch)}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        "--exit-timeout-secs=5",  # a client's open connection would hold it for 30
        *(f"--{name}-port={p}" for name, p in zip(("http", "grpc", "metrics"), ports, strict=True)),
        *arguments,
    ]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(scratch) | dict(environment or {}),
            cwd=scratch,
        )
    http, grpc, metrics = (f"127.0.0.1:{port}" for port in ports)
    server = Server(http, grpc, metrics, process, log_path)
    try:
        if wait:
            _wait(server)
        yield server
    finally:
        server.stop()


def _wait(server: Server) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{server.log()[-4000:]}")
        if _answers(f"http://{server.http}/v2/health/ready"):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready in {_START_SECONDS} s:\n{server.log()[-4000:]}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_ports(count: int) -> list[int]:
    held = []
    try:
        for _ in range(count):
            held.append(socket.socket())
            held[-1].bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _backends(home: Path, scratch: Path) -> Path:
    """A backend folder with the stub of this Python version; the wheel's own is left as it is."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise RuntimeError(f"the wheel has no Python backend for Python {version}")
    folder = scratch / "backends" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    parts = home / "backends" / "python"
    for part in (stub, parts / "libtriton_python.so", parts / "triton_python_backend_utils.py"):
        link = folder / part.name
        link.unlink(missing_ok=True)
        if part.suffix == ".so":
            link.symlink_to(part)
            continue
        shutil.copy2(part, link)
        link.chmod(0o755)  # unpacked wheels lose the permission to execute
    (home / "bin" / "tritonserver").chmod(0o755)
    return folder.parent


def _environment(scratch: Path) -> dict[str, str]:
    """The stub embeds a Python of its own: it is told where this one's packages lie.

    PYTHONPATH alone would not process the .pth files by which editable installs are found.
    """
    site = scratch / "site"
    site.mkdir(exist_ok=True)
    places = [one for one in sys.path if one.endswith("site-packages")]
    text = "import site\n" + "".join(f"site.addsitedir({place!r})\n" for place in places)
    (site / "sitecustomize.py").write_text(text)
    libraries = [sysconfig.get_config_var("LIBDIR"), triton_folder() / "nvidia_pytriton.libs"]
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONPATH": ":".join(map(str, (site, ROOT, *places))),
        "PYTHONHOME": sys.base_prefix,
    }
