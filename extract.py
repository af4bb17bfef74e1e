"""Turns pairs of images into multi-layer features of a frozen pretrained network.

    python extract.py -d PAIRS -s FEATURES -b 64 --data-aug -p adapt-pca 256
    python extract.py -d PAIRS -s FEATURES -p adapt-pca 256 --model resnet50 --model clip_vit32_b
    python extract.py -d PAIRS -s FEATURES -p adapt --model timm/vit_base_patch14_dinov2.lvd142m --layers norm
    python extract.py -d PAIRS -s FEATURES -p adapt-pca 256 --model resnet50 --model clip_vit32_b --concat
    python extract.py -d NEW -s NEW_FEATURES -p adapt-pca 256 --pca FEATURES/clip_rn50x4/pca256.skops
    python extract.py --list-models
    python extract.py --list-layers resnet50

PAIRS holds `left/` and `right/`; files of the same name (whatever their suffix) are a pair. A folder without them is
taken as a flat folder of images. `FEATURES/<model>/` receives the features, each file with a `.json` that says where
the numbers come from. Another N later uses the features that are already there.

Several models run one after the other; failures are listed at the end (exit code 1), and the same command again goes on
with what is missing. With --concat their features are then put side by side.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common import console
from common.errors import InputError, printable
from featuresExtractor.processor import Processor, allowed, listing, parse_processor

if TYPE_CHECKING:
    from featuresExtractor.backbones.backbone import Backbone
    from featuresExtractor.images.folders.dataset import Dataset
    from featuresExtractor.images.settings import Decoding
    from featuresExtractor.job import GivenPca, Job


__doc__ = f"{__doc__}\nThe processors, and the files that each of them makes:\n\n{listing()}\n"


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
        help="folder with left/ and right/, or a flat folder of images",
    )
    add("-s", "--save", type=Path, required=True, metavar="PATH", help="folder to write to; the model's name is added")
    add(
        "-b",
        "--batch-size",
        type=console.positive,
        metavar="N",
        help="images at a time, at most; memory may ask for fewer (default 64, on a GPU 256)",
    )
    add(
        "--data-aug",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also extract every image flipped left to right (default: yes, as in the paper)",
    )
    add(
        "-p",
        "--processor",
        nargs="+",
        default=["save"],
        metavar=("NAME", "N"),
        help=f"{allowed()}, see above (default save)",
    )
    add(
        "--model",
        action="append",
        metavar="NAME",
        help="backbone (default clip_rn50x4); may be given several times; all: the paper's 37 (see --list-models); "
        "any other by its address: timm/NAME[.TAG], open_clip/ARCH/TAG, torchvision/NAME[.TAG]",
    )
    add(
        "--layers",
        metavar="A,B,C",
        help="module paths to tap instead of the model's own; * stands for any part between two dots (see "
        "--list-layers)",
    )
    add(
        "--tokens",
        choices=("class", "mean"),
        help="what to take of a transformer's tokens: the class token, or the mean of the patches' tokens (default: "
        "as the network itself pools them)",
    )
    add(
        "--preprocess",
        choices=("own", "paper"),
        default="own",
        help="own: as the weights were trained; paper: squashed to 224 x 224, ImageNet's mean and standard deviation, "
        "except where CLIP's mean and deviation are wanted (default own)",
    )
    add("--weights", metavar="FILE", help="local weights (.safetensors or .pt state dict), or 'random' (see --seed)")
    add(
        "--revision",
        metavar="COMMIT",
        help="the commit of the model hub's repository that the weights are taken from (default: the newest when they "
        "are first fetched; the .json says which that was)",
    )
    add("--seed", type=console.natural, default=0, metavar="N", help="seed of --weights random (default 0)")
    add("--subset", type=Path, metavar="CSV", help="only the pairs that this CSV names, such as TLL_obj.csv")
    add(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what to do with images that have no partner or cannot be read (default fail)",
    )
    add(
        "--recursive",
        action="store_true",
        help="also read subfolders; two files of the same relative path, such as left/cat/1.jpg and right/cat/1.png, "
        "are then a pair",
    )
    add(
        "--strict",
        action="store_true",
        help="end with exit code 1 when something was skipped (with --on-error skip), or a file in the folders is not "
        "read",
    )
    add("--follow-links", action="store_true", help="also read images, and with --recursive folders, behind links")
    add(
        "--value-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="the values of black and of white in images of more than 8 bits a sample, such as 0 4095 (default: as the "
        "file says, or else all of its 16 bits)",
    )
    add(
        "--color",
        choices=("stored", "srgb"),
        default="stored",
        help="stored: the numbers in the file, as the networks were trained; srgb: converted by the image's colour "
        "profile (default stored)",
    )
    add(
        "--pca",
        type=Path,
        metavar="FILE",
        help="with -p adapt-pca N: reduce the features by the PCA in this file, such as FEATURES/<model>/pcaN.skops, "
        "and fit none: new images for a head that was trained behind it",
    )
    add(
        "--concat",
        action="store_true",
        help="with several --model, and -p adapt or adapt-pca N: also write the features of all of them side by side, "
        "to FEATURES/<a>+<b>/; N dimensions of these, and the single models' are not reduced",
    )
    add("--overwrite", action="store_true", help="replace what is there; features that fit are kept for another PCA")
    console.add_device(parser)
    console.add_precision(
        parser, ("fp32", "tf32", "bf16", "fp16"), "what others change is measured on the first images and printed"
    )
    add(
        "--compile",
        action="store_true",
        help="compile the network for this machine first: worth its minutes for many thousand images; needs a C++ "
        "compiler",
    )
    console.add_reading(parser)
    add("--list-models", action=_ListModels, nargs=0, help="show the backbones and end")
    add("--list-layers", action=_ListLayers, metavar="MODEL", help="show a model's module paths and shapes and end")
    return parser


class _ListModels(argparse.Action):
    """Prints the table of backbones and ends, whatever else was said."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Called by argparse when it meets the flag."""

        def show() -> int:
            from featuresExtractor.backbones.catalogue import HEADER, listing

            print(console.table(HEADER, listing()))
            return 0

        parser.exit(console.guarded("extract.py", show))


class _ListLayers(argparse.Action):
    """Prints the modules of a network with the shapes that they give an image, without its weights, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: object, name: object, *_: object) -> None:
        """Called by argparse when it meets the flag."""

        def show() -> int:
            from common.machine.shortage import check_libraries

            check_libraries(["featuresExtractor.backbones.layers", "timm"])

            from featuresExtractor.backbones.layers import listing

            print(console.table(("layer", "shape", ""), listing(str(name))))
            return 0

        parser.exit(console.guarded("extract.py", show))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`; returns 0, 1 when one of several models failed or with --strict something was
    left out, 2 after wrong input, 130 or 143 when it was asked to end."""
    args = build_parser().parse_args(argv)
    return console.guarded("extract.py", lambda: run(args), "the same command goes on from here")


def run(args: argparse.Namespace) -> int:
    """From parsed arguments to the files; names and folders are checked before torch is imported."""
    from common.machine.shortage import check_libraries

    names = args.model or ["clip_rn50x4"]
    clip = any("clip" in name or name == "all" for name in names)
    check_libraries(["featuresExtractor.pipeline", "skops.io", "timm", *["open_clip"] * clip])

    from featuresExtractor.images.folders.dataset import find_images, keep_subset
    from featuresExtractor.models import find_models

    names, processor = find_models(names), parse_processor(args.processor)
    _check_single(args, names)
    given = _given(args, processor)
    dataset = find_images(args.dataset, args.on_error == "skip", args.recursive, args.follow_links)
    for line in dataset.warnings():
        print(printable(line), file=sys.stderr)
    if args.subset:
        dataset = keep_subset(dataset, args.subset, args.on_error == "skip")

    from common.machine.system import keep_freed_memory
    from featuresExtractor.concat import concatenate, joined_job
    from featuresExtractor.pipeline import run_all, run_job

    keep_freed_memory()
    models, failed = _models(args, names)
    jobs = _jobs(args, models, replace(processor, components=None) if args.concat else processor, dataset, given)
    joined = joined_job(jobs, processor, args.save, given) if args.concat and not failed else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd images that can be read: it would break the bar
        if len(names) > 1:
            more, left_out = run_all(jobs)
            failed |= more
            if joined and not failed:
                concatenate(joined, jobs)
            return _tell(failed, len(names), args.concat) or int(args.strict and left_out + len(dataset.not_read) > 0)
        return int(run_job(jobs[0]) + len(dataset.not_read) > 0 and args.strict)


def _jobs(
    args: argparse.Namespace,
    models: Sequence[Backbone],
    processor: Processor,
    dataset: Dataset,
    given: GivenPca | None,
) -> list[Job]:
    """A job for each model, all of the same images."""
    from common.machine.device import check_precision, choose_device
    from common.machine.system import readers
    from featuresExtractor.backbones.inference import default_batch
    from featuresExtractor.job import Job

    device = choose_device(args.gpu)
    check_precision(args.precision, device)
    check_compiler(args.compile)
    decoding = _decoding(args)
    return [
        Job(
            model,
            processor,
            dataset,
            folder=args.save / model.folder,
            device=device,
            views=1 + args.data_aug,
            batch=args.batch_size or default_batch(device),
            workers=args.workers or readers(),
            weights=args.weights,
            seed=args.seed,
            skip=args.on_error == "skip",
            overwrite=args.overwrite,
            links=args.follow_links,
            precision=args.precision,
            compiled=args.compile,
            decoding=decoding,
            given=None if args.concat else given,
            flags={name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        )
        for model in models
    ]


def _decoding(args: argparse.Namespace) -> Decoding:
    """How image files become RGB; InputError for a range of values that is none."""
    from featuresExtractor.images.settings import MOST_PIXELS, Decoding

    low, high = args.value_range or (0.0, 1.0)
    if not (-math.inf < low < high < math.inf):
        raise InputError(f"--value-range {low:g} {high:g}: LOW must be below HIGH, and both be finite numbers")
    value_range = (low, high) if args.value_range else None
    return Decoding(value_range, args.color, args.max_pixels or MOST_PIXELS)


def check_compiler(wanted: bool) -> None:
    """InputError when --compile has no compiler to work with."""
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    if wanted and not shutil.which(compiler):
        raise InputError(f"--compile: no C++ compiler '{compiler}' here; install one, set CXX, or leave --compile out")


def _check_single(args: argparse.Namespace, names: Sequence[str]) -> None:
    """InputError for what makes sense for one model alone, or for several."""
    file = args.weights != "random" and args.weights
    single = {"--layers": args.layers, "--revision": args.revision, "--weights": file}
    single |= {"--pca": args.pca} if not args.concat else {}
    if len(names) > 1 and (given := [flag for flag, value in single.items() if value]):
        raise InputError(f"{given[0]} is of one model, and {len(names)} are asked for; extract them one by one")
    if args.concat and len(names) == 1:
        raise InputError(f"--concat puts the features of several models side by side, and {names[0]} is one; give more")


def _given(args: argparse.Namespace, processor: Processor) -> GivenPca | None:
    """The PCA of --pca; InputError for what is none of so many components, and for a processor that does not make one
    vector of all layers, which is what --pca reduces and --concat joins."""
    one = processor.recipe.joined and "{layer}" not in processor.recipe.reduced
    if args.concat and not one:
        raise InputError(f"--concat is for -p adapt or -p adapt-pca N, not -p {processor}")
    if args.pca and not (one and processor.components):
        raise InputError(f"--pca is for -p adapt-pca N, which has one PCA over all layers, not -p {processor}")
    if not args.pca:
        return None
    from featuresExtractor.job import given_pca

    return given_pca(args.pca, processor.components or 0)


def _models(args: argparse.Namespace, names: Sequence[str]) -> tuple[list[Backbone], dict[str, str]]:
    """The rows of the table, or those of addresses; layers, tokens and preprocessing as the user wants them. Of several
    models those that cannot be tapped so are left out, with the reason; a name that leads nowhere is an InputError."""
    from featuresExtractor.backbones.layers import named, resolve
    from featuresExtractor.backbones.weights.fetch import at_revision
    from featuresExtractor.models import as_in_the_paper

    patterns = [pattern.strip() for pattern in args.layers.split(",")] if args.layers else []
    backbones, failed = [], {}
    for name in [named(name).name for name in names]:
        try:
            model = resolve(name, patterns, args.tokens)
            model = at_revision(model, args.revision) if args.revision else model
            backbones.append(as_in_the_paper(model) if args.preprocess == "paper" else model)
        except InputError as error:
            if len(names) == 1:
                raise
            failed[name] = str(error).removeprefix(f"{name}: ")
    return backbones, failed


def _tell(failed: Mapping[str, str], count: int, concat: bool) -> int:
    """The closing lines after several models; the exit code is 1 when one of them failed."""
    print(f"\n{count - len(failed)} of {count} models done")
    for name, reason in failed.items():
        print(f"extract.py: {name} failed: {reason}", file=sys.stderr)
    if failed and concat:
        print("extract.py: --concat waits until no model fails: the same command goes on", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
