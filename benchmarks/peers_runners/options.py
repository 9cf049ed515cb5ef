"""The command line of `benchmarks/peers.py`, and the list of peers."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

from peers_runners.parent import BENCHMARKS, Peer

PEERS = (
    Peer("a", "transformers, PyTorch eager", "transformers_eager"),
    Peer("b", "transformers, ONNX Runtime", "transformers_onnx", ("onnxruntime",)),
    Peer(
        "c", "transformers, ONNX Runtime + argmax", "transformers_onnx_class_map", ("onnxruntime",)
    ),
    Peer("d", "transformers, OpenVINO FP32", "transformers_openvino", ("openvino",)),
    Peer("f", "our export, ONNX Runtime", "ours_onnxruntime", ("onnxruntime", "cv2")),
    Peer("g", "our export, OpenVINO FP32", "ours_openvino", ("openvino", "cv2")),
    Peer("e", "segformer-deploy", "ours", ("cv2",)),
)


def _size(text: str) -> list[int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH, for example 512x512")
    return [int(found[1]), int(found[2])]


def _letters(text: str) -> list[str]:
    letters = [letter.strip() for letter in text.split(",")]
    known = [peer.letter for peer in PEERS]
    if not set(letters) <= set(known):
        raise argparse.ArgumentTypeError(f"'{text}': letters of {', '.join(known)}, with commas")
    return letters


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def read_options(arguments: list[str] | None, description: str) -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    named = "; ".join(f"{peer.letter} {peer.name}" for peer in PEERS)
    parser = argparse.ArgumentParser(description=description, epilog=f"peers: {named}")
    add = parser.add_argument
    add("--classes", type=_count, default=150, help="of the random weights")
    add("--checkpoint", type=Path, help="a folder in transformers' format, not random weights")
    add("--network", type=_size, default=[512, 512], metavar="HxW", help="network size")
    add("--frame", type=_size, default=[480, 640], metavar="HxW", help="frame and class map")
    add("--rounds", type=_count, default=40, help="frames per peer that count")
    add("--warm-up", type=_count, default=5, help="rounds before, thrown away")
    add("--pause", type=float, default=20.0, metavar="MS", help="after each turn")
    add("--threads", type=_count, default=2, help="for every peer")
    add("--only", type=_letters, default=[p.letter for p in PEERS], metavar="a,e", help="peers")
    add("--work", type=Path, default=cache / "segdeploy-peers", help="where files are kept")
    add(
        "--output",
        type=Path,
        default=BENCHMARKS / "results" / "peers-b0-512.json",
        help="JSON file",
    )
    add("--chart", type=Path, default=BENCHMARKS.parent / "docs" / "peers.png", help="PNG file")
    add("--no-chart", dest="chart", action="store_const", const=None, help="draw none")
    options = parser.parse_args(arguments)
    if options.checkpoint is not None:
        if not (options.checkpoint / "config.json").is_file():
            parser.error(f"{options.checkpoint} is no checkpoint folder in transformers' format")
        config = json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8"))
        options.classes = len(config["id2label"])
    return options
