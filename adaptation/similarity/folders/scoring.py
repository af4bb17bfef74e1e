"""Score pairs: their cosine before and after training, and what it means."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from adaptation.similarity.folders.embedded import EVERY, Embedded
from adaptation.similarity.folders.embedding import Options, embed_dataset
from adaptation.similarity.folders.images import images_of, images_or_pairs
from adaptation.similarity.folders.results import cosine, percentage
from adaptation.similarity.learned.from_run import pairs_digest
from adaptation.similarity.similarity import ROWS, Similarity
from common.errors import InputError, listed, printable
from featuresExtractor.images.folders.dataset import FLAT_SIDES, PAIR_SIDES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]

logger = logging.getLogger(__name__)

FILE = "scores.csv"
LEARNED = "It has learned from pairs of these very names: if they are the same images, others will score less well."
HEADER = ("left", "right", "frozen_cosine", "cosine", "percentile_strangers", "percentile_partners")
SEPARATORS = (",", ";", "\t")
MOST_CSV = 2**28  # bytes


def read_pairs_file(path: Path) -> list[tuple[str, str]]:
    """Return the pairs that a CSV lists in its columns `left` and `right`: paths of images, which are relative to the
    CSV. InputError for another file, and where images are missing."""
    shown, rows = printable(str(path)), _rows(path)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if any(header.count(column) != 1 for column in PAIR_SIDES):
        raise InputError(f"{shown}: a header with the columns left and right is expected, once each")
    places = [header.index(column) for column in PAIR_SIDES]
    filled = [(number, row) for number, row in enumerate(rows[1:], 1) if any(cell.strip() for cell in row)]
    if short := [number for number, row in filled if len(row) <= max(places)]:
        raise InputError(f"{shown}: row {short[0]:,} below the header has fewer cells than the header")
    if not filled:
        raise InputError(f"{shown}: lists no pairs below its header")
    pairs = [(row[places[0]].strip(), row[places[1]].strip()) for _, row in filled]
    names = dict.fromkeys(name for pair in pairs for name in pair)
    if missing := [name or "(empty)" for name in names if not _is_file(path.parent / name)]:
        raise InputError(f"{shown}: {len(missing):,} of its images do not exist: {listed(missing, 3)}")
    return pairs


def _rows(path: Path) -> list[list[str]]:
    """The rows of a CSV, whatever separates its cells."""
    text = _text(path)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text)))
    except csv.Error as error:
        raise InputError(f"{printable(str(path))}: not a CSV file ({error})") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # of a name that no file can have
        return False


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_CSV:
            raise InputError(f"{printable(str(path))}: too large for a list of pairs")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{printable(str(path))}: no CSV file can be read here ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(str(path))}: not UTF-8 text; save it as CSV (UTF-8)") from error


def _separator(text: str) -> str:
    """The separator that splits the first line into most cells."""
    return max(SEPARATORS, key=next(iter(text.splitlines()), "").count)


@dataclass(frozen=True)
class Scored:
    """N pairs: the names and the files of each, and the rows `places` (N, 2) of its images in `embedded`."""

    names: Sequence[tuple[str, str]]
    paths: Sequence[tuple[Path, Path]]
    embedded: Embedded
    places: NDArray[np.int64]

    def vectors(self, pairs: slice = EVERY) -> list[Vectors]:
        """Return for the left and the right side the frozen features (n, d) and the embeddings (n, E) of these pairs,
        or of all."""
        sides = self.embedded.embeddings.sides
        fields = sides if len(sides) > 1 else sides * 2
        return [
            tuple(each[rows] for each in self.embedded.vectors(field))
            for field, rows in zip(fields, self.places[pairs].T, strict=True)
        ]

    def cosines(self) -> NDArray[np.float32]:
        """Return the cosines (N, 2) of the pairs: by the frozen features, and by the embeddings."""
        found = np.empty((len(self.names), 2), np.float32)
        for first in range(0, len(found), ROWS):
            part = slice(first, first + ROWS)
            for space, sides in enumerate(zip(*self.vectors(part), strict=True)):
                found[part, space] = np.einsum("nd,nd->n", *sides)
        return found


def pairs_in(similarity: Similarity, path: Path, recursive: bool, folder: Path, options: Options) -> Scored:
    """Embed the pairs of a folder with left/ and right/ into `folder`/pairs; InputError for another folder."""
    dataset = images_or_pairs(path, recursive, options.links, options.skip)
    if dataset.sides != PAIR_SIDES:
        raise InputError(f"{printable(str(path))}: holds no left/ and right/; --pairs takes a CSV that lists pairs")
    embedded = embed_dataset(similarity, dataset, folder / "pairs", options)
    names, paths = ([*zip(*map(of, PAIR_SIDES), strict=True)] for of in (embedded.names, embedded.paths))
    return Scored(names, paths, embedded, np.arange(len(embedded))[:, None].repeat(2, axis=1))


def listed_pairs(similarity: Similarity, path: Path, folder: Path, options: Options) -> Scored:
    """Embed the images of the pairs that a CSV lists into `folder`/images, each once. Pairs with an image that is
    skipped are left out."""
    names = read_pairs_file(path)
    paths = [(_absolute(path, left), _absolute(path, right)) for left, right in names]
    dataset = images_of((image for pair in paths for image in pair), _absolute(path, "."))
    embedded = embed_dataset(similarity, dataset, folder / "images", options)
    rows = {name: row for row, name in enumerate(embedded.names(FLAT_SIDES[0]))}
    places = np.array([[rows.get(dataset.row_name(image), -1) for image in pair] for pair in paths])
    kept = np.flatnonzero((places >= 0).all(1)).tolist()
    if len(kept) < len(names):
        logger.warning(f"warning: {len(names) - len(kept):,} of {len(names):,} pairs left out: an image was skipped")
    if not kept:
        raise InputError(f"{printable(str(path))}: each of its pairs has an image that was skipped")
    return Scored([names[pair] for pair in kept], [paths[pair] for pair in kept], embedded, places[kept])


def _absolute(path: Path, name: str) -> Path:
    """The path of an image that the CSV at `path` names; links stay what they are."""
    return Path(os.path.abspath(path.parent / name))  # noqa: PTH100


def has_learned_from(similarity: Similarity, scored: Scored) -> bool:
    """Return whether a similarity was trained on pairs of these very names. A list names its images by their paths,
    which may be longer than those in left/ and right/."""
    files = [(PurePath(left).name, PurePath(right).name) for left, right in scored.names]
    return similarity.about["pairs"].get("sha256") in (pairs_digest(scored.names), pairs_digest(files))


def rows(similarity: Similarity, scored: Scored) -> Iterator[Sequence[object]]:
    """Yield the rows of `scores.csv` under `HEADER`, a row a pair: its cosine before and after training, and the
    percentages of strangers and of partners with a lower one."""
    cosines = scored.cosines()
    percentiles = similarity.percentiles(cosines[:, 1])
    for row, pair in enumerate(scored.names):
        percentages = (percentage(percentiles[kind][row]) for kind in ("strangers", "partners"))
        yield (*pair, *map(cosine, cosines[row]), *percentages)
