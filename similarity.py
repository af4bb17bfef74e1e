"""Uses what train.py learned: embeds new images, searches among them, and scores pairs.

    python similarity.py embed  -m RUNS/first -d PHOTOS -s OUT
    python similarity.py search -m RUNS/first -q QUERY.jpg -g PHOTOS -k 10 -s OUT
    python similarity.py score  -m RUNS/first -d PAIRS -s OUT

RUNS/first is a run folder that `train.py --final` wrote, or the file similarity.safetensors from one: it holds all that
is needed but for the weights of the pretrained network, which are fetched or found as by extract.py.

    embed    OUT/embeddings.npy (as a features file, with a .json) and frozen.npy, what it was made from
    search   OUT/results.csv: a row for each query and rank
    score    OUT/scores.csv: a row for each pair

Images that are embedded already are not embedded again: the same command after new images came takes these alone.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import console

if TYPE_CHECKING:
    from adaptation.similarity.folders.embedding import Options
    from adaptation.similarity.similarity import Similarity

MOST_WORKERS = 32  # more threads of one Python process read no faster


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of `similarity.py`."""
    parser = argparse.ArgumentParser(
        prog="similarity.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="embed | search | score")
    _add_embed(commands.add_parser("embed", help="embed the images of a folder"))
    _add_search(commands.add_parser("search", help="find the most similar images of a gallery"))
    _add_score(commands.add_parser("score", help="score pairs of images"))
    return parser


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=embed)
    parser.add_argument(
        *("-d", "--dataset"),
        type=Path,
        required=True,
        metavar="PATH",
        help="folder of images, folder with left/ and right/, or a features file that extract.py made with the same "
        "networks",
    )
    parser.add_argument(
        "--format",
        choices=("npy", "parquet"),
        default="npy",
        help="parquet: also embeddings.parquet, for table tools; needs pyarrow (default npy)",
    )
    _add_common(parser)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=search)
    parser.add_argument(
        *("-q", "--queries"), type=Path, required=True, metavar="PATH", help="an image, or a folder of images"
    )
    parser.add_argument(
        *("-g", "--gallery"),
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of images, or what embed wrote of one",
    )
    parser.add_argument("-k", type=console.positive, default=10, metavar="K", help="images to find (default 10)")
    parser.add_argument(
        "--partners",
        action="store_true",
        help="images of the gallery are the partners of queries of the same name (whatever the suffix): count those "
        "that are found, and mark them on the page",
    )
    parser.add_argument(
        "--index",
        choices=("exact", "faiss"),
        default="exact",
        help="faiss: approximate, for millions of images; needs faiss-cpu, and its recall against exact search is "
        "measured and printed (default exact)",
    )
    _add_html(parser)
    _add_common(parser)


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=score)
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("-d", "--dataset", type=Path, metavar="PATH", help="folder with left/ and right/")
    either.add_argument(
        "--pairs",
        type=Path,
        metavar="CSV",
        help="CSV with the columns left and right: paths of images, relative to the CSV",
    )
    _add_html(parser)
    _add_common(parser)


def _add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", action="store_true", help="also write OUT/page.html, to look at")


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-m", "--model", type=Path, required=True, metavar="RUN", help="run folder, or similarity.safetensors")
    add("-s", "--save", type=Path, required=True, metavar="OUT", help="folder to write to")
    add("-b", "--batch-size", type=console.positive, default=64, metavar="N", help="images at a time (default 64)")
    add("--recursive", action="store_true", help="also read subfolders")
    add("--follow-links", action="store_true", help="also read images, and with --recursive folders, behind links")
    add(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what to do with images that cannot be read or have no partner (default fail)",
    )
    add(
        "--weights",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="weights of the network, where its hub cannot be reached or they were a local file; once for each network",
    )
    add(
        "--head",
        metavar="FILE.py:CLASS",
        help="the head, where it is in a file of your own: the file is run, so read it first if it is not yours",
    )
    add("--overwrite", action="store_true", help="replace results, and embeddings by another similarity")
    add(
        "--workers",
        type=console.positive,
        metavar="N",
        help=f"threads that read images (default: one a core, at most {MOST_WORKERS})",
    )
    console.add_device(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`; return 0, 2 after wrong input, or 130 or 143 when it was asked to end."""
    args = build_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.run
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd images that can be read: it would break the bar
        return console.guarded("similarity.py", lambda: command(args), "the same command resumes from here")


def _load(args: argparse.Namespace) -> tuple[Similarity, Options]:
    """The similarity, and how images are embedded with it."""
    from common.machine.shortage import check_libraries

    check_libraries(["adaptation.similarity.similarity", "timm"])

    from adaptation.similarity.folders.embedding import Options
    from adaptation.similarity.similarity import Similarity
    from common.machine.device import training_device
    from common.machine.system import cores, keep_freed_memory

    keep_freed_memory()
    device = training_device(args.gpu)
    similarity = Similarity.load(args.model, device=device, weights=args.weights, head=args.head)
    flags = {name: value for name, value in vars(args).items() if name != "run"}
    options = Options(
        batch=args.batch_size,
        workers=args.workers or min(MOST_WORKERS, cores()),
        skip=args.on_error == "skip",
        links=args.follow_links,
        overwrite=args.overwrite,
        flags=flags,
    )
    return similarity, options


def embed(args: argparse.Namespace) -> int:
    """Embed a folder, or a features file."""
    from adaptation.similarity.folders.embedding import embed_dataset
    from adaptation.similarity.folders.features import embed_features
    from adaptation.similarity.folders.parquet import check_pyarrow, write_parquet
    from adaptation.similarity.folders.searching import images_or_pairs

    if args.format == "parquet":
        check_pyarrow()
    similarity, options = _load(args)
    if args.dataset.suffix == ".npy":
        embedded = embed_features(similarity, args.dataset, args.save, options)
    else:
        dataset = images_or_pairs(args.dataset, args.recursive, args.follow_links, options.skip)
        embedded = embed_dataset(similarity, dataset, args.save, options)
    print(f"{len(embedded):,} embeddings of {similarity.width:,} dimensions: {embedded.embeddings.path}")
    if args.format == "parquet":
        print(f"as a table: {write_parquet(embedded, args.save)}")
    return 0


def search(args: argparse.Namespace) -> int:
    """Search a gallery for the most similar images of each query."""
    from adaptation.similarity.folders.embedded import EMBEDDINGS
    from adaptation.similarity.folders.results import check_results, write_results
    from adaptation.similarity.folders.searching import FILE, HEADER, images_at, rows, search_images

    check_results(args.save, FILE, args.overwrite)
    similarity, options = _load(args)
    flags = args.recursive, args.follow_links, options.skip
    queries = images_at(args.queries, *flags)
    gallery = args.gallery if (args.gallery / EMBEDDINGS).is_file() else images_at(args.gallery, *flags)
    found = search_images(similarity, queries, gallery, args.k, args.save, options, args.index, args.partners)
    page = None
    if args.html:
        from adaptation.similarity.folders.showing import search_page

        page = search_page(similarity, found, queries, gallery, args.k)
    write_results(args.save, FILE, [HEADER, *rows(similarity, found)], page)
    print(f"{len(found.queries):,} queries, {len(found.gallery):,} images searched: {args.save / FILE}")
    if args.partners:
        print(found.recall())
    _show_page(args)
    return 0


def score(args: argparse.Namespace) -> int:
    """Score pairs."""
    from adaptation.similarity.folders.results import check_results, write_results
    from adaptation.similarity.folders.scoring import (
        FILE,
        HEADER,
        LEARNED,
        has_learned_from,
        listed_pairs,
        pairs_in,
        rows,
    )

    check_results(args.save, FILE, args.overwrite)
    similarity, options = _load(args)
    if args.pairs:
        scored = listed_pairs(similarity, args.pairs, args.save, options)
    else:
        scored = pairs_in(similarity, args.dataset, args.recursive, args.save, options)
    page = None
    if args.html:
        from adaptation.similarity.folders.showing import pairs_page

        page = pairs_page(similarity, scored)
    write_results(args.save, FILE, [HEADER, *rows(similarity, scored)], page)
    calibration = similarity.about["calibration"]
    if has_learned_from(similarity, scored):
        print(f"note: {LEARNED}", file=sys.stderr)
    print(
        f"{len(scored.names):,} pairs: {args.save / FILE}\n"
        f"percentiles rest on the test pairs of the runs: {calibration['partners']:,} cosines of partners, "
        f"{calibration['strangers']:,} of strangers"
    )
    _show_page(args)
    return 0


def _show_page(args: argparse.Namespace) -> None:
    if args.html:
        from adaptation.similarity.folders.results import PAGE

        print(f"page: {args.save / PAGE}")


if __name__ == "__main__":
    sys.exit(main())
