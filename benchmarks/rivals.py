"""The networks that SegFormer's Table 2 compares with, on this machine, beside SegFormer-B0.

::

    python benchmarks/rivals.py                     # about five minutes on two cores
    python benchmarks/rivals.py --rounds 5 --no-setr

FCN, PSPNet and DeepLabV3+ on MobileNetV2 have random weights and the sizes that the paper counts
(tests hold parameters and multiply-accumulates to them). Each network lives in a process of its own
and they take turns, one frame each, as in peers.py: frame -> class map, once with our exact class
map behind the logits and once with resize and argmax in the graph. Ratios are formed round by
round. Writes benchmarks/results/rivals.json and prints the tables of docs/rivals.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The package `rivals` beside this file, and this checkout.
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from rivals.measure import measure, say  # noqa: E402
from rivals.tables import all_lines, refreshed, setr_words  # noqa: E402

from segformer_deploy.errors import SegdeployError  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description="Time the paper's rivals beside SegFormer-B0.")
    add = parser.add_argument
    add("--classes", type=int, default=150, help="ADE20K's")
    add("--size", type=int, default=512, help="side of the frame and of the class map")
    add("--rounds", type=int, default=20, help="frames per network that count")
    add("--warm-up", type=int, default=2, help="rounds before, thrown away")
    add("--pause", type=float, default=20.0, metavar="MS", help="after each turn")
    add("--threads", type=int, default=2, help="for every network")
    add("--no-setr", action="store_true", help="only estimate SETR (it needs 8 GB free)")
    add("--work", type=Path, default=cache / "segdeploy-rivals", help="where files are kept")
    add("--output", type=Path, default=HERE / "results" / "rivals.json", help="JSON file")
    add("--page", type=Path, help="docs/rivals.md, to bring its tables up to date")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        data = measure(options)
        write_text(options.output, json.dumps(data, indent=1) + "\n")
        if options.page is not None:
            page = options.page.read_text(encoding="utf-8")
            write_text(options.page, refreshed(page, data))
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join([*all_lines(data), "", setr_words(data)]))
    say(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
