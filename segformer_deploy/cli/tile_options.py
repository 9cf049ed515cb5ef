"""The options of tiles: overlapping windows instead of the whole picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from segformer_deploy.cli.common import parse_size, say
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.engine.tiling import Merge, Tiling
    from segformer_deploy.workflow.tiling import TileRequest

NONE = "none"

TileOrNone = Annotated[
    str | None,
    typer.Option(
        "--tile",
        metavar="HxW|none",
        help="Overlapping windows of that size; none: whole frames, though the folder has tiles.",
    ),
]
Tile = Annotated[
    str | None,
    typer.Option("--tile", metavar="HxW", help="Segment by overlapping windows of that size."),
]
TileOverlap = Annotated[
    int | None,
    typer.Option(metavar="PX", help="Of neighbouring windows; else a quarter of a tile's side."),
]
TileMerge = Annotated[
    str | None,
    typer.Option(help="Where they overlap: average of the logits, or centre: the farther inside."),
]
TileAgreement = Annotated[
    float | None,
    typer.Option(
        metavar="PERCENT", help="The smallest overlap with so many of a whole frame's pixels."
    ),
]
TileImages = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER|VIDEO", help="Frames to compare tiles with whole frames on."),
]


def tiling_from(
    tile: str | None, overlap: int | None, merge: str | None
) -> Tiling | Literal["auto"] | None:
    """What `Segmenter` takes; InputError where something is said of tiles that there are not."""
    if tile is None or tile.strip().lower() == NONE:
        _refuse_without_tiles({"--tile-overlap": overlap, "--tile-merge": merge})
        return "auto" if tile is None else None
    from segformer_deploy.engine.tiling import Tiling

    size = parse_size(tile)
    assert size is not None
    return Tiling.of(size, overlap, _merge(merge))


def request_from(
    tile: str | None,
    overlap: int | None,
    merge: str | None,
    agreement: float | None,
    images: Path | None,
) -> TileRequest | None:
    """What `build_engine` takes."""
    size = parse_size(tile)
    if size is None:
        _refuse_without_tiles(
            {
                "--tile-overlap": overlap,
                "--tile-merge": merge,
                "--tile-agreement": agreement,
                "--tile-images": images,
            }
        )
        return None
    from segformer_deploy.workflow.tiling import TileRequest

    return TileRequest(size, overlap, _merge(merge), agreement, images)


def _merge(text: str | None) -> Merge:
    from segformer_deploy.engine.tiling import Merge

    if text is not None and text not in get_args(Merge):
        raise InputError(f"merge '{text}'", "one of " + ", ".join(get_args(Merge)))
    return "centre" if text == "centre" else "average"


def _refuse_without_tiles(options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{given[0]} without tiles", "--tile HxW beside it")


def say_tiling(tiling: Tiling | None) -> None:
    """Said aloud, since tiles give other masks than whole frames do."""
    if tiling is not None:
        say(f"{tiling}: other masks than of whole frames")
