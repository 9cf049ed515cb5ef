"""The search for the smallest limit: whose pages are counted, which masks agree, what it says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.graph.verify import enlarged_logits
from segformer_deploy.spec import FrameSize
from tests.engine.native.quantise import SMALL, float_model, saved

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import smallest_limit  # noqa: E402
from fresh_copy import FreshCopy, copy_python  # noqa: E402
from limit_probe import Form, Probe, Prober  # noqa: E402

SIZE = FrameSize(64, 96)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="page cache of Linux")


def cached(file: Path) -> bool:
    """Whether the file's first page is in memory."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError:
        pytest.skip("this file system does not tell")
    finally:
        os.close(descriptor)


@on_linux
def test_a_copys_pages_are_dropped(tmp_path: Path) -> None:
    file, other, kept = (tmp_path / name for name in ("copy/lib/a.so", "m.onnx", "kept"))
    file.parent.mkdir(parents=True)
    for one in (file, other, kept):
        one.write_bytes(b"x" * 8192)
        with one.open("rb") as written:
            os.fsync(written.fileno())
    copy = FreshCopy(tmp_path / "copy", Path(sys.executable), {})
    copy.sync()
    if not all(map(cached, (file, other, kept))):
        pytest.skip("what was just written is not kept in memory here")
    copy.evict(other)
    if cached(file):
        pytest.skip("this file system keeps its pages: it lies in memory")
    assert not cached(other)
    assert cached(kept)


@on_linux
def test_a_copy_runs_and_is_its_own(tmp_path: Path) -> None:
    library, link = tmp_path / "libown.so.1.2", tmp_path / "libown.so.1"
    library.write_bytes(b"")
    link.symlink_to(library.name)
    (tmp_path / "libowner.so").write_bytes(b"")
    packages = ["numpy", "segformer_deploy", "onnxruntime"]
    copy = copy_python(tmp_path / "copy", packages, [library])
    found = {one.name for one in (tmp_path / "copy/lib").glob("libown*")}
    assert found == {library.name, link.name}
    probe = Prober(copy, frames=2, timeout=120)
    path = saved(float_model(SMALL, 1), tmp_path / "m.onnx")
    run = probe(Form("native", path, SIZE, "native"), None)
    assert (run.outcome, run.how, run.group_mib) == ("survived", "no limit", None)
    assert run.told is not None
    assert len(run.told["ms"]) == len(run.told["checksums"]) == 2
    own = [one for one in run.told["mapped"] if one.startswith(str(tmp_path / "copy"))]
    assert any("_network.so" in one for one in own)
    assert any("numpy" in one for one in own)
    outside = set(run.told["mapped"]) - set(own)
    assert not any("site-packages" in one for one in outside)


def test_masks_are_held_to_the_rule_of_ties(tmp_path: Path) -> None:
    path = saved(float_model(SMALL, 1), tmp_path / "m.onnx")
    plain = Form(smallest_limit.PLAIN, path, SIZE)
    native = Form(smallest_limit.NATIVE, path, SIZE, "native")
    same, other = smallest_limit._compared(plain, [plain, native], 2)
    assert (same["different"], same["largest_logit_difference"]) == (0, 0.0)
    assert same["pixels"] == 2 * SIZE.height * SIZE.width
    assert other["different_outside_of_ties"] == 0
    assert 0 < other["largest_logit_difference"] < 1e-4 * other["largest_logit"]


def test_the_lead_is_best_minus_second() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 40, 30)).astype(np.float32)
    size = FrameSize(160, 120)
    whole = np.sort(enlarged_logits(logits, size, slice(0, 160)), axis=0)
    found = smallest_limit._lead(logits, size)
    np.testing.assert_allclose(found, whole[-1] - whole[-2], atol=1e-12)


class Machine:
    """A form that needs `needs` MiB; below `wrong` MiB its masks are others."""

    def __init__(self, needs: int, wrong: int = 0) -> None:
        self.needs, self.wrong = needs, wrong

    def __call__(self, form: Form, mib: int | None, frames: int | None = None) -> Probe:
        told: dict[str, Any] = {
            "checksums": [1 if mib is None or mib >= self.wrong else 2],
            "ms": [9.0, 1.0, 3.0],
            "peak_mib": 90.2,
            "anonymous_mib": 60.0,
            "of_files_mib": 30.0,
        }
        if mib is not None and mib < self.needs:
            return Probe("killed", "cgroup v1", float(mib), None)
        return Probe("survived", "no limit" if mib is None else "cgroup v1", 50.0, told)


def test_the_search_finds_what_is_needed() -> None:
    form = Form(smallest_limit.NATIVE, Path("m.onnx"), SIZE, "native")
    found = smallest_limit._searched(form, Machine(needs=57, wrong=59))  # type: ignore[arg-type]
    assert found["smallest_limit"]["mib"] == 57
    assert set(found["other_masks_at"]) == {57, 58}
    assert found["peak_mib"] == 90.2
    at = found["runs"]["at_limit"]
    assert [run["outcome"] for run in at] == ["survived", "survived"]
    assert all(run["enforced"] and run["limit_mib"] == 57 and run["ms_median"] == 2.0 for run in at)
    assert [run["limit_mib"] for run in found["runs"]["25_percent_above"]] == [72, 72]
    assert not any(run["enforced"] for run in found["runs"]["no_limit"])


def test_the_committed_result_is_enforced_and_says_the_headline() -> None:
    data = json.loads(smallest_limit.RESULT.read_text(encoding="utf-8"))
    assert (data["task"]["variant"], data["task"]["classes"]) == ("b0", 150)
    outcomes = {}
    for one in data["sizes"]:
        for mask in one["masks"]:
            assert mask["different_outside_of_ties"] == 0
        for form in one["forms"]:
            assert form["other_masks_at"] == []
            limited = [run for runs in form["runs"].values() for run in runs if run["limit_mib"]]
            assert limited
            assert all(run["enforced"] and run["how"].startswith("cgroup") for run in limited)
            under = {run["outcome"] for run in form["runs"]["at_128"]}
            outcomes[one["size"], form["name"]] = under
    assert outcomes["512x512", smallest_limit.PLAIN] == {"killed"}
    assert outcomes["512x512", smallest_limit.LEAN] == {"survived"}
    assert outcomes["512x512", smallest_limit.NATIVE] == {"survived"}
