"""The model that comes with the package: whole, consistent, and worth looking at."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import segformer_deploy
from segformer_deploy.bench.accuracy import ConfusionMatrix
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.files import sha256_of_file
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.shipped import ONNX_FILE, WEIGHTS_FILE, shipped_file
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import CLASS_NAMES, PALETTE, street_frame
from segformer_deploy.workflow.export import ExportOptions, export_onnx

ROOT = Path(__file__).resolve().parents[1]
UNSEEN_SEED = 20_000_000
"""Apart from training's seeds, and from those of the card's accuracy."""


def file(name: str) -> Path:
    found = shipped_file(name)
    assert found is not None, name
    return found


def test_a_copy_in_site_packages_does_not_hide_a_newer_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, tree = tmp_path / "site-packages" / "segformer_deploy", tmp_path / "segformer_deploy"
    old, new = built / "shipped" / "m" / "card.toml", tmp_path / "models" / "m" / "card.toml"
    for path in (old, new):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(segformer_deploy, "__path__", [str(built), str(tree)])
    assert shipped_file("card.toml", "m") == new
    new.unlink()
    assert shipped_file("card.toml", "m") == old


def test_the_card_names_the_files_that_lie_beside_it() -> None:
    card = file("card.toml").read_text()
    for key, name in (("weights", WEIGHTS_FILE), ("onnx", ONNX_FILE)):
        assert re.search(rf'^{key}_sha256 = "(\w+)"$', card, re.M)[1] == sha256_of_file(file(name))  # type: ignore[index]
    recipe = sha256_of_file(ROOT / "models" / "segformer-b0-streets" / "train.py")
    assert f'train_py_sha256 = "{recipe}"' in card


def test_the_onnx_file_says_what_it_is() -> None:
    spec = spec_from_onnx(file(ONNX_FILE))
    assert spec.class_names == CLASS_NAMES
    assert spec.palette == PALETTE
    assert spec.resize.size == FrameSize(512, 512)
    assert (spec.weights.origin, spec.weights.licence) == ("segformer-b0-streets", "Apache-2.0")
    assert spec.weights.sha256 == sha256_of_file(file(WEIGHTS_FILE))


def test_export_takes_these_weights_by_default_and_gives_this_graph(tmp_path: Path) -> None:
    said: list[str] = []
    report = export_onnx(ExportOptions(variant="b0", output=tmp_path / "m.onnx"), said.append)
    assert any("demo weights" in text for text in said)
    fresh, shipped = onnx.load(report.onnx), onnx.load(file(ONNX_FILE))
    # The fold is made in float64 by whichever BLAS is here: bits may differ, values may not.
    for ours, theirs in zip(fresh.graph.initializer, shipped.graph.initializer, strict=True):
        np.testing.assert_allclose(
            onnx.numpy_helper.to_array(ours),
            onnx.numpy_helper.to_array(theirs),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("options", [{"variant": "b1"}, {"classes": 5}])
def test_what_they_do_not_serve_gets_random_weights_and_a_reason(
    options: dict[str, object], tmp_path: Path
) -> None:
    said: list[str] = []
    asked = ExportOptions(size=FrameSize(64, 64), output=tmp_path / "m.onnx", **options)  # type: ignore[arg-type]
    assert export_onnx(asked, said.append).spec.weights.random
    assert any("demo weights" in text and "random" in text for text in said)


def test_masks_follow_the_street() -> None:
    """On streets it never saw; the card has the measured figure, this is a floor."""
    matrix = ConfusionMatrix(len(CLASS_NAMES))
    with Segmenter(file(ONNX_FILE)) as segment:
        for seed in range(UNSEEN_SEED, UNSEEN_SEED + 6):
            image, label = street_frame(seed, FrameSize(512, 512))
            matrix.update(segment(image), label, np.ones(label.shape, bool))
    assert matrix.miou is not None
    assert matrix.miou > 0.8
