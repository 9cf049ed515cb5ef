"""The options of a server that segments instead of an engine here."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from segformer_deploy.cli.common import say, warn_if_random
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.cli.running import Opened
    from segformer_deploy.serve.client import TritonSegmenter
    from segformer_deploy.serve.encode import Encoding

_PANEL = "Server"
_TIMEOUT = 30.0

Remote = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A Triton server segments: http://HOST[:8000], grpc://HOST[:8001].",
        rich_help_panel=_PANEL,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of the server's; the one that segments if left out.",
        rich_help_panel=_PANEL,
    ),
]
ModelVersion = Annotated[
    str | None,
    typer.Option(metavar="N", help="The newest if left out.", rich_help_panel=_PANEL),
]
Encode = Annotated[
    str | None,
    typer.Option(
        metavar="raw|png|jpeg",
        help="How frames travel: raw; png: smaller; jpeg: smaller still, other masks.",
        rich_help_panel=_PANEL,
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="Of --encode jpeg, 95.", rich_help_panel=_PANEL),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.01, help="Seconds without an answer until it is an error, 30.", rich_help_panel=_PANEL
    ),
]
SharedMemory = Annotated[
    bool | None,
    typer.Option(
        "--shared-memory/--no-shared-memory",
        help="Hand frames over in memory; where the server can, if left out.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class ServerOptions:
    """What was said of a server; None: nothing."""

    model: str | None = None
    model_version: str | None = None
    encode: str | None = None
    quality: int | None = None
    timeout: float | None = None
    shared_memory: bool | None = None

    def refuse_without_server(self) -> None:
        """InputError where something is said of a server that was not named."""
        for name, value in vars(self).items():
            if value is not None:
                raise InputError(f"--{name.replace('_', '-')} without a server", "--remote URL")

    def open(self, url: str, stack: ExitStack) -> Opened:
        """Reach the server; what is said of it in JSON once it has run, and what segments there."""
        from segformer_deploy.serve.client import TritonSegmenter

        shared: bool | Literal["auto"] = "auto"
        if self.shared_memory is not None:
            shared = self.shared_memory
        if self.quality is not None and self.encode != "jpeg":
            raise InputError("--quality without JPEG", "--encode jpeg beside it")
        segment = stack.enter_context(
            TritonSegmenter(
                url,
                self.model,
                version=self.model_version or "",
                shared_memory=shared,
                timeout=_TIMEOUT if self.timeout is None else self.timeout,
                encoding=cast("Encoding", self.encode or "raw"),
                quality=95 if self.quality is None else self.quality,
                on_note=lambda note: say(f"note: {note}"),
            )
        )
        _introduce(segment)

        def who() -> dict[str, Any]:
            # How frames travel may change while it runs.
            return {"server": segment.url, "model": segment.model.name, "travel": segment.way}

        return who, segment


def _introduce(segment: TritonSegmenter) -> None:
    warn_if_random(segment.spec)
    say(f"server: {segment.url} ({segment.server}): {segment.model}; frames by {segment.way}")
    if segment.lossy:
        say("WARNING: JPEG is lossy: the server sees other pixels, masks differ from local ones")
