"""The record of what was done: the settings that numbers depend on, beside what else is worth knowing of them.

Both commands write one: `extract.py` beside each features file (`.json`), `train.py` into `summary.json`. What was
recorded is compared with what is asked for now, and the file with its SHA-256.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.errors import InputError, printable
from common.storage.files import read_json, sha256

LONGEST = 60  # characters of a value that are shown
DIGEST = re.compile(r"[0-9a-f]{32,}")
PLAIN = "settings"  # the name of a group that goes without saying
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-learn", "pillow", "simplejpeg")


def make_record(settings: Mapping[str, Any], flags: Mapping[str, Any], **contents: Any) -> dict[str, Any]:
    """Return the record of work of these `settings`, which the command line `flags` asked for, as JSON takes it:
    `contents` in between, the versions of the packages at the end. Paths become text."""
    plain = json.loads(json.dumps(dict(flags), default=str))
    return {"settings": dict(settings), **contents, "flags": plain, "versions": package_versions()}


def read_record(path: Path) -> dict[str, Any]:
    """Return the `.json` beside a features file; empty when there is none. InputError when it is damaged: then nothing
    tells whether the features are whole."""
    if path.suffix == ".npz":  # which extract.py does not write: a .json of that stem is of another file
        return {}
    try:
        return read_json(path.with_suffix(".json"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        shown = printable(str(path.with_suffix(".json")))
        raise InputError(f"{shown}: damaged; get it again, or extract again with --overwrite") from error


def is_whole(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether the file is there that a `.json` tells of."""
    return path.is_file() and sha256(path) == record.get("sha256")


def check_whole(path: Path, record: Mapping[str, Any]) -> str:
    """The SHA-256 of a file; InputError when the `.json` beside it (`record`) names another one."""
    try:
        actual, recorded = sha256(path), record.get("sha256")
    except OSError as error:
        raise InputError(f"{path}: no features file could be read here ({error.strerror})") from error
    if recorded not in (None, actual):  # older files had none
        raise InputError(
            f"{path}: was changed or damaged since it was written (its SHA-256 begins with {actual[:8]}, and its .json "
            f"says {str(recorded)[:8]}); get it again, or extract it again with --overwrite"
        )
    return actual


def package_versions() -> dict[str, str]:
    """The versions that numbers depend on, of the packages that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return what differs of the settings `asked` from those `recorded` in a JSON file, a sentence each:
    `temperature: 15 there, 5 asked`. Settings that are only recorded do not count."""
    wanted = json.loads(json.dumps(dict(asked)))
    return [line for name, value in wanted.items() for line in _differing(name, recorded.get(name), value)]


def _differing(name: str, recorded: Any, asked: Any) -> Iterator[str]:
    if recorded == asked:
        return
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for key in (*asked, *sorted(recorded.keys() - asked.keys())):
            inner = key if name == PLAIN else f"{name} {key}"
            yield from _differing(inner, recorded.get(key), asked.get(key))
    elif _is_of_dicts(recorded) and _is_of_dicts(asked) and len(recorded) == len(asked):
        for number, pair in enumerate(zip(recorded, asked, strict=True), 1):
            yield from _differing(f"{name} {number}", *pair)
    else:
        yield f"{name}: {_shown(recorded)} there, {_shown(asked)} asked"


def _is_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _shown(value: Any) -> str:
    """A value in few characters; of a digest its first digits."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    if DIGEST.fullmatch(text):
        return text[:8]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
