"""How a fact is asked for: a value, or None and one line that says why it is not known."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path("/")
# Not on every user's PATH, but where nvpmodel lies.
_SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")


class SilentError(Exception):
    """The machine does not tell; the text says why. Never leaves this room."""


class Ask:
    """Asks for one fact after the other; what is not told is kept in `unknown` with its reason."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}

    def __call__(self, name: str, probe: Callable[[], T]) -> T | None:
        """The probe's answer, or None where it could not give one."""
        try:
            return probe()
        except SilentError as silence:
            self.unknown[name] = str(silence)
        except OSError as error:
            self.unknown[name] = f"{error.filename}: {error.strerror or error}"
        except (ValueError, LookupError) as error:
            # A kernel or a tool that writes in another form than we know.
            self.unknown[name] = f"reads otherwise than expected ({error})"
        return None


@dataclass(frozen=True)
class Facts:
    """Base of what is known of one part of the machine."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: dicts, lists, text, numbers, None."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Facts):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        raise TypeError(f"{type(value).__name__} is no Facts")
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return dict(value) if isinstance(value, dict) else value


def read_text(path: Path) -> str:
    """A small file of the kernel or the system, without its end; SilentError where it is not."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n\t ")
    except FileNotFoundError:
        raise SilentError(f"{path} is not there") from None
    except OSError as error:
        raise SilentError(f"{path} cannot be read: {error.strerror or error}") from error


def read_int(path: Path) -> int:
    """A file that holds one integer."""
    text = read_text(path)
    try:
        return int(text)
    except ValueError:
        raise SilentError(f"{path} holds {text[:40]!r}, not a number") from None


def listed(folder: Path, pattern: str) -> list[Path]:
    """The entries that match, by name; none where the folder is not there or not for us."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def program(name: str) -> str:
    """Where a program lies; SilentError where it is not installed."""
    places = os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_PROGRAMS))
    found = shutil.which(name, path=places)
    if found is None:
        raise SilentError(f"the program {name} is not installed")
    return found


def run(name: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a program that asks nothing; SilentError where it is missing, hangs or cannot start.

    Args:
        timeout: in seconds; the program is killed then.
    """
    path = program(name)
    try:
        return subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise SilentError(f"{name} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise SilentError(f"{name} does not start: {error.strerror or error}") from error


def output_of(name: str, *arguments: str, timeout: float) -> str:
    """What a program prints; SilentError where it fails."""
    done = run(name, *arguments, timeout=timeout)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[0]
        raise SilentError(f"{name} failed with exit code {done.returncode}: {said}")
    return done.stdout
