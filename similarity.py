"""Uses what train.py learned: embeds new images, searches among them, and scores pairs.

    python similarity.py embed  -m RUNS/first -d PHOTOS -s OUT
    python similarity.py search -m RUNS/first -q QUERY.jpg -g PHOTOS -k 10 -s OUT
    python similarity.py score  -m RUNS/first -d PAIRS -s OUT

RUNS/first is a run folder that `train.py --final` wrote, or the file similarity.safetensors from it. That file is
enough, but for the weights of the pretrained network: these are downloaded or found as extract.py does it.

    embed    writes OUT/embeddings.npy
    search   writes OUT/results.csv: a row for each query and rank
    score    writes OUT/scores.csv: a row for each pair

`similarity.py embed -h` and so on list the options of each.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from common import console

if TYPE_CHECKING:
    from adaptation.similarity.folders.embedding import Options
    from adaptation.similarity.folders.scoring import Scored
    from adaptation.similarity.folders.searching import Search
    from adaptation.similarity.similarity import Similarity

EMBED = """Embed the images of a folder: one embedding each, whose cosines say how alike images are.

    OUT/embeddings.npy   names and embeddings; np.load reads it, and train.py takes those of pairs
    OUT/frozen.npy       the same for the features before the head
    OUT/*.json           how they were made, and which images were skipped

Interrupted, the same command resumes. Given again after images were added, changed or removed, it embeds only the new
and the changed ones."""

SEARCH = """Find the k most similar images of a gallery for each query.

    OUT/results.csv      a row for each query and rank: the image that was found, its cosine, the percentage of
                         strangers and of partners with a lower one, and its cosine and rank before training
    OUT/page.html        with --html: the same to look at
    OUT/gallery          the embeddings of the gallery; another search with --overwrite uses them again
    OUT/queries          those of the queries

An image that is in the gallery itself does not count as its own neighbour."""

SCORE = """Say how alike the two images of each pair are.

    OUT/scores.csv       a row for each pair: its cosine before training (frozen) and after, and the percentage of
                         strangers and of partners with a lower one
    OUT/page.html        with --html: how well partners find each other
    OUT/pairs            the embeddings (of --pairs: OUT/images); another call with --overwrite uses them again

Percentages tell more than cosines: strangers have positive cosines too. They rest on the test pairs of the runs, which
the heads had not learned from."""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of `similarity.py`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="similarity.py", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="embed | search | score")
    for add, name, text, short in (
        (_add_embed, "embed", EMBED, "embed the images of a folder"),
        (_add_search, "search", SEARCH, "find the most similar images of a gallery"),
        (_add_score, "score", SCORE, "say how alike the images of pairs are"),
    ):
        command = commands.add_parser(name, help=short, description=text, formatter_class=raw)
        add(command)
        _add_common(command)
    return parser


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=embed)
    add = parser.add_argument
    add(
        *("-d", "--dataset"),
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of images, a folder with left/ and right/, or a features file (.npy) that extract.py made with "
        "the same networks",
    )
    add(
        "--format",
        choices=("npy", "parquet"),
        default="npy",
        help="parquet: also write embeddings.parquet, for table tools; needs pyarrow (default npy)",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=search)
    add = parser.add_argument
    add("-q", "--queries", type=Path, required=True, metavar="PATH", help="an image, or a folder of images")
    add(
        *("-g", "--gallery"),
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of images, or the output of embed",
    )
    add("-k", type=console.positive, default=10, metavar="K", help="images to find for each query (default 10)")
    add(
        "--partners",
        action="store_true",
        help="an image of the gallery that has the name of a query (whatever the suffix) is its partner: count how "
        "many are found, and mark them on the page",
    )
    add(
        "--index",
        choices=("exact", "faiss"),
        default="exact",
        help="faiss: approximate search, for millions of images; needs faiss-cpu. Its recall against exact search is "
        "measured on a sample of the queries and printed (default exact)",
    )
    _add_html(parser)


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=score)
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument(
        *("-d", "--dataset"),
        type=Path,
        metavar="PATH",
        help="a folder with left/ and right/; images of the same name are a pair",
    )
    either.add_argument(
        "--pairs",
        type=Path,
        metavar="CSV",
        help="a CSV file with the columns left and right: paths of images, absolute or relative to the CSV",
    )
    _add_html(parser)


def _add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", action="store_true", help="also write OUT/page.html, which opens in a browser")


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-m", "--model", type=Path, required=True, metavar="RUN", help="a run folder, or similarity.safetensors")
    add("-s", "--save", type=Path, required=True, metavar="OUT", help="folder to write to")
    add("--overwrite", action="store_true", help="replace results, and embeddings if another similarity made them")
    add("--recursive", action="store_true", help="also read subfolders")
    add("--follow-links", action="store_true", help="also read images, and with --recursive folders, behind links")
    add(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="skip: skip images that cannot be read or have no partner; fail: name them and end (default fail)",
    )
    add(
        "--weights",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="weights of the pretrained network, where they cannot be downloaded or were a local file; give it once "
        "for each network",
    )
    add(
        "--head",
        metavar="FILE.py:CLASS",
        help="the head, where train.py --model was given one in a file: the file is run, so read it first if it is not "
        "yours",
    )
    add("-b", "--batch-size", type=console.positive, metavar="N", help="images at a time (default 64, on a GPU 256)")
    console.add_reading(parser)
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
    from common.machine.system import keep_freed_memory, readers
    from featuresExtractor.backbones.inference import default_batch

    keep_freed_memory()
    device = training_device(args.gpu)
    similarity = Similarity.load(args.model, device=device, weights=args.weights, head=args.head)
    flags = {name: value for name, value in vars(args).items() if name != "run"}
    options = Options(
        batch=args.batch_size or default_batch(device),
        workers=args.workers or readers(),
        skip=args.on_error == "skip",
        links=args.follow_links,
        overwrite=args.overwrite,
        max_pixels=args.max_pixels,
        flags=flags,
    )
    return similarity, options


def embed(args: argparse.Namespace) -> int:
    """Embed a folder, or a features file."""
    from adaptation.similarity.folders.embedding import embed_dataset
    from adaptation.similarity.folders.features import embed_features
    from adaptation.similarity.folders.images import images_or_pairs
    from adaptation.similarity.folders.parquet import check_pyarrow, write_parquet

    if args.format == "parquet":
        check_pyarrow()
    similarity, options = _load(args)
    if args.dataset.suffix in (".npy", ".npz"):
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
    from adaptation.similarity.folders.results import results_in, write_results
    from adaptation.similarity.folders.searching import FILE, HEADER, rows

    if args.index == "faiss":
        from adaptation.similarity.index import load_faiss

        load_faiss()
    with results_in(args.save, FILE, args.overwrite):
        similarity, found = _found(args)
        page = None
        if args.html:
            from adaptation.similarity.folders.showing import search_page

            page = search_page(similarity, found)
        write_results(args.save, FILE, chain([HEADER], rows(similarity, found)), page)
    print(f"{len(found.queries):,} queries, {len(found.gallery):,} images searched: {args.save / FILE}")
    if args.partners:
        print(found.recall())
    _show_page(args)
    return 0


def _found(args: argparse.Namespace) -> tuple[Similarity, Search]:
    """The similarity, and what it finds."""
    from adaptation.similarity.folders import searching
    from adaptation.similarity.folders.images import images_at

    similarity, options = _load(args)
    flags = args.recursive, args.follow_links, options.skip
    queries, gallery = images_at(args.queries, *flags), searching.gallery_at(args.gallery, similarity, *flags)
    wanted = searching.Wanted(args.k, args.index, args.partners)
    return similarity, searching.search_images(similarity, queries, gallery, args.save, options, wanted)


def score(args: argparse.Namespace) -> int:
    """Score pairs."""
    from adaptation.similarity.folders.results import results_in, write_results
    from adaptation.similarity.folders.scoring import FILE, HEADER, LEARNED, has_learned_from, rows

    with results_in(args.save, FILE, args.overwrite):
        similarity, scored = _scored(args)
        page = None
        if args.html:
            from adaptation.similarity.folders.showing import pairs_page

            page = pairs_page(similarity, scored)
        write_results(args.save, FILE, chain([HEADER], rows(similarity, scored)), page)
    if has_learned_from(similarity, scored):
        print(f"note: {LEARNED}", file=sys.stderr)
    calibration = similarity.about["calibration"]
    print(
        f"{len(scored.names):,} pairs: {args.save / FILE}\n"
        f"percentiles rest on the test pairs of the runs: {calibration['partners']:,} cosines of partners, "
        f"{calibration['strangers']:,} of strangers"
    )
    _show_page(args)
    return 0


def _scored(args: argparse.Namespace) -> tuple[Similarity, Scored]:
    """The similarity, and the pairs that it scores."""
    from adaptation.similarity.folders.scoring import listed_pairs, pairs_in

    similarity, options = _load(args)
    if args.pairs:
        return similarity, listed_pairs(similarity, args.pairs, args.save, options)
    return similarity, pairs_in(similarity, args.dataset, args.recursive, args.save, options)


def _show_page(args: argparse.Namespace) -> None:
    if args.html:
        from adaptation.similarity.folders.results import PAGE

        print(f"page: {args.save / PAGE}")


if __name__ == "__main__":
    sys.exit(main())
