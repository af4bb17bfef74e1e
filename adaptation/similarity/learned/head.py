"""The head of a similarity: from its name, or a file of the user's, and its weights to a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adaptation.extensions import SUFFIX, digest, find, tried
from adaptation.heads import HEADS
from common.errors import InputError, printable

if TYPE_CHECKING:
    from adaptation.similarity.learned.file import Learned

Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 300  # characters of shapes


def head_name(about: Mapping[str, Any], address: str | None, shown: str) -> str:
    """Return what the head is called: its row in the table, or the `address` FILE.py:CLASS that is given for it.
    InputError where the one is given and the other needed, and for another file or class than the one recorded."""
    name, code = printable(about["head"]["name"]), about["head"]["sha256"]
    if code is None and name not in HEADS:
        raise InputError(f"{shown}: its head '{name}' is unknown here; known are {', '.join(HEADS)}")
    if code is None and address is not None:
        raise InputError(f"{shown}: its head '{name}' is one of this package; leave --head out (in Python head=...)")
    if code is None:
        return name
    if address is None:
        raise InputError(
            f"{shown}: its head {name} is in a file of its maker's (SHA-256 {code[:8]}...); give that file with "
            f"--head FILE.py:{name} (in Python head=...). It is run: read it first"
        )
    _check_same(name, code, address)
    return address


def _check_same(name: str, code: str, address: str) -> None:
    """InputError for an address that leads to another file, or to another class of it."""
    given, path = printable(address), address.rpartition(":")[0]
    if not path.endswith(SUFFIX):
        raise InputError(f"{given}: no address of a head; give FILE.py:{name}")
    if (own := digest(address)) != code:
        raise InputError(
            f"{given}: another head file than this similarity was trained with (SHA-256 {str(own)[:8]}... is given, "
            f"{code[:8]}... is expected)"
        )
    if address.rpartition(":")[2] != name:
        raise InputError(f"{given}: another head than this similarity was trained with; give {printable(path)}:{name}")


def check_shapes(name: str, reduced: int, held: Shapes, shown: str) -> None:
    """InputError where the head `name` of `reduced` dimensions has other tensors than those `held`. No memory is taken
    for heads of the table, so that the file's numbers cannot fill it."""
    expected = {key: tuple(value.shape) for key, value in _skeleton(name, reduced).state_dict().items()}
    if expected != dict(held):
        missing, other = _differing(expected, held), _differing(held, expected)
        raise InputError(
            f"{shown}: its head {printable(name)} has tensors of other shapes ({other}) than expected ({missing})"
        )


def _differing(shapes: Shapes, others: Shapes) -> str:
    """The shapes that others do not have, in few characters."""
    differing = {key: list(shape) for key, shape in shapes.items() if others.get(key) != shape}
    listed = printable(", ".join(f"{key} {shape}" for key, shape in differing.items())) or "none"
    return listed if len(listed) <= SHOWN else f"{listed[: SHOWN - 3]}..."


def _skeleton(name: str, reduced: int) -> nn.Module:
    """The head without memory; where the user's own code needs some, with it."""
    try:
        with torch.device("meta"):
            return _built(name, reduced)
    except (InputError, NotImplementedError, RuntimeError):
        if name in HEADS:
            raise
        return _built(name, reduced)


def _built(name: str, reduced: int) -> nn.Module:
    head = tried(name, lambda: find(name, HEADS, "head")(reduced))
    if not isinstance(head, nn.Module):
        raise InputError(f"{printable(name)}: gives {type(head).__name__}, not a torch.nn.Module")
    return head


def build(name: str, learned: Learned, shown: str) -> nn.Module:
    """Return the head `name` with the weights of a similarity, in evaluation; torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        head = _built(name, learned.reduced)
    expected: dict[str, Tensor] = head.state_dict()
    if types := [key for key, value in learned.head.items() if value.dtype != expected[key].dtype]:
        raise InputError(f"{shown}: its tensor {printable(types[0])} of the head is of another type than expected")
    tried(name, lambda: head.load_state_dict(dict(learned.head)))
    return head.eval().requires_grad_(False)
