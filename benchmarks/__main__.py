"""Measure this project beside the plain way and beside the machine's limit: `make bench`, or

    python -m benchmarks --stages training --runs 20 --epochs 10
    python -m benchmarks --stages extraction --images 800 --batch-size 64 --compile
    python -m benchmarks --save results.json

Before it times a stage, it checks that both ways give the same numbers. The columns: the plain way, ours, the limit of
this machine (or what is allowed), and how many times as fast as the plain way and what share of the limit ours is.
Times of one machine say little of another; the ratios of one run do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import extraction, pca, search, startup, table, training
from common import console
from common.machine.device import check_precision, choose_device, device_name, tf32
from common.machine.system import keep_freed_memory
from common.storage.files import write_json

STAGES = ("startup", "training", "extraction", "pca", "search")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m benchmarks`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument

    def number(name: str, default: int, text: str) -> None:
        add(name, type=console.positive, default=default, metavar="N", help=f"{text} (default {default})")

    add("--stages", nargs="+", choices=STAGES, default=STAGES, help="what to measure (default all)")
    number("--repeats", 3, "times that each way is measured; medians are shown")
    add("--precisions", nargs="+", choices=("fp32", "tf32", "bf16", "fp16"), default=("fp32", "bf16"), help="of ours")
    add("--model", default="clip_rn50x4", metavar="NAME", help="backbone, with random weights (default clip_rn50x4)")
    number("--images", 16, "images to extract, in pairs")
    number("--batch-size", 8, "images at a time, in both ways")
    add("--compile", action="store_true", help="compile the network")
    number("--vectors", 16796, "vectors for the PCA")
    number("--width", 5440, "dimensions of a vector")
    number("--components", 256, "components of the PCA")
    number("--gallery", 100_000, "vectors to search in; a million take 8 GiB")
    number("--pairs", 4199, "pairs to train on and to test on")
    number("--runs", 1, "runs at once")
    number("--epochs", 3, "epochs that are timed")
    add("--save", type=Path, metavar="FILE", help="write a JSON with device, versions, sizes and all numbers")
    console.add_device(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`; return 0, or 2 after wrong input."""
    args = build_parser().parse_args(argv)
    return console.guarded("python -m benchmarks", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Measure the stages one after the other and show them together."""
    device, precisions = choose_device(args.gpu), tuple(args.precisions)
    for precision in precisions:
        check_precision(precision, device)
    extracted = extraction.Sizes(args.model, max(1, args.images // 2), args.batch_size, precisions, args.compile)
    reduced = pca.Sizes(args.vectors, args.width, args.components)
    searched = search.Sizes(args.gallery)
    learned = training.Sizes(args.pairs, 256, tuple(p for p in precisions if p != "fp16"), args.runs, args.epochs)
    stages = {
        "startup": lambda: startup.measure(args.pairs, args.repeats),
        "training": lambda: training.measure(learned, device, args.repeats),
        "extraction": lambda: extraction.measure(extracted, device, args.repeats),
        "pca": lambda: pca.measure(reduced, device, 1 if device.type == "cpu" else args.repeats),
        "search": lambda: search.measure(searched, device, args.repeats),
    }
    rows = _measured({name: stages[name] for name in STAGES if name in args.stages})
    once = "; PCA once" if device.type == "cpu" and "pca" in args.stages else ""
    print(f"{device_name(device)}, median of {args.repeats}{once}\n{table.shown(rows)}")
    sizes = {"extraction": asdict(extracted), "pca": asdict(reduced), "training": asdict(learned)}
    sizes["search"] = asdict(searched)
    if args.save:
        write_json(args.save, table.record(rows, device, sizes))
    return 0


def _measured(stages: dict[str, Callable[[], list[table.Row]]]) -> list[table.Row]:
    keep_freed_memory()
    rows: list[table.Row] = []
    with tf32(False):
        for name, measure in stages.items():
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            rows += measure()
    return rows


if __name__ == "__main__":
    sys.exit(main())
