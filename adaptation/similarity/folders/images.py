"""The images that a command line names: those of a folder, one file, pairs, or absolute paths from a list."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from common.errors import InputError, listed, printable
from featuresExtractor.images.folders.dataset import FLAT_SIDES, Dataset, find_images

logger = logging.getLogger(__name__)


def images_at(path: Path, recursive: bool, links: bool, skip: bool) -> Dataset:
    """Return the images of a folder, or the one image that a file is; InputError for pairs, and where none are."""
    if path.is_file():
        return Dataset(path.parent, FLAT_SIDES, [(path,)])
    if not path.exists():
        raise InputError(f"{printable(str(path))}: no such image or folder")
    dataset = images_or_pairs(path, recursive, links, skip)
    if dataset.sides != FLAT_SIDES:
        raise InputError(f"{printable(str(path))}: holds pairs; give its left/ or right/")
    return dataset


def images_or_pairs(path: Path, recursive: bool, links: bool, skip: bool) -> Dataset:
    """Return the images or the pairs of a folder; what is odd about it is logged."""
    if path.is_file():
        raise InputError(f"{printable(str(path))}: is a file; give the folder that it is in")
    dataset = find_images(path, skip, recursive, links)
    for line in dataset.warnings():
        logger.warning(printable(line))
    return dataset


def images_of(paths: Iterable[Path], folder: Path) -> Dataset:
    """Return images at absolute paths, each once, as a dataset of single images. Where all are in `folder` or below,
    their names are relative to it, else absolute, so that they are the same ones when others join them. InputError for
    images on several drives."""
    images = sorted(set(paths))
    roots = [folder] if all(path.is_relative_to(folder) for path in images) else {Path(path.anchor) for path in images}
    if len(roots) > 1:
        raise InputError(f"the images are on several drives ({listed(map(str, roots))}); move them to one")
    (root,) = roots
    return Dataset(root, FLAT_SIDES, [(path,) for path in images], recursive=True)
