"""Turns pairs of pictures into multi-layer features of a frozen pretrained network.

    python extract.py -d PAIRS -s FEATURES -b 64 --data-aug -p adapt-pca 256
    python extract.py -d PAIRS -s FEATURES --model efficientnet_lite0 -p adapt
    python extract.py --list-models

PAIRS holds `left/` and `right/`; files of the same name (whatever their suffix) are a pair. A folder without them is
taken as a flat folder of pictures. `FEATURES/<model>/` receives `features.npy`, a `.json` that says where the numbers
come from, and with `adapt-pca N` also `features_pcaN.npy` and the PCA itself. Another N later uses the features that
are already there.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from common import console


def build_parser() -> argparse.ArgumentParser:
    """The command line of `extract.py`."""
    parser = argparse.ArgumentParser(
        prog="extract.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "-d",
        "--dataset",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder with left/ and right/, or a flat folder of pictures",
    )
    add("-s", "--save", type=Path, required=True, metavar="PATH", help="folder to write to; the model's name is added")
    add(
        "-b",
        "--batch-size",
        type=console.positive,
        default=64,
        metavar="N",
        help="pictures at a time, at most; memory may ask for fewer (default 64)",
    )
    add(
        "--data-aug",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also extract every picture flipped left to right (default: yes, as in the paper)",
    )
    add(
        "-p",
        "--processor",
        nargs="+",
        required=True,
        metavar=("NAME", "N"),
        help="adapt: layers pooled, normalised, concatenated; adapt-pca N: also reduced to N numbers",
    )
    add("--model", default="clip_rn50x4", metavar="NAME", help="backbone (default clip_rn50x4; see --list-models)")
    add("--weights", metavar="FILE", help="local weights (.safetensors or .pt state dict), or 'random' (see --seed)")
    add("--seed", type=console.natural, default=0, metavar="N", help="seed of --weights random (default 0)")
    add("--subset", type=Path, metavar="CSV", help="only the pairs that this CSV names, such as TLL_obj.csv")
    add(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what to do with pictures that have no partner or cannot be read (default fail)",
    )
    add("--overwrite", action="store_true", help="replace what is there; features that fit are kept for another PCA")
    console.add_device(parser)
    add(
        "--workers",
        type=console.positive,
        default=None,
        metavar="N",
        help="threads that read pictures (default: one a core)",
    )
    add("--list-models", action=_ListModels, nargs=0, help="show the backbones and end")
    return parser


class _ListModels(argparse.Action):
    """Prints the table of backbones and ends, whatever else was said."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Called by argparse when it meets the flag."""
        from featuresExtractor.models import HEADER, listing

        print(console.table(HEADER, listing()))
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`; returns 0, or 2 after wrong input."""
    args = build_parser().parse_args(argv)
    return console.guarded("extract.py", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """From parsed arguments to the files; names and folders are checked before torch is imported."""
    from featuresExtractor.datasets import find_images, keep_subset
    from featuresExtractor.models import find_model
    from featuresExtractor.processor import parse_processor

    model, processor, skip = find_model(args.model), parse_processor(args.processor), args.on_error == "skip"
    dataset = find_images(args.dataset, skip)
    if args.subset:
        dataset = keep_subset(dataset, args.subset, skip)

    from common.device import choose_device, full_precision
    from featuresExtractor.stages import Job, run_job

    full_precision()
    job = Job(
        model,
        processor,
        dataset,
        folder=args.save / model.name,
        device=choose_device(args.gpu),
        views=1 + args.data_aug,
        batch=args.batch_size,
        workers=args.workers or os.cpu_count() or 1,
        weights=args.weights,
        seed=args.seed,
        skip=skip,
        overwrite=args.overwrite,
        flags={name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd pictures that can be read: it would break the bar
        run_job(job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
