"""`View`: the live page, from its first frame to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from segformer_deploy.errors import InputError
from segformer_deploy.spec import Colour
from segformer_deploy.version import __version__
from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.shown import Shown
from segformer_deploy.view.access import Access, check_token, new_token
from segformer_deploy.view.bind import Bind, in_url, is_loopback, parse_bind, reachable_host
from segformer_deploy.view.channel import Channel
from segformer_deploy.view.encoder import Encoder
from segformer_deploy.view.message import mjpeg_part, page_message
from segformer_deploy.view.recorder import Recorder, file_stems
from segformer_deploy.view.server import ViewServer
from segformer_deploy.view.site import Site

WIDTH = 960
_END_S = 0.9
_FINISH_S = 20.0


class View:
    """A web page that shows a run while it goes by: a `Watcher`, and a context manager.

    Args:
        bind: where to listen: a `Bind`, or text as `parse_bind` reads it.
        names: one per stream, without passwords.
        class_names, palette: of the model; one RGB colour of 0..255 per class.
        stats: how all streams are, in the order of `names`; called by threads of the view.
        recordings: the folder for recordings, made when the first begins; None: no recording.
        token: what every request must bring. Made where none is given and others than this
            machine can connect.
        random_weights: the page then says that its colours mean nothing.
        width: pixels; the page gets nothing wider. Recordings have the frames' own size.
        opacity, legend: of the overlay in recordings and in ``/stream.mjpg``.

    Raises:
        InputError: an address, a token or a number of colours that cannot be used.
        OutputError: the address cannot be listened on.

    Attributes:
        url: to open in a browser; holds the token, if there is one.
        port: that it listens on.
        token: that it asks for, or None.
    """

    def __init__(
        self,
        bind: Bind | str,
        *,
        names: Sequence[str],
        class_names: Sequence[str],
        palette: Sequence[Colour],
        stats: Callable[[], Sequence[StreamStats]] | None = None,
        recordings: Path | None = Path("recordings"),
        token: str | None = None,
        random_weights: bool = False,
        width: int = WIDTH,
        opacity: float = 0.5,
        legend: bool = True,
    ) -> None:
        bind = parse_bind(bind) if isinstance(bind, str) else bind
        _check(names, class_names, palette, width)
        overlay = partial(Overlay, palette, class_names, legend=legend, borders=True)
        drawn = overlay()  # the encoder thread's own
        self._encoder = Encoder(
            {
                "page": lambda shown: page_message(shown, width),
                "mjpeg": lambda shown: mjpeg_part(shown, drawn, width, opacity),
            }
        )
        self._site = Site(
            names=tuple(names),
            channels=[Channel(self._encoder.wake) for _ in names],
            recorders=[Recorder(one, recordings, overlay, opacity) for one in file_stems(names)],
            info=_info(names, class_names, palette, random_weights, recordings),
            stats=stats or list,
            recordings=recordings,
        )
        token = None if token is None else check_token(token)
        self._server = ViewServer(bind, self._site)
        host = str(self._server.server_address[0])
        self.port = int(self._server.server_port)
        self.token = token if token or is_loopback(host) else new_token()
        self._site.access = Access(self.token, host, self.port)
        ending = f"?token={self.token}" if self.token else ""
        self.url = f"http://{in_url(reachable_host(host))}:{self.port}/{ending}"
        self._closed = False
        self._encoder.start(self._site.channels)
        self._server.start()

    def offer(self, shown: Shown) -> None:
        """Keep the newest frame of its stream; neither copies, encodes nor waits."""
        self._site.channels[shown.stream].offer(shown)
        self._site.recorders[shown.stream].offer(shown)

    @property
    def encodings(self) -> tuple[int, ...]:
        """Frames encoded for the page so far, of each stream."""
        return tuple(channel.lanes["page"].encodings for channel in self._site.channels)

    @property
    def drawings(self) -> tuple[int, ...]:
        """Frames drawn and encoded for MJPEG so far, of each stream."""
        return tuple(channel.lanes["mjpeg"].encodings for channel in self._site.channels)

    @property
    def viewers(self) -> int:
        """Who is looking just now, at all streams together."""
        return self._site.viewers

    def close(self) -> None:
        """End all viewers and finish recordings, within a second; safe to call twice.

        A recording that a slow disk holds up is waited for longer, rather than lost.
        """
        if self._closed:
            return
        self._closed = True
        now = time.monotonic()
        self._site.closing.set()
        for recorder in self._site.recorders:
            recorder.close(now)  # tell them all first
        for channel in self._site.channels:
            for lane in channel.lanes.values():
                lane.close()
        self._server.close(now + _END_S)
        self._encoder.close(max(0.0, now + _END_S - time.monotonic()))
        for recorder in self._site.recorders:
            recorder.close(now + _FINISH_S)

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check(
    names: Sequence[str], class_names: Sequence[str], palette: Sequence[Colour], width: int
) -> None:
    if not names:
        raise InputError("a page without sources", "at least one name")
    if len(palette) != len(class_names):
        raise InputError(
            f"{len(palette)} colours for {len(class_names)} classes", "one colour per class"
        )
    if width < 16:
        raise InputError(f"a page {width} pixels wide", "at least 16")


def _info(
    names: Sequence[str],
    class_names: Sequence[str],
    palette: Sequence[Colour],
    random_weights: bool,
    recordings: Path | None,
) -> dict[str, object]:
    return {
        "version": __version__,
        "sources": list(names),
        "classes": list(class_names),
        "palette": [[int(value) for value in colour] for colour in palette],
        "random_weights": random_weights,
        "recording": recordings is not None,
    }
