"""The files of embedded images in a folder.

embeddings.npy   the embeddings, in the format of the features file, with a .json
frozen.npy       the frozen features that they were made from, likewise
images.npy       size and time of change of each image, by which a later call knows it
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptation.similarity.similarity import Similarity
from common.errors import InputError, listed, printable
from common.machine.device import arithmetic_of
from common.machine.resources import require_disk
from common.progress import progress
from common.record import check_whole, make_record, read_record
from common.storage.files import sync_folder, write_json, written_whole
from common.storage.staging import Staging
from featuresExtractor.features.features_file import FeaturesWriter, Rows, name_field, open_features, row_type
from featuresExtractor.features.npy import read_header
from featuresExtractor.images.folders.dataset import FLAT_SIDES, State, state_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Names = tuple[str, ...]
    Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]

logger = logging.getLogger(__name__)

EMBEDDINGS, FROZEN, IMAGES = "embeddings.npy", "frozen.npy", "images.npy"
TABLE = "embeddings.parquet"  # where it was asked for
FILES = (FROZEN, EMBEDDINGS)
OWN = (*FILES, "frozen.json", "embeddings.json", IMAGES, TABLE)
STATE = np.dtype([("size", "<i8"), ("changed", "<i8")])  # bytes; nanoseconds
EVERY = slice(None)


@dataclass(frozen=True)
class Embedded:
    """Embedded images: `frozen` and `embeddings` have the same rows. `root` is the folder that the images were in, and
    None where they were embedded from a features file."""

    frozen: Rows
    embeddings: Rows
    root: Path | None = None

    def __len__(self) -> int:
        return self.embeddings.count

    def items(self) -> Iterator[Names]:
        """Yield the names of each row, one a side."""
        return zip(*(self.names(side) for side in self.embeddings.sides), strict=True)

    def names(self, side: str, rows: slice | NDArray[np.int64] = EVERY) -> list[str]:
        """Return the names of the images of a side in these rows, or in all."""
        names: list[str] = self.embeddings.all()[name_field(side)][rows].tolist()
        return names

    def paths(self, side: str, rows: slice | NDArray[np.int64] = EVERY) -> list[Path]:
        """Return where the images of a side in these rows, or in all, were when they were embedded; InputError where
        that is not known."""
        if self.root is None:
            raise InputError(f"{printable(str(self.embeddings.path))}: does not say where its images are")
        root = self.root if side == FLAT_SIDES[0] else self.root / side
        return [root / name for name in self.names(side, rows)]

    def vectors(self, side: str) -> Vectors:
        """Return the frozen features (N, n) and the embeddings (N, E) of a side, as memory maps."""
        return self.frozen.all()[side], self.embeddings.all()[side]


@dataclass(frozen=True)
class Block:
    """Some rows: the names of each, one a side, and for each side the frozen features (n, d) and embeddings (n, E)."""

    names: Sequence[Names]
    vectors: Sequence[Vectors]


def open_embedded(folder: Path, similarity: Similarity) -> Embedded:
    """Open the embedded images of a folder. InputError where there are none, where they are damaged, and where another
    similarity made them: their cosines with those of this one mean nothing."""
    shown = printable(str(folder))
    if not (folder / EMBEDDINGS).is_file():
        raise InputError(f"{shown}: no {EMBEDDINGS} here; similarity.py embed writes it")
    record = read_record(folder / EMBEDDINGS)
    _check_maker(shown, record, similarity)
    for name in FILES:
        check_whole(folder / name, read_record(folder / name))
    embedded = _opened(folder, record)
    widths = embedded.frozen.width, embedded.embeddings.width
    if embedded.frozen.count != len(embedded) or widths != (similarity.learned.reduced, similarity.width):
        raise InputError(f"{shown}: {FROZEN} and {EMBEDDINGS} do not belong together; embed it again with --overwrite")
    return embedded


def _opened(folder: Path, record: Mapping[str, Any]) -> Embedded:
    frozen, embeddings = (open_features(folder / name) for name in FILES)
    root = record.get("folder")
    return Embedded(frozen, embeddings, Path(root) if isinstance(root, str) else None)


def _check_maker(shown: str, record: Mapping[str, Any], similarity: Similarity) -> None:
    """InputError where embeddings are not of this similarity."""
    settings = record.get("settings")
    maker = settings.get("similarity") if isinstance(settings, dict) else None
    if maker is None:
        raise InputError(
            f"{shown}: no .json beside {EMBEDDINGS} says which similarity made it; give another folder, or --overwrite "
            "to replace it"
        )
    if maker != similarity.sha256:
        raise InputError(
            f"{shown}: was embedded by another similarity ({printable(str(maker))[:8]}... there, "
            f"{similarity.sha256[:8]}... asked); embed into another folder, or with similarity.py embed --overwrite"
        )


def existing_in(folder: Path, similarity: Similarity, sides: tuple[str, ...], overwrite: bool) -> Embedded | None:
    """Return what is in the folder already; None where there is nothing, or where it is to be replaced: what is of
    another similarity, or has other `sides`. InputError for such things without `overwrite`."""
    try:
        if not (folder / EMBEDDINGS).exists():
            _check_free(folder)
            return None
        existing = open_embedded(folder, similarity)
        if existing.embeddings.sides != sides:
            other = "pairs" if len(existing.embeddings.sides) > 1 else "single images"
            raise InputError(f"{printable(str(folder))}: holds {other}; give another folder, or --overwrite")
    except InputError:
        if not overwrite:
            raise
        return None
    return existing


def _check_free(folder: Path) -> None:
    """InputError where files that we did not write have the names of ours: they may be the user's."""
    if others := [name for name in OWN if (folder / name).exists()]:
        raise InputError(
            f"{printable(str(folder))}: holds {listed(others)} without {EMBEDDINGS}, so they may be yours; give "
            "another folder, or --overwrite"
        )


def read_states(embedded: Embedded) -> NDArray[Any] | None:
    """Return the recorded states (rows, sides) of images, of type STATE; None where there are none."""
    path, shape = embedded.embeddings.path.with_name(IMAGES), (len(embedded), len(embedded.embeddings.sides))
    try:
        with path.open("rb") as file:
            if read_header(file) != (shape, False, STATE):
                return None
            return np.fromfile(file, STATE).reshape(shape)
    except (OSError, ValueError):
        return None


def states_of(states: Sequence[Sequence[State]], sides: int) -> NDArray[Any]:
    """Return the states of items as an array (items, sides) of type STATE."""
    flat = (tuple(state) for item in states for state in item)
    return np.fromiter(flat, STATE, len(states) * sides).reshape(-1, sides)


def is_unchanged(path: Path, state: np.void) -> bool:
    """Return whether the image at `path` is the one whose `state` of type STATE was recorded."""
    return tuple(state_of(path)) == state.item()


@dataclass(frozen=True)
class Contents:
    """What goes to a folder: `count` rows of `sides`, whose names have at most `longest` characters, in `blocks`; what
    is recorded of them beside their number; and the states (rows, sides) of the images, where they are known."""

    sides: tuple[str, ...]
    longest: int
    count: int
    blocks: Iterable[Block]
    record: Mapping[str, Any]
    states: NDArray[Any] | None = None


def write_embedded(similarity: Similarity, staging: Staging, contents: Contents, flags: Mapping[str, Any]) -> Embedded:
    """Write embeddings and frozen features, and put the files in the place of what is there; `flags` is the command
    line, for the record. InputError where the disk does not hold them."""
    settings = {"similarity": similarity.sha256, "views": ["original"]}
    widths = (similarity.learned.reduced, similarity.width)
    types = [row_type(contents.sides, width, contents.longest) for width in widths]
    needed = contents.count * sum(row.itemsize for row in types)
    require_disk(needed, staging.folder, "the embeddings take", "make room")
    staging.begin(settings, overwrite=True)
    writers = [FeaturesWriter(staging.path / name, row, contents.count) for name, row in zip(FILES, types, strict=True)]
    _fill(writers, contents)
    made_by = {"device": arithmetic_of(similarity.device)}
    record = make_record(settings, flags, written=contents.count, **contents.record, **made_by)
    _seal(writers, record)
    if contents.states is not None:
        _write_states(staging.path / IMAGES, contents.states)
    sync_folder(staging.path)
    _place(staging)
    return _opened(staging.folder, record)


def _seal(writers: Sequence[FeaturesWriter], record: Mapping[str, Any]) -> None:
    """Bring the files to the disk, each with its record."""
    for writer in writers:
        _, digest = writer.seal()
        writer.file.close()
        write_json(writer.path.with_suffix(".json"), {"sha256": digest, **record})


def _place(staging: Staging) -> None:
    """Put the new files in the place of the old ones; what was made of the old ones goes too."""
    new = [path.name for path in staging.path.iterdir() if path.name in OWN]
    if (table := staging.folder / TABLE).exists():
        logger.warning(
            f"note: {printable(str(table))}: removed, since the embeddings changed; --format parquet writes it"
        )
    staging.place({name: name for name in new}, [name for name in OWN if (staging.folder / name).exists()])


def _fill(writers: Sequence[FeaturesWriter], contents: Contents) -> None:
    """Write all blocks, one after the other."""
    first = 0
    with progress(contents.count, "embed", "rows") as bar:
        for block in contents.blocks:
            for which, writer in enumerate(writers):
                writer.put(first, [_rows(writer, contents.sides, block, which)])
            first += len(block.names)
            bar.update(len(block.names))


def _rows(writer: FeaturesWriter, sides: tuple[str, ...], block: Block, which: int) -> NDArray[Any]:
    rows = np.zeros(len(block.names), writer.row)
    for number, side in enumerate(sides):
        rows[side] = block.vectors[number][which]
        rows[name_field(side)] = [names[number] for names in block.names]
    return rows


def _write_states(path: Path, states: NDArray[Any]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(STATE), "fortran_order": False, "shape": states.shape}
    with written_whole(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, description)
        states.tofile(file)
