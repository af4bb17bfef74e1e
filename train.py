"""Learns from the features of pairs what people see as alike, and tells how well partners then find each other.

    python train.py -d FEATURES/clip_rn50x4/features_pca256.npy -s RUNS/first -e 150 -r 20 -t 15 -k 1 3 5
    python train.py -d FEATURES/efficientnet_lite0/features.npy -s RUNS/frozen --model dummy
    tensorboard --logdir RUNS

A small head is trained on the pairs of a features file (`extract.py` writes one; the field's old pickled files are read
too, safely). Each run draws its own test pairs. RUNS/first/ receives TensorBoard curves, logs, checkpoints, the splits,
`summary.json` and `curves.png`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import console

if TYPE_CHECKING:
    import torch

    from adaptation.pairs import Pairs
    from adaptation.trainer import Scores, Settings


def build_parser() -> argparse.ArgumentParser:
    """The command line of `train.py`."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-d", "--data", type=Path, required=True, metavar="FILE", help="features file of pairs (.npy)")
    add("-s", "--save", type=Path, required=True, metavar="PATH", help="run folder to write to, for TensorBoard too")
    add(
        "--model",
        choices=("original", "peterson", "dummy"),
        default="original",
        help="original: ReLU(W x), 1024 numbers, the paper's; peterson: one weight a dimension; dummy: the frozen "
        "features, no training (default original)",
    )
    add(
        "-e",
        "--epochs",
        type=console.positive,
        default=150,
        metavar="N",
        help="epochs, one full-batch step each (default 150)",
    )
    add("-r", "--runs", type=console.positive, default=1, metavar="N", help="runs, each with its own split (default 1)")
    add(
        "-t",
        "--temperature",
        type=console.positive_float,
        default=1.0,
        metavar="T",
        help="multiplies the cosines in the loss (default 1; the paper's command has 15)",
    )
    add("--test-split", type=float, default=0.25, metavar="SHARE", help="share of the pairs to test on (default 0.25)")
    add(
        "-k",
        type=console.positive,
        nargs="+",
        default=[1, 3],
        metavar="K",
        help="the k of aR@k: a partner counts when among the k nearest (default 1 3)",
    )
    add(
        "--seed",
        type=console.natural,
        default=0,
        metavar="N",
        help="seed of the splits and of the heads' weights (default 0)",
    )
    add("--subset", type=Path, metavar="CSV", help="only the pairs that this CSV names, such as TLL_obj.csv")
    add(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what to do with names of the CSV that the features file does not have (default fail)",
    )
    add("--overwrite", action="store_true", help="replace the run that is already in the folder, once the new is done")
    console.add_device(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`; returns 0, or 2 after wrong input."""
    args = build_parser().parse_args(argv)
    return console.guarded("train.py", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """From parsed arguments to the run folder and the closing table."""
    from adaptation import results
    from adaptation.pairs import load_pairs
    from adaptation.splits import check_ks, check_share
    from adaptation.statistics import summary
    from adaptation.trainer import Settings
    from common.device import choose_device, full_precision
    from common.files import held

    pairs = load_pairs(args.data, args.subset, args.on_error == "skip")
    ks = tuple(sorted(set(args.k)))
    tested = check_share(len(pairs), args.test_split)
    check_ks(ks, tested)
    settings = Settings(args.model, args.epochs, args.temperature, args.test_split, ks, args.seed)
    device = choose_device(args.gpu)
    full_precision()
    with held(args.save):
        folder = results.prepare_folder(args.save, args.overwrite)
        runs = _train(pairs.to(device), settings, args.runs, folder, device)
        results.write_average(folder, runs)
        results.write_curves(folder, runs, ks)
        metrics = summary(runs)
        results.write_summary(folder, metrics, _facts(args, settings, pairs, tested, device))
        results.put_in_place(folder, args.save)
    _report(metrics, settings, args, tested)
    return 0


def _train(pairs: Pairs, settings: Settings, runs: int, folder: Path, device: torch.device) -> list[Scores]:
    """The numbers of the runs, which go one after the other and are each written when done."""
    from adaptation.results import write_run
    from adaptation.trainer import train_run
    from common.device import device_name
    from common.progress import progress

    views, count, width = pairs.left.shape
    seen = f"{views} views" if views > 1 else "1 view (no flipped copies recognised)"
    print(f"head {settings.head} on {device_name(device)}, {count:,} pairs, {seen}, {width:,} numbers a side")
    done = []
    with progress(runs * settings.steps, "train", "epochs") as bar:
        for number in range(1, runs + 1):
            bar.set_postfix_str(f"run {number}/{runs}", refresh=False)
            finished = train_run(pairs, settings, number, on_epoch=lambda: bar.update())
            write_run(folder, finished, pairs, settings.head)
            done.append(finished.scores())
    return done


def _facts(
    args: argparse.Namespace, settings: Settings, pairs: Pairs, tested: int, device: torch.device
) -> dict[str, Any]:
    """What the numbers in `summary.json` were made from."""
    from dataclasses import asdict

    from common.device import device_name
    from common.files import package_versions, sha256

    features = {
        "file": str(args.data),
        "sha256": sha256(args.data),
        "views": len(pairs.left),
        "width": pairs.left.shape[-1],
    }
    return {
        "settings": asdict(settings) | {"runs": args.runs, "subset": str(args.subset) if args.subset else None},
        "features": features,
        "pairs": {"train": len(pairs) - tested, "test": tested},
        "device": device_name(device),
        "versions": package_versions(),
    }


def _report(metrics: dict[str, Any], settings: Settings, args: argparse.Namespace, tested: int) -> None:
    """The closing table."""
    header = ["test pairs", "frozen", "adapted", "sd", "95 % interval", "best epoch*"]
    rows = []
    for name, values in metrics.items():
        last = values["last_epoch"]
        interval = " .. ".join(f"{bound:.3f}" for bound in last["interval95"]) if last["interval95"] else "-"
        spread = "-" if last["sd"] is None else f"{last['sd']:.3f}"
        means = [f"{values[key]['mean']:.3f}" for key in ("frozen", "last_epoch", "best_epoch_on_test")]
        rows.append([name.replace("top ", "aR@"), means[0], means[1], spread, interval, means[2]])
    runs = "1 run" if args.runs == 1 else f"{args.runs} runs"
    pairs = f"{tested:,} test pair{'s' * (tested > 1)}"
    print(f"\n{pairs}, mean of {runs}; adapted: head {settings.head}, after the last epoch")
    print(console.table(header, rows))
    print("* picked on the test pairs, run by run: optimistic")
    print(
        f"\nresults: {args.save / 'summary.json'}\n"
        f"curves:  {args.save / 'curves.png'}, or: tensorboard --logdir {args.save}"
    )


if __name__ == "__main__":
    sys.exit(main())
