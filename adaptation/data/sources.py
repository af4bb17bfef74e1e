"""Which features files are meant, and what their models are called: in tables, and as folders.

Names of models come from files of others: they are shown without control characters and never lead out of a folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import InputError, listed, printable
from common.record import read_record

FEATURES, REDUCED = "features.npy", re.compile(r"features_pca[^.]*\.npy")  # an unfinished file has one more dot
COMPONENTS = re.compile(r"_pca(\d+)\.npy")
DEPTH = 2  # folders below the given one: a model's name may have a slash in it
ALL_IMAGES, GIVEN, TRAINING_PAIRS, NONE, UNKNOWN = "all images", "given", "training pairs", "none", "unknown"
"""What a PCA was fitted on: by `extract.py`, or elsewhere (`extract.py --pca`), or by each run; without one; without a
`.json` that would tell."""
LONGEST = 60  # characters of a model's name that are kept
RESERVED = re.compile(r"run\d+|avg|frozen|(summary|curves|comparison)\..*", re.IGNORECASE)
"""What a folder of runs, or a comparison, calls its own parts."""


@dataclass(frozen=True)
class Source:
    """A features file, its model's name as it is shown, and as it names a folder; of two plain arrays (`--paired`) the
    left one and the `right`."""

    path: Path
    label: str
    right: Path | None = None

    @property
    def folder(self) -> str:
        """The label as one harmless folder name, which no part of a run has."""
        return folder_name(self.label)

    @property
    def protocol(self) -> str:
        """What `extract.py` fitted a PCA on."""
        record = read_record(self.path)
        if "pca" not in record:
            return NONE if record else UNKNOWN
        pca = record["pca"]
        return GIVEN if isinstance(pca, dict) and pca.get("fitted_on") == GIVEN else ALL_IMAGES


def find_sources(given: Sequence[Path], reduced: bool = True, components: int | None = None) -> list[Source]:
    """Return the features files meant by files and folders, each once, by label.

    Of a model's folder it is the reduced file, if there is one; without `reduced` always `features.npy`. `components`
    chooses among several reduced ones. InputError where a folder holds no such file, or several and none is chosen, or
    where `components` has nothing to choose from.
    """
    if reduced and components and not any(path.is_dir() for path in given):
        raise InputError(
            f"--components {components}: chooses a file of a folder, and no folder is given; with --pca-fit train it "
            "is the components of each run's PCA"
        )
    paths = [
        path for start in given for path in (_in_folder(start, reduced, components) if start.is_dir() else [start])
    ]
    distinct = {path.resolve(): path for path in reversed(paths)}
    return sorted(label_sources(list(distinct.values())), key=lambda source: source.label)


def paired_source(given: Sequence[Path]) -> list[Source]:
    """The source that two plain arrays make: the left sides of pairs, and the right ones. InputError for any other
    number of files."""
    if len(given) != 2 or any(path.is_dir() for path in given):
        raise InputError(f"--paired: takes two files, -d LEFT.npy RIGHT.npy, not {listed(map(str, given), 3)}")
    left, right = given
    if left.resolve() == right.resolve():
        raise InputError(f"--paired: {_shown(left)} is given for both sides; give the file of either side")
    (source,) = label_sources([left])
    return [replace(source, right=right)]


def _in_folder(folder: Path, reduced: bool, components: int | None) -> list[Path]:
    """The file of each model's folder in `folder`, which may be one itself."""
    if files := [_of_model(path, reduced, components) for path in _model_folders(folder, DEPTH)]:
        return files
    raise InputError(
        f"{_shown(folder)}: no features files here; extract.py -p adapt or adapt-pca N makes <model>/{FEATURES} "
        "(a file of -p pca N must be given itself)"
    )


def _model_folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folders that hold features files, in order of their names; nothing is looked for below one."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{_shown(folder)}: the folder cannot be read ({error.strerror})") from error
    if any(path.name == FEATURES or REDUCED.fullmatch(path.name) for path in paths):
        yield folder
    elif depth:
        for path in paths:
            if path.is_dir() and not path.name.startswith("."):
                yield from _model_folders(path, depth - 1)


def _of_model(folder: Path, reduced: bool, components: int | None) -> Path:
    """The one features file of a model's folder that is meant."""
    files = sorted(filter(_is_reduced, folder.iterdir()), key=_number) if reduced else []
    if reduced and components:
        return _of_components(folder, files, components)
    if len(files) > 1:
        raise InputError(f"{_shown(folder)}: several reduced files; {_choices(files)}")
    if not files and not (folder / FEATURES).exists():
        raise InputError(f"{_shown(folder)}: has no {FEATURES}, which --pca-fit train needs; extract it again")
    return files[0] if files else folder / FEATURES


def _is_reduced(path: Path) -> bool:
    return REDUCED.fullmatch(path.name) is not None


def _number(path: Path) -> tuple[int, str]:
    """The components in a file's name, to sort by."""
    match = COMPONENTS.search(path.name)
    return int(match[1]) if match else 0, path.name


def _of_components(folder: Path, files: Sequence[Path], components: int) -> Path:
    """The features file of so many components."""
    wanted = folder / f"features_pca{components}.npy"
    if wanted in files:
        return wanted
    advice = _choices(files) if files else f"extract.py -p adapt-pca {components} makes one"
    raise InputError(f"{_shown(folder)}: no {wanted.name} here; {advice}")


def _choices(files: Sequence[Path]) -> str:
    """What can be said to choose one of several files."""
    flags = [f"--components {number}" for number, _ in map(_number, files) if number]
    return f"choose by {', '.join(flags)}, or give the file itself: {listed(path.name for path in files)}"


def label_sources(paths: Sequence[Path]) -> list[Source]:
    """A source for each of the `paths`, which are distinct. Models of one name get the file's stem behind it, and if
    that is not enough the folders it lies in, so that all labels differ, and all folders."""
    models = [_model_name(path) for path in paths]
    depths = [0] * len(paths)
    for _ in range(1 + max(len(path.resolve().parts) for path in paths)):
        sources = [Source(*given) for given in zip(paths, map(_label, models, paths, depths), strict=True)]
        counts = Counter(source.folder.casefold() for source in sources)
        alike = [counts[source.folder.casefold()] > 1 for source in sources]
        if not any(alike):
            return sources
        depths = [depth + more for depth, more in zip(depths, alike, strict=True)]
    raise InputError(f"{listed(map(str, paths))}: cannot be told apart by name; rename the folders they lie in")


def _label(model: str, path: Path, depth: int) -> str:
    """The model's name, with the file's stem or the last `depth` parts of its path."""
    path = path.resolve()
    parts = [path.stem] if depth == 1 else path.parts[-depth:]
    return f"{model} {printable('/'.join(parts))}" if depth else model


def _model_name(path: Path) -> str:
    """`settings.model` of the `.json` beside a file and what is unusual about it, else the name of its folder, else its
    stem."""
    settings = read_settings(path)
    name = settings.get("model")
    if not isinstance(name, str) or not name.strip():
        name = path.resolve().parent.name or path.stem
    return printable(name.strip())[:LONGEST] + _variant(settings)


def _variant(settings: dict[str, Any]) -> str:
    """What makes a model, or one of several side by side, another one than its name says: `(random weights)`."""
    several = settings.get("backbones")
    backbones = [each for each in several if isinstance(each, dict)] if isinstance(several, list) else [settings]
    random = any(map(_is_random, backbones))
    paper = any(each.get("preprocess") == "paper" for each in backbones)
    unusual = [*["random weights"] * random, *["paper's preprocessing"] * paper]
    return f" ({', '.join(unusual)})" if unusual else ""


def _is_random(settings: dict[str, Any]) -> bool:
    weights = settings.get("weights")
    return isinstance(weights, dict) and weights.get("seed") is not None


def read_settings(path: Path) -> dict[str, Any]:
    """`settings` of the `.json` beside a features file: what its numbers depend on; empty when there are none."""
    settings = read_record(path).get("settings")
    return settings if isinstance(settings, dict) else {}


def folder_name(label: str) -> str:
    """A label as the name of one folder: no slash, no dot in front, no longer than file systems have room for, and not
    what a part of a run is called."""
    name = re.sub(r"[^\w.+@=]+", "-", label).lstrip(".-").rstrip("-") or "features"
    name = name.encode()[:200].decode(errors="ignore")
    return f"model-{name}" if RESERVED.fullmatch(name) else name


def _shown(path: Path) -> str:
    """A path as it can be printed on any terminal."""
    return printable(str(path))
