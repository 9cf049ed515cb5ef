"""Sources, one engine, outputs and a page to look on, joined and run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from segformer_deploy.errors import InputError
from segformer_deploy.video.address import parse_address, redacted
from segformer_deploy.video.frame import Picture, Source
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.workflow.places import check_places, named_for

if TYPE_CHECKING:
    from segformer_deploy.spec import ModelSpec
    from segformer_deploy.video.loop import RunReport, Stream
    from segformer_deploy.video.overlay import ClassMap
    from segformer_deploy.video.tally import Progress
    from segformer_deploy.view.view import View


class Segments(Protocol):
    """What a run has frames segmented by: a `Segmenter`, or a server's client."""

    @property
    def spec(self) -> ModelSpec:
        """Classes, names and palette."""

    def __call__(self, frame: Picture, /) -> ClassMap:
        """uint8 `[H, W, 3]` BGR -> class map `[H, W]`."""


@dataclass(frozen=True)
class RunJob:
    """What is to be run.

    Attributes:
        sources: as `open_source` takes them.
        outputs: as `open_sink` takes them; each for every source: see `named_for`.
        masks: a folder for class maps.
        json_lines: a file for the classes' shares of each frame; ``-`` for stdout.
        capture: how sources are opened.
        view: where the page listens; None: no page.
        token, recordings: of the page.
        stabilise: make class maps steadier over time.
        flicker: measure it; done anyway where a source is live or class maps are stabilised.
        opacity, legend: of the overlay.
        max_frames: of each source.
        overlap: read and write while segmenting.
    """

    sources: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    masks: str | Path | None = None
    json_lines: str | None = None
    capture: CaptureOptions = field(default_factory=CaptureOptions)
    view: str | None = None
    token: str | None = None
    recordings: Path = Path("recordings")
    stabilise: bool = False
    flicker: bool = False
    opacity: float = 0.5
    legend: bool = True
    max_frames: int | None = None
    overlap: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The sources, without passwords."""
        return tuple(parse_address(source).name for source in self.sources)

    def places(self, number: int) -> dict[str, Any]:
        """Where the results of source `number` go; one output by itself, several as a list."""
        count = len(self.sources)
        outputs = [redacted(named_for(output, number, count)) for output in self.outputs]
        return {
            "output": outputs[0] if len(outputs) == 1 else outputs or None,
            "masks": self._place(self.masks, number),
            "json_lines": self._place(self.json_lines, number),
        }

    def _place(self, place: str | Path | None, number: int) -> str | None:
        return None if place is None else named_for(str(place), number, len(self.sources))

    def check(self) -> None:
        """InputError where it could do nothing, or two things at once."""
        nowhere = self.masks is None and self.json_lines is None and self.view is None
        if nowhere and not self.outputs:
            raise InputError(
                "nothing to write was named",
                "--output, --masks, --json-lines, --view, or several of them",
                "--view 8080 shows it in a browser",
            )
        for output in (*self.outputs, *([] if self.masks is None else [str(self.masks)])):
            if output in ("", "-"):
                raise InputError(
                    "an output without a name" if not output else f"the output {output}",
                    "a file, a folder, or an address",
                    "pictures do not go to stdout: --output udp://127.0.0.1:5000, --json-lines -",
                )
        if self.token is not None and self.view is None:
            raise InputError("--token without a page", "--view beside it")
        if not self.sources:
            raise InputError("no source was named", "--source", "--source camera:0")
        addresses = [parse_address(source) for source in self.sources]
        if sum(one.kind == "stdin" for one in addresses) > 1:
            raise InputError("two sources are both stdin", "one")
        numbers = range(len(self.sources))
        check_places(addresses, [place for number in numbers for place in self.places_of(number)])

    def places_of(self, number: int) -> list[str]:
        """All places that the results of source `number` go to."""
        named = [*self.outputs, *(str(one) for one in (self.masks, self.json_lines) if one)]
        return [named_for(place, number, len(self.sources)) for place in named]


@contextmanager
def opened(job: RunJob) -> Iterator[list[Source]]:
    """The sources, open, before anything heavy is loaded: some cameras insist on it.

    A name that does not open should not wait for an engine either.
    """
    from segformer_deploy.video.source import open_source

    job.check()
    with ExitStack() as stack:
        yield [stack.enter_context(open_source(text, job.capture)) for text in job.sources]


class Run:
    """A job with its sources and its engine, ready to go; a context manager.

    Attributes:
        streams: the sources with what is done with their frames.
        view: the page, where one was asked for.
    """

    def __init__(self, job: RunJob, sources: Sequence[Source], segment: Segments) -> None:
        self._job, self._segment = job, segment
        self._stack = ExitStack()
        self.view: View | None = None
        try:
            self.streams = self._made(sources, segment.spec)
            if job.view is not None:
                self.view = self._stack.enter_context(self._page(segment.spec))
        except BaseException:
            self._stack.close()
            raise

    def stats(self) -> list[StreamStats]:
        """What each stream did so far; from any thread."""
        return [stream.meter.snapshot() for stream in self.streams]

    def go(self, on_frame: Callable[[Progress], None] | None = None) -> list[RunReport]:
        """Run to the end; a report for each source."""
        from segformer_deploy.video.loop import run_streams

        job, spec = self._job, self._segment.spec
        return run_streams(
            self.streams,
            self._segment,
            opacity=job.opacity,
            on_frame=on_frame,
            max_frames=job.max_frames,
            class_names=spec.class_names,
            overlap=job.overlap,
            watchers=() if self.view is None else (self.view,),
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _made(self, sources: Sequence[Source], spec: ModelSpec) -> list[Stream]:
        count = len(sources)
        return [self._stream(source, n, count, spec) for n, source in enumerate(sources)]

    def _stream(self, source: Source, number: int, count: int, spec: ModelSpec) -> Stream:
        from segformer_deploy.video.flicker import FlickerMeter
        from segformer_deploy.video.json_sink import JsonLinesSink
        from segformer_deploy.video.overlay import Overlay
        from segformer_deploy.video.sink import MaskSink, open_sink
        from segformer_deploy.video.stabiliser import Stabiliser
        from segformer_deploy.video.stream import Stream

        job = self._job
        sinks = []
        for output in job.outputs:
            sink = open_sink(named_for(output, number, count), source)
            # Entered again by the run, which ends it as the run ends; closing twice is safe.
            self._stack.callback(sink.abort)
            sinks.append(sink)
        masks = None
        if job.masks is not None:
            folder = named_for(str(job.masks), number, count)
            masks = MaskSink(folder, spec.classes, source)
        log = None
        if job.json_lines is not None:
            log = JsonLinesSink(
                named_for(job.json_lines, number, count), spec.class_names, source.name
            )
            self._stack.callback(log.close)
        return Stream(
            source,
            tuple(sinks),
            masks,
            log=log,
            overlay=Overlay(spec.palette, spec.class_names, legend=job.legend) if sinks else None,
            smooth=Stabiliser() if job.stabilise else None,
            score=FlickerMeter() if source.live or job.stabilise or job.flicker else None,
        )

    def _page(self, spec: ModelSpec) -> View:
        from segformer_deploy.view.view import View

        job = self._job
        assert job.view is not None
        return View(
            job.view,
            names=[stream.meter.name for stream in self.streams],
            class_names=spec.class_names,
            palette=spec.palette,
            stats=self.stats,
            recordings=job.recordings,
            token=job.token,
            random_weights=spec.weights.random,
            opacity=job.opacity,
            legend=job.legend,
        )
