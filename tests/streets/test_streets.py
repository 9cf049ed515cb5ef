"""The street generator: same seed, same bytes; labels that fit; enough of every class."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.errors import FrameError
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import CLASS_NAMES, PALETTE, Scene, StreetVideo, street_frame

SMALL = FrameSize(96, 128)
SQUARE = FrameSize(192, 192)
RUN = """
import hashlib, sys, cv2
cv2.setNumThreads(int(sys.argv[1]))
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import Scene, street_frame
digest = hashlib.sha256()
for seed in (7, 4, 2):
    frames = street_frame(seed, FrameSize(192, 192)), Scene(seed).frame(FrameSize(96, 128), 3.5)
    for array in (*frames[0], *frames[1]):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def _digest_here() -> str:
    digest = hashlib.sha256()
    for seed in (7, 4, 2):
        for array in (*street_frame(seed, SQUARE), *Scene(seed).frame(SMALL, 3.5)):
            digest.update(array.tobytes())
    return digest.hexdigest()


def test_other_processes_and_thread_counts_give_the_same_bytes() -> None:
    def digest_with(threads: int) -> str:
        command = [sys.executable, "-c", RUN, str(threads)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert digest_with(1) == digest_with(4) == _digest_here()


def test_a_frame_does_not_depend_on_the_frames_before_it() -> None:
    driven = Scene(11)
    for number in range(4):
        driven.frame(SMALL, number * 0.5)
    for ours, fresh in zip(driven.frame(SMALL, 2.0), Scene(11).frame(SMALL, 2.0), strict=True):
        assert np.array_equal(ours, fresh)


def test_two_seeds_differ_in_picture_and_label() -> None:
    (image_a, label_a), (image_b, label_b) = street_frame(1, SQUARE), street_frame(2, SQUARE)
    assert np.mean(image_a != image_b) > 0.5
    assert np.mean(label_a != label_b) > 0.02


@given(
    seed=st.integers(-(2**40), 2**63 - 1),
    height=st.integers(32, 200),
    width=st.integers(32, 260),
)
@settings(max_examples=25)
def test_any_seed_and_size_gives_a_picture_and_labels_of_the_eleven_classes(
    seed: int, height: int, width: int
) -> None:
    image, label = street_frame(seed, FrameSize(height, width))
    assert image.shape == (height, width, 3)
    assert label.shape == (height, width)
    assert image.dtype == label.dtype == np.uint8
    assert int(label.max()) < len(CLASS_NAMES)
    assert image.flags.c_contiguous
    assert label.flags.c_contiguous


def test_full_hd_and_upright_frames() -> None:
    for size in (FrameSize(1080, 1920), FrameSize(640, 360)):
        image, label = street_frame(5, size)
        assert image.shape[:2] == label.shape == (size.height, size.width)
        assert len(np.unique(label)) >= 5


def test_a_frame_below_32_pixels_is_refused() -> None:
    with pytest.raises(FrameError, match="at least 32"):
        Scene(0).frame(FrameSize(31, 64), 0.0)


def test_names_and_colours() -> None:
    assert len(CLASS_NAMES) == len(PALETTE) == len(set(PALETTE)) == 11
    assert CLASS_NAMES[0] == "sky"
    assert CLASS_NAMES[10] == "bicyclist"


def test_every_class_is_common_enough() -> None:
    counts = np.zeros(len(CLASS_NAMES))
    frames_with = np.zeros(len(CLASS_NAMES))
    for seed in range(50):
        label = street_frame(3000 + seed, SQUARE)[1]
        here = np.bincount(label.ravel(), minlength=len(CLASS_NAMES))
        counts += here
        frames_with += here > label.size // 1000
    shares = dict(zip(CLASS_NAMES, counts / counts.sum(), strict=True))
    assert min(shares.values()) > 0.008, shares
    assert max(shares.values()) < 0.45, shares
    assert frames_with.min() >= 25, dict(zip(CLASS_NAMES, frames_with, strict=True))


def test_a_plain_picture_is_its_label_in_palette_colours() -> None:
    bgr = np.array(PALETTE, np.uint8)[:, ::-1]
    for seed in range(8):
        image, label = street_frame(seed, SQUARE, plain=True)
        assert np.array_equal(image, bgr[label])


def test_plain_and_finished_frames_have_the_same_label() -> None:
    for seed in range(8):
        assert np.array_equal(
            street_frame(seed, SQUARE)[1], street_frame(seed, SQUARE, plain=True)[1]
        )


def test_finished_pictures_change_where_their_labels_do() -> None:
    """The picture's steps lie on the label's borders, and not two pixels beside them."""
    at_border = dict.fromkeys((-2, 0, 2), 0.0)
    for seed in range(20):
        image, label = street_frame(500 + seed, FrameSize(320, 320))
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.int32)
        step = np.abs(np.diff(grey, axis=1))
        border = label[:, 1:] != label[:, :-1]
        # Only lone borders: thin things have their other border two pixels further on.
        crowd = cv2.blur(border.astype(np.float32), (7, 1))
        lone = border & (crowd < 1.5 / 7)
        for shift in at_border:
            moved = np.roll(lone, shift, axis=1)
            at_border[shift] += float(step[moved].mean())
    assert at_border[0] > 2 * at_border[-2]
    assert at_border[0] > 2 * at_border[2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_consecutive_frames_of_a_video_overlap_and_the_drive_moves(seed: int) -> None:
    frames = list(itertools.islice(StreetVideo(seed, SQUARE, fps=25), 25))
    pairs = itertools.pairwise(label for _, label in frames)
    assert min(np.mean(a == b) for a, b in pairs) > 0.8
    assert np.mean(frames[0][1] != frames[-1][1]) > 0.05
    brightness = [float(image.mean()) for image, _ in frames]
    assert max(brightness) - min(brightness) < 25


def test_a_video_starts_anew_each_time() -> None:
    video = StreetVideo(3, SMALL, fps=10)
    for first, again in zip(next(iter(video)), next(iter(video)), strict=True):
        assert np.array_equal(first, again)


def test_one_colour_does_not_tell_the_class() -> None:
    """A table from colour to class, fitted on other scenes, stays far below a network."""
    size = FrameSize(96, 96)

    def counts(seeds: range) -> np.ndarray:
        table = np.zeros((16**3, 11))
        for seed in seeds:
            image, label = street_frame(seed, size)
            blue, green, red = (image[..., i].astype(np.int64) >> 4 for i in range(3))
            np.add.at(table, ((blue * 256 + green * 16 + red).ravel(), label.ravel()), 1)
        return table

    guess = counts(range(60)).argmax(axis=1)
    tested = counts(range(1000, 1020))
    confusion = np.array(
        [np.bincount(guess, weights=tested[:, c], minlength=11) for c in range(11)]
    )
    hit = np.diag(confusion)
    iou = hit / (confusion.sum(axis=0) + confusion.sum(axis=1) - hit)
    assert iou.mean() < 0.4


@pytest.mark.slow
def test_thirty_frames_per_second_on_one_core() -> None:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        size = FrameSize(320, 320)
        video = iter(StreetVideo(3, size))
        next(video)
        start = time.process_time()
        for _ in range(60):
            next(video)
        # A laptop core reaches 35; the bound leaves room for machines that do other work too.
        assert 60 / (time.process_time() - start) > 15
    finally:
        cv2.setNumThreads(threads)
