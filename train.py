"""Learns from the features of pairs what people see as alike, and tells how well partners then find each other.

    python train.py -d FEATURES/clip_rn50x4/features_pca256.npy -s RUNS/first -e 150 -r 20 -t 15 -k 1 3 5
    python train.py -d FEATURES/efficientnet_lite0/features.npy -s RUNS/frozen --model dummy
    python train.py -d FEATURES -s RUNS/compared -r 20 -t 15
    tensorboard --logdir RUNS

A small head is trained on the pairs of a features file (`extract.py` writes one; the field's old pickled files are read
too, safely). Each run draws its own test pairs. RUNS/first/ receives TensorBoard curves, logs, checkpoints, the splits,
`summary.json` and `curves.png`.

Several features files, or folders of them, are compared on the same splits: RUNS/compared/ receives such a folder for
each model, and one table (`comparison.txt`, `.csv`, `.tex`, `.json`) and bar plot (`comparison.png`, `.svg`) of all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import console

if TYPE_CHECKING:
    from adaptation.plan import FeatureSet, Setup
    from adaptation.trainer import Settings

COMPONENTS = 256  # of the paper's PCA


def build_parser() -> argparse.ArgumentParser:
    """The command line of `train.py`."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "-d",
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="features files of pairs (.npy, .npz), or folders that extract.py made: of a model's folder its one "
        "features_pcaN.npy, or features.npy where there is none. Several are compared",
    )
    add(
        "--paired",
        action="store_true",
        help="the two files of -d are plain arrays (N, D), the left and the right side: -d LEFT.npy RIGHT.npy --paired",
    )
    add("-s", "--save", type=Path, required=True, metavar="PATH", help="run folder to write to, for TensorBoard too")
    add(
        "--model",
        default="original",
        metavar="HEAD",
        help="original: ReLU(W x), 1024 dimensions, the paper's; peterson: one weight a dimension; dummy: the frozen "
        "features, no training; FILE.py:CLASS: a head of your own, from a file that is run (default original)",
    )
    add(
        "--loss",
        default="contrastive",
        metavar="LOSS",
        help="contrastive: the paper's, which is CLIP's; sigmoid: SigLIP's, with its bias fixed at -10; "
        "FILE.py:FUNCTION: one of your own, from a file that is run. All but the first hold whole N x N matrices "
        "(default contrastive)",
    )
    add(
        "-e",
        "--epochs",
        type=console.positive,
        default=150,
        metavar="N",
        help="epochs, a step on all pairs each unless --batch-size says otherwise (default 150)",
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
    add(
        "--batch-size",
        type=console.positive,
        metavar="N",
        help="pairs in a step, at most; metrics of training then have the batch as their gallery (default: all pairs, "
        "as in the paper)",
    )
    add("--test-split", type=float, default=0.25, metavar="SHARE", help="share of the pairs to test on (default 0.25)")
    add(
        "-k",
        type=console.positive,
        nargs="+",
        metavar="K",
        help="the k of aR@k: a partner counts when among the k nearest (default 1 3; when several models are compared "
        "1 3 5)",
    )
    add(
        "--pca-fit",
        choices=("extract", "train"),
        default="extract",
        help="extract: features as extract.py left them, whose PCA has seen the test images; train: each run fits a "
        "PCA of its own on its training pairs, from features.npy (default extract)",
    )
    add(
        "--components",
        type=console.positive,
        metavar="N",
        help="which features_pcaN.npy of a folder is meant where there are several; with --pca-fit train the "
        f"components that each run keeps (default {COMPONENTS})",
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
    add(
        "--final",
        action="store_true",
        help="after the runs, whose mean is what to expect of it, train one more head on all pairs, and write it with "
        "all that embeds new images to similarity.safetensors; also possible when the runs are there already",
    )
    add("--html", action="store_true", help="also write page.html: the test pairs of the first run, failures first")
    add(
        "--images",
        type=Path,
        metavar="PATH",
        help="with --html: the folder with left/ and right/ (default: the one that extract.py read)",
    )
    add("--overwrite", action="store_true", help="replace the run that is already in the folder, once the new is done")
    console.add_device(parser)
    console.add_precision(
        parser,
        ("fp32", "tf32", "bf16"),
        "bf16 rounds the products of training, whose recalls are then approximate; tests stay in fp32",
    )
    add(
        "--memory",
        type=console.positive_float,
        metavar="GIB",
        help="memory for training; where it does not hold the pairs' similarities they are computed twice (default: "
        "half of what is free)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`; returns 0, 2 after wrong input, or 130 or 143 when it was asked to end."""
    args = build_parser().parse_args(argv)
    return console.guarded("train.py", lambda: run(args), "the same command goes on with the runs that are missing")


def run(args: argparse.Namespace) -> int:
    """From parsed arguments to the run folders and the closing table; all input is checked before the first epoch."""
    from common.machine.shortage import check_libraries

    check_libraries(["adaptation.experiment", "skops.io", "matplotlib.pyplot"])

    from adaptation.experiment import publish, published, run, summarise
    from adaptation.final import check_finals, train_finals
    from adaptation.plan import plan
    from common.machine.device import tf32
    from common.machine.system import keep_freed_memory
    from common.storage.lock import held
    from common.storage.staging import Staging

    sets, setup = _setup(args)
    if args.html:
        from adaptation.reporting.page import find_images_of, write_pages

        images = [find_images_of(features, args.images) for features in sets]
    keep_freed_memory()
    with tf32(args.precision == "tf32"), held(args.save):
        Staging(args.save).complete()
        work = plan(sets, setup, args.save, args.overwrite)
        if args.final:
            check_finals(work)
        records = published(work) if work.done else summarise(work, run(work))
        if args.final:
            train_finals(work, records)
        if args.html:
            write_pages(work, images)
        publish(work)
        if work.compared:
            _show_comparison(args.save, [features.folder for features in sets])
        else:
            _show_run(records[0]["metrics"], setup, args.save)
    return 0


def _setup(args: argparse.Namespace) -> tuple[list[FeatureSet], Setup]:
    """The features, looked through, each with the folder of its runs: one alone goes to the run folder itself, several
    go to a folder each within. And what all runs share."""
    from adaptation.data.sources import find_sources, paired_source
    from adaptation.data.split_pca import SplitPCA
    from adaptation.data.splits import check_share
    from adaptation.memory import GIB
    from adaptation.plan import FeatureSet, Setup, choose_ks, look_through
    from adaptation.similarity.learned.origin import origin_of
    from common.machine.device import check_precision, training_device

    components = (args.components or COMPONENTS) if args.pca_fit == "train" else None  # of a PCA of each run's own
    sources = paired_source(args.data) if args.paired else find_sources(args.data, not components, args.components)
    _note_small_temperature(args.temperature)
    surveys = look_through(sources, args.subset, args.on_error == "skip")
    device = training_device(args.gpu)
    check_precision(args.precision, device)
    tested = check_share(len(surveys[0].names), args.test_split)
    setup = Setup(
        _settings(args, choose_ks(args.k, tested, compared=len(surveys) > 1)),
        args.runs,
        tested,
        device,
        split_pca=SplitPCA(components, device) if components else None,
        subset=args.subset,
        memory=args.memory * GIB if args.memory else None,
        flags=vars(args),
    )
    folders = [args.save / source.folder for source in sources] if len(sources) > 1 else [args.save]
    origins = [origin_of(source.path) for source in sources]
    return [FeatureSet(*given) for given in zip(sources, surveys, folders, origins, strict=True)], setup


def _settings(args: argparse.Namespace, ks: tuple[int, ...]) -> Settings:
    """What a run is made of."""
    from adaptation.extensions import digest, find
    from adaptation.heads import HEADS
    from adaptation.losses import find_loss
    from adaptation.trainer import Settings

    code = tuple((name, sha256) for name in (args.model, args.loss) if (sha256 := digest(name)))
    find(args.model, HEADS, "head")
    find_loss(args.loss, code)
    return Settings(
        head=args.model,
        epochs=args.epochs,
        temperature=args.temperature,
        test_split=args.test_split,
        ks=ks,
        seed=args.seed,
        batch_size=args.batch_size,
        precision=args.precision,
        loss=args.loss,
        code=code,
    )


def _note_small_temperature(temperature: float) -> None:
    """Say that t multiplies where it looks like one that divides."""
    if temperature < 1:
        note = f"t multiplies the cosine here; CLIP's temperature of {temperature:g} is -t {1 / temperature:.3g}"
        print(f"note: -t {temperature:g}: {note}", file=sys.stderr)


def _show_comparison(folder: Path, folders: Sequence[Path]) -> None:
    """The closing table of several models."""
    from adaptation.reporting.report import read_report

    print(f"\n{read_report(folder)}")
    print(
        f"results: {folder / 'comparison.txt'}, and .csv, .tex, .json\n"
        f"plot:    {folder / 'comparison.png'}, and .svg\n"
        f"curves:  tensorboard --logdir {console.quoted(folder)}"
    )
    _show_use(folders[0])


def _show_use(folder: Path) -> None:
    """Say how to use what was learned, if it was kept."""
    if (folder / "similarity.safetensors").exists():
        print(f"use it:  python similarity.py search -m {console.quoted(folder)} -q IMAGE -g FOLDER -s OUT")


def _show_run(metrics: dict[str, Any], setup: Setup, folder: Path) -> None:
    """The closing table of one model."""
    header = ["test pairs", "frozen", "adapted", "sd", "95 % interval", "best epoch*"]
    rows = []
    for name, values in metrics.items():
        last = values["last_epoch"]
        interval = " .. ".join(f"{bound:.3f}" for bound in last["interval95"]) if last["interval95"] else "-"
        spread = "-" if last["sd"] is None else f"{last['sd']:.3f}"
        means = [f"{values[key]['mean']:.3f}" for key in ("frozen", "last_epoch", "best_epoch_on_test")]
        rows.append([name.replace("top ", "aR@"), means[0], means[1], spread, interval, means[2]])
    runs = "1 run" if setup.runs == 1 else f"{setup.runs} runs"
    pairs = f"{setup.tested:,} test pair{'s' * (setup.tested > 1)}"
    fitted = "; PCA fitted on each run's training pairs" if setup.split_pca else ""
    print(f"\n{pairs}, mean of {runs}; adapted: head {setup.settings.head}, after the last epoch{fitted}")
    print(console.table(header, rows))
    print("* picked on the test pairs, run by run: optimistic")
    print(
        f"\nresults: {folder / 'summary.json'}\n"
        f"curves:  {folder / 'curves.png'}, or: tensorboard --logdir {console.quoted(folder)}"
    )
    if (folder / "page.html").exists():
        print(f"page:    {folder / 'page.html'}")
    _show_use(folder)


if __name__ == "__main__":
    sys.exit(main())
