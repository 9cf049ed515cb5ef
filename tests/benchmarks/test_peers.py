"""The peers' measurement: its arithmetic, its pipe protocol and its turns, with a fake peer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import acceptance  # noqa: E402
import peers  # noqa: E402
from peers_runners import compare, parent, prepare, report  # noqa: E402
from peers_runners.child import Job  # noqa: E402
from peers_runners.options import PEERS, read_options  # noqa: E402

from segformer_deploy.errors import MissingDependencyError, SegdeployError  # noqa: E402

# A peer without a network: sleeps for its frame, prints where it must not, may die or spin.
FAKE = """
import sys, threading, time
import numpy as np
from peers_runners.child import serve

MODE, MS = sys.argv.pop(1), float(sys.argv.pop(1))

class Fake:
    versions = {"fake": "1"}
    note = MODE

    def __init__(self, job):
        print("a library that prints to stdout")
        self.frame = np.load(job.frame)
        self.calls = 0
        if MODE == "spin":
            def spin():
                while True:
                    pass
            threading.Thread(target=spin, daemon=True).start()

    def segment(self):
        self.calls += 1
        if MODE == "die" and self.calls == 2:
            raise RuntimeError("out of luck")
        print("and prints again")
        time.sleep(MS / 1e3)
        return self.frame[..., 0], {"preprocess": 0.0, "infer": MS, "class_map": 0.0}

    def logits(self):
        return None if MODE == "no-logits" else np.moveaxis(self.frame, 2, 0)

serve(Fake)
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    frame = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    np.save(tmp_path / "frame.npy", frame)
    nothing = tmp_path / "nothing"
    Job(nothing, tmp_path / "frame.npy", nothing, nothing, nothing, 1, (64, 64)).write(
        tmp_path / "job.json"
    )
    (tmp_path / "fake.py").write_text(FAKE)
    return tmp_path / "job.json"


def fake_child(job: Path, mode: str = "calm", ms: float = 2.0) -> parent.Child:
    script = str(job.parent / "fake.py")
    command = [sys.executable, script, mode, str(ms), "--job", str(job)]
    return parent.Child(f"fake {mode}", command, job.parent / f"{mode}.log", threads=1)


class TestProtocol:
    def test_a_frame_is_timed_and_split_although_libraries_print(self, job: Path) -> None:
        with fake_child(job, ms=15.0) as child:
            assert child.hello == {"ready": True, "versions": {"fake": "1"}, "note": "calm"}
            answer = child.ask(op="go")
        assert 15.0 <= answer["ms"] < 500
        assert answer["stages"] == {"preprocess": 0.0, "infer": 15.0, "class_map": 0.0}

    def test_class_map_and_logits_come_back_bit_for_bit(self, job: Path) -> None:
        frame = np.load(job.parent / "frame.npy")
        with fake_child(job) as child:
            child.ask(op="go")
            saved = child.ask(op="save", folder=str(job.parent / "answers"))
        np.testing.assert_array_equal(np.load(saved["class_map"]), frame[..., 0])
        np.testing.assert_array_equal(np.load(saved["logits"]), np.moveaxis(frame, 2, 0))

    def test_a_peer_without_logits_says_so(self, job: Path) -> None:
        with fake_child(job, "no-logits") as child:
            child.ask(op="go")
            assert child.ask(op="save", folder=str(job.parent / "answers"))["logits"] is None

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
    def test_peak_memory_is_the_childs_own(self, job: Path) -> None:
        block = np.ones(200_000_000, np.uint8)  # the parent's: must not count
        with fake_child(job) as child:
            peak = child.ask(op="memory")["peak_mb"]
        assert 5 < peak < 150
        assert block[-1] == 1

    def test_a_child_that_dies_is_named_with_its_last_words(self, job: Path) -> None:
        with fake_child(job, "die") as child:
            child.ask(op="go")
            with pytest.raises(SegdeployError, match=r"'fake die' ended: .*out of luck") as caught:
                child.ask(op="go")
        assert "die.log" in caught.value.next_step

    def test_a_child_that_never_starts_is_named(self, job: Path) -> None:
        command = [sys.executable, "-c", "raise SystemExit('no such library')"]
        with pytest.raises(SegdeployError, match="no such library"):
            parent.Child("broken", command, job.parent / "log", threads=1)

    def test_children_end_with_the_parent(self, job: Path) -> None:
        child = fake_child(job)
        child.close()
        child.close()
        assert child._process.returncode == 0


class RecordingChild:
    """Answers at once and writes down whose turn it was."""

    def __init__(self, letter: str, turns: list[str]) -> None:
        self.letter, self.turns, self.frames = letter, turns, 0

    def ask(self, op: str) -> dict[str, Any]:
        assert op == "go"
        self.turns.append(self.letter)
        self.frames += 1
        return {"ms": float(self.frames), "stages": {"infer": 1.0}}

    def cpu_seconds(self) -> None:
        return None


class TestTurns:
    @given(count=st.integers(1, 6), rounds=st.integers(1, 30))
    def test_everyone_once_a_round_and_in_every_place_equally_often(
        self, count: int, rounds: int
    ) -> None:
        letters = "abcdef"[:count]
        orders = parent.turn_orders(letters, rounds)
        assert len(orders) == rounds
        assert all(sorted(order) == sorted(letters) for order in orders)
        for letter in letters:
            places = [order.index(letter) for order in orders]
            times = [places.count(place) for place in range(count)]
            assert max(times) - min(times) <= 1

    def test_warm_up_rounds_are_thrown_away(self) -> None:
        turns: list[str] = []
        children = {letter: RecordingChild(letter, turns) for letter in "ae"}
        samples = parent.take_turns(children, rounds=3, warm_up=2, pause_s=0.0)
        assert turns == list("aeeaaeeaae")
        assert samples["a"].ms == samples["e"].ms == [3.0, 4.0, 5.0]

    @pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs schedstat")
    def test_a_child_that_spins_while_others_work_is_found_out(self, job: Path) -> None:
        with fake_child(job) as calm, fake_child(job, "spin") as spinning:
            children = {"a": calm, "e": spinning}
            samples = parent.take_turns(children, rounds=4, warm_up=1, pause_s=0.02)
        assert samples["e"].idle_share > 0.2
        assert samples["a"].idle_share < 0.1


class TestStatistics:
    def test_percentiles_interpolate(self) -> None:
        # Ten numbers 1..10: the p-th percentile lies at 1 + 9p.
        found = compare.spread(list(range(10, 0, -1)))
        assert (found.median, found.p10, found.p90) == pytest.approx((5.5, 1.9, 9.1))

    @given(
        ours=st.lists(st.floats(1, 100), min_size=1, max_size=20),
        ratio=st.floats(0.1, 10),
    )
    def test_a_disturbance_of_a_whole_round_drops_out(
        self, ours: list[float], ratio: float
    ) -> None:
        found = compare.ratio_per_round([ratio * ms for ms in ours], ours)
        assert [found.p10, found.median, found.p90] == pytest.approx([ratio] * 3)

    def test_ratio_is_not_the_ratio_of_medians(self) -> None:
        # Per round 4, 1, 1; the medians 4 and 2 would say 2.
        assert compare.ratio_per_round([4, 2, 8], [1, 2, 8]).median == 1
        with pytest.raises(ValueError, match="2 rounds of the peer, 1 of ours"):
            compare.ratio_per_round([1, 2], [1])

    def test_border_share_counts_neighbours(self) -> None:
        # Across: 1 of 3 pairs differs per row; down: none of 4.
        assert compare.border_share(np.array([[0, 0, 1, 1]] * 2)) == pytest.approx(2 / 10)

    def test_network_share_is_per_frame(self) -> None:
        stages = [{"infer": 1.0}, {"infer": 4.0}, {"infer": 3.0}]
        assert compare.infer_share(stages, [2.0, 5.0, 4.0]) == pytest.approx(0.75)


class TestAgreement:
    def test_differences_within_twice_the_logit_difference_are_exempt(self) -> None:
        reference = np.array([[[1.0, 1.0, 1.0]], [[0.9, 0.5, 1.0]]], np.float32)
        peer = reference.copy()
        peer[1] += 0.06
        peer[0] -= 0.06
        found = compare.compare_maps(reference.argmax(0), peer.argmax(0), reference, peer)
        # Margins .1, .5, 0 against 2 x .06: the first and last pixel may differ, and do.
        assert found.largest_logit_difference == pytest.approx(0.06, rel=1e-5)
        assert found.identical == pytest.approx(1 / 3)
        assert found.exempt == pytest.approx(2 / 3)
        assert found.violations == 0

    def test_a_pixel_wrong_by_more_is_a_violation(self) -> None:
        reference = np.array([[[1.0, 1.0]], [[0.5, 0.0]]], np.float32)
        wrong = np.array([[1, 0]])
        found = compare.compare_maps(reference.argmax(0), wrong, reference, reference)
        assert found.violations == 1
        assert found.exempt == 0

    def test_without_logits_only_the_share_is_known(self) -> None:
        found = compare.compare_maps(np.array([[0, 1]]), np.array([[0, 0]]))
        assert found == compare.Agreement(0.5)
        with pytest.raises(ValueError, match="class maps of"):
            compare.compare_maps(np.zeros((2, 2)), np.zeros((2, 3)))

    @settings(max_examples=60, deadline=None)
    @given(
        reference=hnp.arrays(
            np.float32, (4, 3, 3), elements=st.floats(-8, 8, width=32, allow_subnormal=False)
        ),
        noise=hnp.arrays(np.float32, (4, 3, 3), elements=st.floats(-1, 1, width=32)),
    )
    def test_logits_that_are_merely_close_never_violate(self, reference: Any, noise: Any) -> None:
        peer = reference + noise
        found = compare.compare_maps(reference.argmax(0), peer.argmax(0), reference, peer)
        assert found.violations == 0
        assert found.exempt is not None
        assert 1 - found.identical <= found.exempt + 1e-12


class TestReport:
    def result(self, letter: str, ms: list[float], ours: list[float]) -> dict[str, Any]:
        peer = next(peer for peer in PEERS if peer.letter == letter)
        stages = [{"preprocess": 0.1 * m, "infer": 0.6 * m, "class_map": 0.3 * m} for m in ms]
        samples = {letter: parent.Samples(ms, stages, idle_cpu_s=0.5, idle_wall_s=10)}
        samples["e"] = samples.get("e") or parent.Samples(ours, stages)
        agreement = compare.Agreement(0.9999, 1e-5, 2e-5, 0.001, 3)
        if letter == "e":
            samples["e"] = parent.Samples(ours, stages)
        return peers.summary(peer, samples, 512.4, agreement)

    def test_the_table_shows_ratio_share_memory_and_agreement(self) -> None:
        results = [self.result("a", [300.0, 330.0], [100.0, 100.0])]
        row = report.table(results).splitlines()[1]
        for part in ("315.0 ms", "3.15 (3.03..3.27)", "60 %", "512 MB", "99.9900", "0.100 %", " 3"):
            assert part in row

    def test_what_makes_the_figures_doubtful_is_said(self) -> None:
        warnings = peers.warnings_of([self.result("a", [300.0], [100.0])])
        assert any("5.0 % of a core" in warning for warning in warnings)
        assert any("3 pixels that rounding does not explain" in warning for warning in warnings)
        assert peers.warnings_of([self.result("e", [100.0], [100.0])]) != warnings

    def test_the_chart_is_a_picture(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        task = {"frame": [4, 6], "network": [64, 64], "classes": 2, "threads": 1}
        results = [self.result(letter, [300.0], [100.0]) for letter in "ae"]
        report.chart({"task": task, "results": results}, tmp_path / "chart.png")
        assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")

    def test_machine_facts_are_json(self) -> None:
        facts = json.loads(json.dumps(report.machine_facts()))
        assert facts["cores"] >= 1
        assert facts["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")


class TestCommand:
    def test_a_missing_library_names_the_extra(self) -> None:
        absent = parent.Peer("x", "a peer", "x", ("no_such_module_here",))
        with pytest.raises(MissingDependencyError) as caught:
            peers.check_installed([absent])
        # What comes first depends on what is installed; the advice does not.
        assert caught.value.next_step == 'pip install "segformer-deploy[peers]"'

    def test_every_runner_exists(self) -> None:
        for peer in PEERS:
            source = BENCHMARKS / "peers_runners" / f"{peer.module}.py"
            assert "serve(" in source.read_text(encoding="utf-8")

    def test_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        options = read_options(["--only", "a,e", "--network", "256x512"], "")
        assert options.only == ["a", "e"]
        assert options.network == [256, 512]
        for wrong in (["--only", "a,z"], ["--frame", "480"], ["--rounds", "0"]):
            with pytest.raises(SystemExit) as caught:
                read_options(wrong, "")
            assert caught.value.code == 2
        assert "HEIGHTxWIDTH" in capsys.readouterr().err

    def test_help_runs_as_a_script(self) -> None:
        command = [sys.executable, str(BENCHMARKS / "peers.py"), "--help"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0
        assert "segformer-deploy" in done.stdout


class TestFrame:
    def test_the_frame_is_the_same_each_time_and_not_noise(self) -> None:
        begin = time.perf_counter()
        frame = prepare.street_frame(96, 128)
        np.testing.assert_array_equal(frame, prepare.street_frame(96, 128))
        assert frame.shape == (96, 128, 3)
        assert frame.dtype == np.uint8
        # Neighbours resemble each other (noise of full range would differ by 85 on average) ...
        steps = np.abs(np.diff(frame.astype(int), axis=1))
        assert steps.mean() < 20
        # ... but there are edges.
        assert (steps.max(axis=2) > 60).mean() > 0.01
        assert time.perf_counter() - begin < 5


class TestAcceptance:
    def test_confusion_and_scores_against_counting_by_hand(self) -> None:
        label = np.array([[0, 0, 1, 255], [1, 2, 2, 3]])
        found = np.array([[0, 1, 1, 0], [1, 2, 0, 1]])
        matrix = acceptance.confusion(label, found, 3)
        np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 2, 0], [1, 0, 1]])
        scores = acceptance.scores(matrix)
        # Class 0: hit 1 of 3 in the union; class 1: 2 of 3; class 2: 1 of 2.
        assert scores["per_class_iou"] == pytest.approx([100 / 3, 200 / 3, 50])
        assert scores["miou"] == pytest.approx(50)
        assert scores["pixel_accuracy"] == pytest.approx(100 * 4 / 6)

    def test_a_class_that_is_nowhere_has_no_iou(self) -> None:
        scores = acceptance.scores(acceptance.confusion(np.zeros((2, 2)), np.zeros((2, 2)), 2))
        assert scores["per_class_iou"] == [100.0, None]
        assert scores["miou"] == 100.0

    def test_reduced_labels(self) -> None:
        label = np.array([[0, 1, 150, 255]], np.uint8)
        np.testing.assert_array_equal(acceptance.reduced(label), [[255, 0, 149, 255]])

    def test_video_of_pictures_decodes_to_them(self, tmp_path: Path) -> None:
        from PIL import Image

        levels = [40, 120, 200]
        for index, level in enumerate(levels):
            picture = np.full((64, 96, 3), level, np.uint8)
            Image.fromarray(picture).save(tmp_path / f"{index}.png")
        video = tmp_path / "v.mp4"
        assert (
            acceptance.main(["make-video", "--images", str(tmp_path), "--output", str(video)]) == 0
        )
        frames = list(acceptance.decoded(video))
        assert [frame.shape for frame in frames] == [(64, 96, 3)] * 3
        for frame, level in zip(frames, levels, strict=True):
            assert abs(float(frame.mean()) - level) < 3

    def test_unusable_input_is_one_message(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["make-video", "--images", str(tmp_path), "--output", str(tmp_path / "v.mp4")]
        assert acceptance.main(arguments) == 1
        assert "holds no pictures" in capsys.readouterr().err
