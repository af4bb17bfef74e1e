"""List the images of a folder, and the files that are not read with their reasons; few files are opened for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from common.errors import InputError
from common.names.matching import SUFFIXES
from featuresExtractor.images.kinds import HEAD, kind_of, reason_not_read, suffixes

NESTED = "in a subfolder; --recursive reads it"
BESIDE = "beside left/ and right/, not in them"
HIDDEN = "its name or its folder's name begins with a dot; rename it to have it read"
LINKED = "a link to a folder; --recursive with --follow-links reads it"
LOOP = "a link to a folder that holds this link"
OUTSIDE = "a link to a place outside of the dataset; --follow-links reads it"
OTHER = "not an image by its name or its contents"
MOST_FOLDERS = 100_000  # that are entered through links, which could lead to each other in very many ways

LITTER = re.compile(
    r"""\._.* | \.git.* | \.~lock\..* | ~\$.* | \.fuse_hidden.* | \.nfs[0-9a-f]+ | \.trash(-\d+)? | .*:zone\.identifier
    | \.ds_store | thumbs\.db(:encryptable)? | ehthumbs(_vista)?\.db | desktop\.ini | icon\r | \.directory | \.nomedia
    | @eadir | \#recycle | @recycle | @tmp | \.@__thumb | \.ipynb_checkpoints | __macosx | __pycache__ | lost\+found
    | \.spotlight-v100 | \.trashes | \.fseventsd | \.temporaryitems | \.documentrevisions-v100 | \.volumeicon\.icns
    | \.apdisk | \.appledouble | \.lsoverride | \.localized | \$recycle\.bin | system\ volume\ information
    | \.?picasa\.ini | \.keep | \.svn | \.hg | \.dvc(ignore)?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""What operating systems and tools leave behind in folders: only these are skipped without a word."""
PLAIN = frozenset(
    f".{suffix}"
    for line in ("csv htm html json jsonl md npy npz parquet pkl py safetensors tsv txt xml yaml yml",)
    for suffix in line.split()
)
"""Suffixes of files that are often beside images and are none, so that they need not be opened."""


class NotRead(NamedTuple):
    """A file that is not read, or a folder (with `/` at its end), and why."""

    name: str
    reason: str


class Scan(NamedTuple):
    """The images of a folder, and what is not read there. Names are relative to the folder, with `/`, and sorted."""

    images: list[str]
    not_read: list[NotRead]


def scan(folder: Path, recursive: bool = False, links: bool = False, root: Path | None = None) -> Scan:
    """Return what `folder` holds: with `recursive` also in its subfolders, with `links` also behind links.

    A file is an image by its suffix, or by its first bytes where the suffix is unknown; the check of all images later
    finds files that only have the suffix of one. Without `links` no link may lead out of `root`, the dataset's folder.
    InputError where the folder cannot be read.
    """
    walk = _Walk(folder, recursive, links, (root or folder).resolve())
    walk.go("")
    return walk.sorted()


def scan_beside(root: Path, sides: Sequence[str]) -> list[NotRead]:
    """Return the images in `root` that are not in its folders `sides`."""
    walk = _Walk(root, False, False, root.resolve(), sides)
    walk.go(BESIDE)
    return walk.sorted().not_read


_Above = frozenset[tuple[int, int]]  # the folders that hold a folder, by device and number


@dataclass
class _Walk:
    """One walk through a folder and what is below it."""

    folder: Path
    recursive: bool
    links: bool
    root: Path
    without: Sequence[str] = ()
    images: list[str] = field(default_factory=list)
    not_read: list[NotRead] = field(default_factory=list)
    linked: int = 0

    def sorted(self) -> Scan:
        """Return what the folder holds, in order."""
        return Scan(sorted(self.images), sorted(self.not_read))

    def go(self, reason: str) -> None:
        """Look through all folders; with a `reason` nothing in them is read."""
        todo: list[tuple[str, str, _Above]] = [("", reason, self._with(self.folder, frozenset()))]
        while todo:
            prefix, reason, above = todo.pop()
            for entry in self._entries(prefix):
                name = prefix + entry.name
                if LITTER.fullmatch(entry.name) or (not prefix and entry.name in self.without):
                    continue
                if not _is(entry.is_dir):
                    self._take(entry, name, reason)
                    continue
                if not reason and not self.recursive and _suffix(name) in suffixes():
                    self.images.append(name)  # so that the check of all images names it
                if self._enters(entry, name, above, reason):
                    todo.append((f"{name}/", reason or self._reason_below(entry), self._with(entry, above)))

    def _entries(self, prefix: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder / prefix) as entries:
                return list(entries)
        except OSError as error:
            reason = f"the folder cannot be read ({error.strerror})"
            if not prefix:
                raise InputError(f"{self.folder}: {reason}") from error
            self.not_read.append(NotRead(prefix, reason))
            return []

    def _reason_below(self, entry: os.DirEntry[str]) -> str:
        """Return why the files in a subfolder are not read, if they are not."""
        if entry.name.startswith("."):
            return HIDDEN
        return "" if self.recursive else NESTED

    def _with(self, folder: Path | os.DirEntry[str], above: _Above) -> _Above:
        """Return the folders above what is in `folder`; only where links are followed, which alone can make loops."""
        if not self.links:
            return above
        status = Path(folder).stat()
        return above | {(status.st_dev, status.st_ino)}

    def _enters(self, entry: os.DirEntry[str], name: str, above: _Above, reason: str) -> bool:
        """Return whether a folder is entered: through a link only where links are followed, and never in a loop."""
        if not entry.is_symlink():
            return True
        loop = self.links and self._with(entry, frozenset()) <= above
        if reason in (HIDDEN, BESIDE):
            return False
        if loop or not self.links:
            self.not_read.append(NotRead(f"{name}/", LOOP if loop else LINKED))
            return False
        self.linked += 1
        if self.linked > MOST_FOLDERS:
            raise InputError(f"{self.folder}: links in it lead to more than {MOST_FOLDERS:,} folders")
        return True

    def _take(self, entry: os.DirEntry[str], name: str, reason: str) -> None:
        """Add a file to the images or to what is not read. In folders that are not read, images alone are listed."""
        own_reason = self._look(entry, open_any=reason in ("", NESTED))
        if not own_reason and not reason and not entry.name.startswith("."):
            self.images.append(name)
        elif not (reason and own_reason == OTHER):
            self.not_read.append(NotRead(name, reason or own_reason or HIDDEN))

    def _look(self, entry: os.DirEntry[str], open_any: bool) -> str:
        """Return why a file is not read; empty for an image."""
        suffix = _suffix(entry.name)
        if suffix in suffixes():
            return ""
        if suffix in PLAIN or not _is(entry.is_file):
            return OTHER
        if not open_any:
            return "" if suffix in SUFFIXES else OTHER
        if not self.links and entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(self.root):
            return OUTSIDE
        try:
            with open(entry.path, "rb") as file:  # noqa: PTH123 (many files: no Path for each)
                head = file.read(HEAD)
        except OSError as error:
            return f"cannot be opened ({error.strerror})"
        return reason_not_read(entry.name, head) or ("" if kind_of(head) else OTHER)


def _is(kind: Callable[[], bool]) -> bool:
    """Return what `kind`, a method of an entry, answers; False where it cannot, such as for a link to itself."""
    try:
        return kind()
    except OSError:
        return False


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()
