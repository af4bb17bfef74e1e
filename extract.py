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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import console
from common.errors import InputError

if TYPE_CHECKING:
    import torch

    from featuresExtractor.datasets import Dataset
    from featuresExtractor.extractor import Forward, Report
    from featuresExtractor.models import Model
    from featuresExtractor.processor import Processor


def build_parser() -> argparse.ArgumentParser:
    """The command line of `extract.py`."""
    parser = argparse.ArgumentParser(
        prog="extract.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-d", "--dataset", type=Path, metavar="PATH", help="folder with left/ and right/, or a flat folder of pictures")
    add("-s", "--save", type=Path, metavar="PATH", help="folder to write to; the model's name is added")
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
    add("--overwrite", action="store_true", help="replace features that are already in the output folder")
    console.add_device(parser)
    add(
        "--workers",
        type=console.positive,
        default=None,
        metavar="N",
        help="threads that read pictures (default: one a core)",
    )
    add("--list-models", action="store_true", help="show the backbones and end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`; returns 0, or 2 after wrong input."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list_models:
        from featuresExtractor.models import HEADER, listing

        print(console.table(HEADER, listing()))
        return 0
    if missing := [
        flag for flag, value in (("-d", args.dataset), ("-s", args.save), ("-p", args.processor)) if not value
    ]:
        parser.error(f"{', '.join(missing)} missing; -h shows all arguments")
    return console.guarded("extract.py", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """From parsed arguments to the files: what can be found wrong is found before the backbone works."""
    from featuresExtractor.models import find_model
    from featuresExtractor.processor import parse_processor

    model, processor = find_model(args.model), parse_processor(args.processor)
    dataset = _dataset(args)
    folder = args.save / model.name
    features = folder / "features.npy"
    reduced = folder / f"features_pca{processor.components}.npy"
    _check(dataset, model, processor, 1 + args.data_aug)
    if processor.components and reduced.exists() and not args.overwrite:
        raise InputError(f"{reduced}: already there; --overwrite replaces it")

    from common.device import choose_device, full_precision

    device = choose_device(args.gpu)
    full_precision()
    _make_folder(folder)
    _extract(args, model, processor, dataset, device, features)
    if processor.components:
        _reduce(features, reduced, processor.components, device)
    return 0


def _make_folder(folder: Path) -> None:
    """Makes the output folder; InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder can be made here ({error.strerror})") from error


def _dataset(args: argparse.Namespace) -> Dataset:
    """The pictures asked for."""
    from featuresExtractor.datasets import find_images, keep_subset

    skip = args.on_error == "skip"
    dataset = find_images(args.dataset, skip)
    return keep_subset(dataset, args.subset, skip) if args.subset else dataset


def _check(dataset: Dataset, model: Model, processor: Processor, views: int) -> None:
    """InputError when the pictures are too few for the components asked for."""
    if processor.components:
        from featuresExtractor.pca import check_components

        check_components(processor.components, len(dataset) * len(dataset.sides) * views, model.width)


def _extract(
    args: argparse.Namespace, model: Model, processor: Processor, dataset: Dataset, device: torch.device, features: Path
) -> None:
    """The first stage: pictures -> `features.npy`, unless it is there and was made in the same way."""
    from featuresExtractor import provenance
    from featuresExtractor.activations import TappedBackbone
    from featuresExtractor.extractor import Forward
    from featuresExtractor.weights import load_backbone

    views = 1 + args.data_aug
    backbone, weights = load_backbone(model, args.weights, args.seed)
    chosen = provenance.settings(model, weights, dataset, views)
    if not args.overwrite and provenance.same_features(features, chosen):
        if not processor.components:
            raise InputError(f"{features}: already there, made in the same way; --overwrite makes it again")
        print(f"{features} is there and was made in the same way: used again")
        return
    forward = Forward(
        TappedBackbone(backbone, tuple(model.layers)), model.preprocessing, views, device, args.batch_size
    )
    report = _loop(args, model, dataset, forward, features)
    flags = {name: str(value) for name, value in vars(args).items() if value is not None}
    provenance.record(features, chosen, report, dataset, flags)
    pictures = report.written * len(dataset.sides) * views
    print(
        f"{features}: {report.written:,} {dataset.kind}, {model.width:,} numbers a picture; {report.summary(pictures)}"
    )
    if skipped := len(dataset.skipped) + len(report.skipped):
        print(f"warning: {skipped:,} left out; {features.with_suffix('.json')} tells which and why", file=sys.stderr)


def _loop(args: argparse.Namespace, model: Model, dataset: Dataset, forward: Forward, features: Path) -> Report:
    """Runs the loop under a line that says what runs."""
    from common.device import device_name
    from featuresExtractor.embeddings import FeaturesWriter, row_type
    from featuresExtractor.extractor import extract

    workers = args.workers or os.cpu_count() or 1
    print(
        f"{model.name} on {device_name(forward.device)}, precision fp32, {len(dataset):,} {dataset.kind}, "
        f"{len(forward.views)} view(s), {forward.batch} pictures at a time, {workers} reading"
    )
    longest = max(len(path.name) for item in dataset.items for path in item)
    row = row_type(dataset.sides, forward.width, longest)
    with FeaturesWriter(features, row, len(dataset), len(forward.views)) as writer:
        report = extract(dataset, forward, writer, workers, skip=args.on_error == "skip")
        if not report.written:
            raise InputError(f"{dataset.root}: none of its {len(dataset):,} {dataset.kind} could be read")
        features.with_suffix(".json").unlink(missing_ok=True)  # it tells of the features that are replaced here
        writer.finish()
    return report


def _reduce(features: Path, reduced: Path, components: int, device: torch.device) -> None:
    """The second stage: `features.npy` -> the PCA and `features_pcaN.npy`."""
    from featuresExtractor import provenance
    from featuresExtractor.processor import reduce_features

    pca_file = reduced.with_name(f"pca{components}.skops")
    pca = reduce_features(features, reduced, pca_file, components, device)
    kept = float(pca.explained_variance_ratio_.sum())
    provenance.record_reduced(reduced, features, components, kept)
    print(f"{reduced}: {components} numbers a picture, {kept:.1%} of the variance; the PCA: {pca_file}")


if __name__ == "__main__":
    sys.exit(main())
