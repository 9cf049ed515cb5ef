"""Cut anywhere, the parts of a video give the frames that the whole file gives, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.batch.plan import Plan, _Packet, cut, plan_video
from segformer_deploy.errors import MediaError, SpecError
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.video_file import VideoFile
from segformer_deploy.video.video_part import Part, UnevenPartError, VideoPart
from tests.batch.films import FILMS, film, irregular_times, optional_films

ALL = {**FILMS, **optional_films()}
NEVER_CUT = {"no container", "one frame"}


def frames_of(source: VideoFile) -> list[Frame]:
    with source:
        return list(source)


def same(one: Frame, other: Frame) -> bool:
    facts = [
        (f.index, f.name, f.pts, f.time_base, f.duration, f.time_s, f.size) for f in (one, other)
    ]
    return facts[0] == facts[1] and np.array_equal(one.image, other.image)


@pytest.mark.parametrize("name", ALL)
def test_the_parts_frames_are_the_files(name: str, tmp_path: Path) -> None:
    path = ALL[name](tmp_path)
    whole = frames_of(VideoFile(path))
    for seconds in (0.01, 0.5, 1.0):
        plan = plan_video(path, seconds)
        assert Plan.from_dict(plan.to_dict()) == plan
        found: list[Frame] = []
        for part in plan.parts:
            found += frames_of(VideoPart(path, part))
        if not plan.parts:
            found = frames_of(VideoFile(path))
        assert len(found) == len(whole)
        assert all(map(same, found, whole))
        assert plan.frames in (0, len(whole))
        if name not in NEVER_CUT and seconds == 0.01:
            assert plan.chunks > 1, plan.note
    if name in NEVER_CUT:
        assert plan.chunks == 1
    if name == "no container":
        assert "not cut into chunks" in plan.note


@settings(max_examples=12)
@given(
    gop=st.integers(1, 20),
    bframes=st.integers(0, 5),
    open_gop=st.booleans(),
    refs=st.integers(1, 4),
    regular=st.booleans(),
    ending=st.sampled_from([".mp4", ".mkv", ".mov", ".ts"]),
    seconds=st.floats(0.01, 3),
)
def test_whatever_the_encoder_was_told(
    tmp_path_factory: pytest.TempPathFactory,
    gop: int,
    bframes: int,
    open_gop: bool,
    refs: int,
    regular: bool,
    ending: str,
    seconds: float,
) -> None:
    params = f"keyint={gop}:bframes={bframes}:open-gop={int(open_gop)}:ref={refs}"
    path = film(
        tmp_path_factory.mktemp("film") / f"film{ending}",
        40,
        options={"x264-params": params},
        pts=None if regular else irregular_times(40),
    )
    whole, plan = frames_of(VideoFile(path)), plan_video(path, seconds)
    parts = [frames_of(VideoPart(path, part)) for part in plan.parts] or [whole]
    found = [frame for part in parts for frame in part]
    assert len(found) == len(whole)
    assert all(map(same, found, whole))
    base = Fraction(whole[0].time_base or 1)
    for before, after in zip(plan.parts, plan.parts[1:], strict=False):
        assert after.first == before.first + before.count
        assert after.start is not None
        if before.start is not None:
            assert (after.start - before.start) * base >= seconds


def test_one_key_frame_more_is_needed(tmp_path: Path) -> None:
    """Decoded from its own key frame a part comes out otherwise: the rule is no mere caution."""
    path = FILMS["a picture that is refreshed by columns"](tmp_path)
    whole, plan = frames_of(VideoFile(path)), plan_video(path, 0.01)
    wrong = 0
    for part in plan.parts[2:]:
        assert part.start is not None
        with VideoFile(path) as video:
            own = [p for p in video.packets() if p.pts == part.start]
            bare = replace(part, key=(part.start, own[0].dts))
        try:
            frames = frames_of(VideoPart(path, bare))
        except (UnevenPartError, MediaError):
            wrong += 1
            continue
        wrong += not all(map(same, frames, whole[part.first :]))
    assert wrong


def test_a_seek_that_leads_nowhere_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "film.mp4")
    part = plan_video(path, 0.5).parts[-1]
    right = frames_of(VideoPart(path, part))
    asked = []

    def nowhere(self: VideoPart, pts: int, dts: int | None) -> None:
        asked.append(pts)

    monkeypatch.setattr(VideoPart, "_sought", nowhere)
    again = frames_of(VideoPart(path, part))
    assert asked
    assert len(right) == len(again) == part.count
    assert all(map(same, right, again))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda part: replace(part, count=part.count + 1),
        lambda part: replace(part, count=part.count - 1),
        lambda part: replace(part, key=(part.key[0] + 1, part.key[1])),
    ],
)
def test_a_part_that_does_not_keep_its_promise(
    spoil: Callable[[Part], Part], tmp_path: Path
) -> None:
    path = film(tmp_path / "film.mp4")
    part = plan_video(path, 0.5).parts[-1]
    with pytest.raises(UnevenPartError, match="cannot be cut at frames"):
        frames_of(VideoPart(path, spoil(part)))


def test_damage_inside_a_part_is_not_passed_over(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    plan = plan_video(path, 0.5)
    with VideoFile(path) as video:
        packets = [(p.pts, p.pos, p.size) for p in video.packets() if p.size]
    part = plan.parts[1]
    assert part.start is not None
    _, place, size = next(one for one in packets if one[0] == part.start)
    data = bytearray(path.read_bytes())
    data[place + 5 : place + size] = b"\xff" * (size - 5)
    path.write_bytes(bytes(data))
    with pytest.raises(MediaError):
        frames_of(VideoPart(path, part))


def test_a_file_that_is_cut_off_stays_whole(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv")
    path.write_bytes(path.read_bytes()[:-4000])
    plan = plan_video(path, 0.1)
    assert plan.chunks == 1
    assert "cut off" in plan.note


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    for name, words in {
        "empty.mp4": "empty",
        "noise.mp4": "cannot be read",
        "absent.mp4": "No such file",
    }.items():
        with pytest.raises(MediaError, match=words) as caught:
            plan_video(tmp_path / name, 1)
        assert name in str(caught.value)


packets_of_films = st.lists(st.integers(1, 9), min_size=1, max_size=30).flatmap(
    lambda steps: st.tuples(
        st.just(steps), st.lists(st.booleans(), min_size=len(steps), max_size=len(steps))
    )
)


@given(packets_of_films, st.floats(0.01, 20))
def test_the_chunks_hold_each_frame_once(
    film_of: tuple[list[int], list[bool]], seconds: float
) -> None:
    steps, keys = film_of
    times = np.cumsum(steps).tolist()
    packets = [
        _Packet(time, time, key or number == 0)
        for number, (time, key) in enumerate(zip(times, keys, strict=True))
    ]
    parts = cut(packets, Fraction(1), seconds)
    assert [part.first for part in parts] == np.cumsum([0, *(p.count for p in parts)]).tolist()[:-1]
    assert sum(part.count for part in parts) == len(packets)
    assert parts[0].start is None
    assert parts[-1].end is None
    for part in parts:
        inside = [
            time
            for time in times
            if (part.start is None or time >= part.start) and (part.end is None or time < part.end)
        ]
        assert inside == times[part.first : part.first + part.count]
        if part.key is not None:
            assert part.start is not None
            assert part.key[0] < part.start


@pytest.mark.parametrize("spoil", [{"parts": 3}, {"stamp": [1]}, {"size": "x"}, {"note": None}])
def test_a_plan_that_does_not_read(spoil: dict[str, Any], tmp_path: Path) -> None:
    good = plan_video(film(tmp_path / "film.mp4"), 1).to_dict()
    if spoil == {"note": None}:
        del good["note"]
    else:
        good.update(spoil)
    with pytest.raises(SpecError):
        Plan.from_dict(good)
