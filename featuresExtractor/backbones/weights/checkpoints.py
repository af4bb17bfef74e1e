"""A file of weights -> its state dicts. Nothing in a file is executed, whatever it holds beside the tensors."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.errors import InputError, printable
from common.storage.archives import check_archive

Tensors = dict[str, Tensor]

SIZED = b"bytearray"
SAVE = "torch.save(network.state_dict(), FILE)"
WRAPPED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch.compile, FSDP and activation checkpointing put into the names of a network's tensors, at any depth."""

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
PLAIN = ("state_dict", "model_state_dict", "model", "module", "backbone", "encoder", "net", "network")
ORDER = (*AVERAGED, "", *PLAIN, "teacher", "student", "encoder_q", "encoder_k")
"""Where weights are taken from when a file holds several: averaged ones first, as timm does; then the file's top."""

DEEPEST = 8  # dicts within dicts
LONGEST = 1000  # characters of a tensor's name


class Unread:
    """Stands for any object beside the tensors (settings, numbers of numpy): its class is not imported, nor called."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Return the tensors of the first state dict of a file, by name (see `read_state_dicts`)."""
    return next(iter(read_state_dicts(path).values()))


def read_state_dicts(path: str | os.PathLike[str]) -> dict[str, Tensors]:
    """Return the state dicts of a .safetensors or .pt file by the name under which it keeps them, in `ORDER`.

    The name is empty for a file that is a state dict itself, and `a.b` for one under `b` under `a`. A .pt file is read
    with `weights_only`. Raises InputError for a file that cannot be read so, and for one without tensors.
    """
    path = Path(path)
    check_archive(path)
    _check_sizes(path)
    try:
        content = _load(path)
    except Exception as error:  # a file from elsewhere can fail in any way
        raise InputError(
            f"{path}: not a safetensors file or a plain state dict ({type(error).__name__}); a TorchScript archive "
            f"must be saved again as a state dict: {SAVE}"
        ) from error
    state_dicts = {name: _renamed(tensors, path) for name, tensors in _state_dicts(content, "", set()) if tensors}
    if not state_dicts and not (isinstance(content, Mapping) and len(content) == 0):
        raise InputError(f"{path}: holds {_kind(content)}, not a state dict of tensors{_way_out(content)}")
    return dict(sorted(state_dicts.items(), key=lambda item: rank(item[0]))) or {"": {}}


def rank(name: str) -> tuple[int, ...]:
    """Return the place in `ORDER` of each part of a dotted name; unknown ones come last."""
    return tuple(ORDER.index(part) if part in ORDER else len(ORDER) for part in name.split("."))


def _kind(content: object) -> str:
    return "a whole network or another object" if isinstance(content, Unread) else type(content).__name__


def _way_out(content: object) -> str:
    return f"; save it again: {SAVE}" if isinstance(content, Unread) else ""


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with torch.serialization.safe_globals([(Unread, name) for name in _foreign(path)]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layouts and protocols that torch does not like: what matters is checked
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign(path: Path) -> list[str]:
    """The classes and functions that a file names and torch does not know as harmless."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of another format, or broken: the reader says so
        return []


def _check_sizes(path: Path) -> None:
    """InputError for a pickle that makes a `bytearray`: torch admits it, a number says how long it is, and no file of
    weights has one."""
    if path.suffix == ".safetensors" or not path.is_file():
        return
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(2**24):
            if SIZED in before + chunk:
                raise InputError(f"{path}: asks for memory by a number ({SIZED.decode()}); not a plain state dict")
            before = chunk[-len(SIZED) :]


def _state_dicts(content: object, name: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Tensors]]:
    """Every dict with the tensors that are in it directly, once: dicts may hold each other, and themselves."""
    if not isinstance(content, Mapping) or id(content) in seen or depth == DEEPEST:
        return
    seen.add(id(content))
    yield name, {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for key, value in content.items():
        yield from _state_dicts(value, f"{name}.{key}" if name else str(key), seen, depth + 1)


def _renamed(tensors: Tensors, path: Path) -> Tensors:
    """The tensors under the names that their networks have; InputError where two get the same one."""
    sources: dict[str, str] = {}
    for name in tensors:
        if len(name) > LONGEST:
            raise InputError(f"{path}: a tensor has a name of {len(name):,} characters; not a plain state dict")
        if (other := sources.setdefault(_own_name(name), name)) != name:
            both = printable(f"{other} and {name} are both {_own_name(name)}")
            raise InputError(f"{path}: {both} of the network; keep one of them")
    return {own: tensors[name] for own, name in sources.items()}


def _own_name(name: str) -> str:
    """Without torch's wrappers; and torchvision's DenseNets, whose files have `norm.1`, have `norm1` themselves."""
    own = ".".join(part for part in name.split(".") if part not in WRAPPED)
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=\d\.)", r"\1", own)
