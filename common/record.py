"""Settings that were recorded beside those that are asked for now: what differs, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 60  # characters of a value that are shown
DIGEST = re.compile(r"[0-9a-f]{32,}")
PLAIN = "settings"  # the name of a group that goes without saying


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return what differs of the settings `asked` from those `recorded` in a JSON file, a sentence each:
    `temperature: 15 there, 5 asked`. Settings that are only recorded do not count."""
    wanted = json.loads(json.dumps(dict(asked)))
    return [line for name, value in wanted.items() for line in _differing(name, recorded.get(name), value)]


def _differing(name: str, recorded: Any, asked: Any) -> Iterator[str]:
    if recorded == asked:
        return
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for key in (*asked, *(recorded.keys() - asked.keys())):
            inner = key if name == PLAIN else f"{name} {key}"
            yield from _differing(inner, recorded.get(key), asked.get(key))
    else:
        yield f"{name}: {_shown(recorded)} there, {_shown(asked)} asked"


def _shown(value: Any) -> str:
    """A value in few characters; of a digest its first digits."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    if DIGEST.fullmatch(text):
        return text[:8]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
