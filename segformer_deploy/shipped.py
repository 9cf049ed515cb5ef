"""The models that come with the package: where their files lie.

A wheel carries them inside the package; a source tree has them under `models/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

DEMO_MODEL = "segformer-b0-streets"
ONNX_FILE = "model.onnx"
WEIGHTS_FILE = "model.safetensors"


def shipped_file(name: str, model: str = DEMO_MODEL) -> Path | None:
    """The file `name` of a shipped model, or None where this installation has none."""
    # An editable install has two roots: the source tree, and site-packages for what is built.
    roots = [Path(root) for root in sys.modules["segformer_deploy"].__path__]
    # The trees first: an editable install's copy may be older than what lies there.
    folders = [root.parent / "models" / model for root in roots]
    folders += [root / "shipped" / model for root in roots]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
