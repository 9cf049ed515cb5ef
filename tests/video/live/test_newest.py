"""The place for one frame."""

from __future__ import annotations

import threading

from segformer_deploy.video.live.newest import Newest


def test_what_is_put_is_taken_once() -> None:
    place: Newest[int] = Newest()
    assert (place.full, place.peek(), place.take()) == (False, None, None)
    assert not place.put(1)
    assert (place.full, place.peek()) == (True, 1)
    assert place.full  # peeking leaves it there
    assert place.take() == 1
    assert (place.full, place.take()) == (False, None)


def test_a_newer_one_takes_the_place() -> None:
    place: Newest[int] = Newest()
    assert [place.put(n) for n in range(4)] == [False, True, True, True]
    assert place.take() == 3
    assert not place.put(4)


def test_it_rings_when_the_item_is_there() -> None:
    heard: list[object] = []
    place: Newest[int] = Newest(lambda: heard.append(place.peek()))
    place.put(1)
    place.put(2)
    place.take()
    assert heard == [1, 2]


def test_nothing_is_lost_between_threads() -> None:
    place: Newest[int] = Newest()
    most = 5000
    replaced: list[int] = []
    over = threading.Event()

    def put() -> None:
        for n in range(most):
            if place.put(n):
                replaced.append(n)
        over.set()

    thread = threading.Thread(target=put)
    thread.start()
    taken = []
    while True:
        last = over.is_set()
        item = place.take()
        if item is not None:
            taken.append(item)
        elif last:
            break
    thread.join()
    assert taken == sorted(set(taken))
    assert taken[-1] == most - 1
    assert len(taken) + len(replaced) == most
