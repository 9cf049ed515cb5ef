"""Class shares as JSON lines, read back with the standard library."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.errors import OutputError
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.json_sink import JsonLinesSink
from segformer_deploy.video.overlay import class_shares

ROOT = str(Path(__file__).parents[2])
NAMES = ("road", "sky", "Straße")
MAP = np.array([[2, 2, 2, 0], [2, 0, 2, 0]], np.uint8)


def frame(index: int, captured_s: float | None = None) -> Frame:
    image = np.zeros((2, 4, 3), np.uint8)
    return Frame(image, index, index / 25, f"{index:06}", captured_s=captured_s)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_says_what_a_frame_shows(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    with JsonLinesSink(path, NAMES, "camera:0") as sink:
        sink.write(frame(7, 12.25), MAP, class_shares(MAP, 3), 31.41592)
        # Already there, for who reads along.
        assert lines(path) == [
            {
                "source": "camera:0",
                "index": 7,
                "time_s": 0.28,
                "captured_s": 12.25,
                "size": "2x4",
                "latency_ms": 31.416,
                "shares": {"Straße": 0.625, "road": 0.375},
            }
        ]
        assert list(lines(path)[0]["shares"]) == ["Straße", "road"]  # the largest first
        sink.write(frame(8), MAP, class_shares(MAP, 3), None, source="camera:1")
    second = lines(path)[1]
    assert (second["source"], second["captured_s"], second["latency_ms"]) == (
        "camera:1",
        None,
        None,
    )


def test_a_still_has_no_time_and_a_class_may_have_no_name(tmp_path: Path) -> None:
    still = Frame(np.zeros((2, 4, 3), np.uint8), 0, None, "a.png")
    for names, expected in [(None, "class 2"), (("road",), "class 2"), (NAMES, "Straße")]:
        with JsonLinesSink(tmp_path / "log", names) as sink:
            sink.write(still, MAP, class_shares(MAP, 256), None)
        assert lines(tmp_path / "log")[0]["time_s"] is None
        assert next(iter(lines(tmp_path / "log")[0]["shares"])) == expected


def test_an_older_log_is_replaced_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for index, append in [(0, False), (1, True), (2, False)]:
        with JsonLinesSink(path, NAMES, append=append) as sink:
            sink.write(frame(index), MAP, class_shares(MAP, 3), 1.0)
        assert [line["index"] for line in lines(path)] == {0: [0], 1: [0, 1], 2: [2]}[index]


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    shares = class_shares(MAP, 3)
    with JsonLinesSink(tmp_path / "log", NAMES) as sink:

        def work(name: str) -> None:
            for index in range(200):
                sink.write(frame(index), MAP, shares, 1.0, source=name)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = lines(tmp_path / "log")
    for name in "abc":
        assert [one["index"] for one in found if one["source"] == name] == list(range(200))


def test_closing_twice_and_writing_then(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "log", NAMES)
    sink.close()
    sink.close()
    with pytest.raises(OutputError, match="closed already"):
        sink.write(frame(0), MAP, class_shares(MAP, 3), None)


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        JsonLinesSink(tmp_path / "file" / "log", NAMES)
    with pytest.raises(OutputError, match="Is a directory"):
        JsonLinesSink(tmp_path, NAMES)


SCRIPT = """
    import resource, signal, sys
    import numpy as np
    sys.path.insert(0, {root!r})
    from segformer_deploy.errors import OutputError
    from segformer_deploy.video.frame import Frame
    from segformer_deploy.video.json_sink import JsonLinesSink

    output, limit, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print("before")
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with an error code
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    class_map = np.zeros((2, 4), np.uint8)
    frame = Frame(np.zeros((2, 4, 3), np.uint8), 0, None, "a")
    try:
        with JsonLinesSink(output, ["road"]) as sink:
            for _ in range(count):
                sink.write(frame, class_map, np.ones(1), 1.0)
    except OutputError as error:
        print(error, file=sys.stderr)
        sys.exit(7)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    script = textwrap.dedent(SCRIPT).format(root=ROOT)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_standard_output() -> None:
    out, err = start("-", "0", "3").communicate()
    first, *rest = out.splitlines()
    assert (first, err) == ("before", "")
    assert [json.loads(line)["shares"] for line in rest] == [{"road": 1.0}] * 3


def test_a_reader_who_leaves() -> None:
    process = start("-", "0", "100000")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert "nobody reads standard output any more" in process.stderr.read()
    assert process.wait() == 7


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    process = start(str(tmp_path / "log"), "1000", "100")
    _, err = process.communicate()
    assert process.returncode == 7
    assert f"cannot write {tmp_path / 'log'}: File too large" in err
    assert 5 < len(lines(tmp_path / "log")) < 20


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_from_the_start() -> None:
    with JsonLinesSink("/dev/full", NAMES) as sink:
        with pytest.raises(OutputError, match="No space left") as caught:
            sink.write(frame(0), MAP, class_shares(MAP, 3), None)
    assert "free some space" in caught.value.next_step
