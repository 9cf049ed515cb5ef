"""Every error this package raises on purpose, and the one class a caller needs to catch.

::

    SegdeployError                 catch this one: exit code 1, one readable message
    ├── InputError                 something the user handed over cannot be used
    │   ├── CheckpointError        weights or their configuration
    │   ├── OnnxFileError          an ONNX file: missing, cut off, or not made by `segdeploy export`
    │   ├── FrameError             a frame: its shape, type or size
    │   ├── MediaError             an image, a video, a folder of frames, a label file
    │   └── SpecError              a specification or manifest that does not read
    ├── EngineError                an engine folder or the library that runs it
    │   ├── EngineFolderError      incomplete, edited or foreign folder
    │   │   └── MismatchError      a whole folder, built for another library, GPU or system
    │   ├── BackendError           the backend cannot be used on this machine
    │   ├── BuildError             the library could not build the plan that was asked for
    │   ├── RunError               the engine failed, or gave NaN
    │   └── ServerError            a server that segments for us: gone, too slow, or another one
    ├── VerificationError          our own result failed its own check; nothing was kept
    ├── OutputError                a result could not be written (disk full, no permission)
    └── MissingDependencyError     a library that an extra brings is not installed

Each carries three sentences: what was found, what was expected, and what to do next.
"""

from __future__ import annotations


class SegdeployError(Exception):
    """Base of all errors of this package.

    Args:
        found: what is the case, naming the file or value.
        expected: what would have been right.
        next_step: what the reader can do now, as a command where there is one.
    """

    def __init__(self, found: str, expected: str = "", next_step: str = "") -> None:
        self.found = found
        self.expected = expected
        self.next_step = next_step
        super().__init__(found)

    def __str__(self) -> str:
        lines = [self.found]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.next_step:
            lines.append(f"next: {self.next_step}")
        return "\n  ".join(lines)


class InputError(SegdeployError):
    """Something the user handed over cannot be used."""


class CheckpointError(InputError):
    """Weights or their configuration cannot be used."""


class OnnxFileError(InputError):
    """An ONNX file is missing, cut off, or not one that this package exported."""


class FrameError(InputError):
    """A frame has a shape, type or size that cannot be segmented."""


class MediaError(InputError):
    """An image, a video, a folder of frames or a label file cannot be read."""


class SpecError(InputError):
    """A specification or manifest does not read."""


class EngineError(SegdeployError):
    """An engine folder, or the library that runs it, is at fault."""


class EngineFolderError(EngineError):
    """An engine folder is incomplete, edited or foreign."""


class MismatchError(EngineFolderError):
    """An engine folder is whole, but was built for another library, GPU or system."""


class BuildError(EngineError):
    """The library could not build the plan that was asked for."""


class BackendError(EngineError):
    """The backend that an engine needs cannot be used on this machine."""


class RunError(EngineError):
    """The engine failed while running, or its output is not a number."""


class ServerError(EngineError):
    """A server that segments for us cannot be reached, does not answer in time, or refuses."""


class VerificationError(SegdeployError):
    """A result failed the check that we make before we hand it over."""


class OutputError(SegdeployError):
    """A result could not be written."""


class MissingDependencyError(SegdeployError):
    """A library that one of the extras brings is not installed."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"the Python module '{module}' is not installed",
            f"it, for {purpose}",
            f'pip install "segformer-deploy[{extra}]"',
        )
