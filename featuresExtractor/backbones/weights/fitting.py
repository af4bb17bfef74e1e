"""The tensors of a file -> those of a network: found under any prefix; what its layers need must match exactly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import InputError, listed, printable
from featuresExtractor.backbones.weights.checkpoints import DEEPEST, ORDER, PLAIN, Tensors, rank
from featuresExtractor.backbones.weights.needs import Needs

IDLE = re.compile(r"mask_token|decoder_.*|head_.*|logit_(scale|bias)|temperature|queue(_ptr)?|n_averaged")
"""Tensors that stand beside a network's own in checkpoints of its training, and that it computes nothing with."""

TEXT = re.compile(
    r"(.*\.)?(text|transformer|text_decoder|token_embedding|ln_final)\..*|(.*\.)?"
    r"(text_projection|positional_embedding|logit_scale|logit_bias|attn_mask|input_resolution|"
    r"context_length|vocab_size)"
)
"""What stands beside the visual tower in a whole CLIP checkpoint: it is no part of any network here."""

PORT = re.compile(r"(?:(?<=\.)|^)(_(?:conv_stem|conv_head|bn0|bn1|fc|blocks)\..*)$")
"""A name of EfficientNet's first PyTorch port, at its outermost module."""

SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""The parts of a block as the port names them, and as timm does: without and with an expansion."""

COUNT = re.compile(r"(^|\.)num_batches_tracked$")  # of BatchNorm: nothing is computed with it, and old files have none


@dataclass(frozen=True, order=True)
class Place:
    """Where in a file a network is: the name of the state dict, and what precedes the names in it (`module.`)."""

    state_dict: str
    prefix: str
    hits: int = field(default=0, compare=False)

    @property
    def rank(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the place in the documented order; prefixes that say nothing (`module.model.`) count for none."""
        words = [word for word in self.prefix.split(".") if word and word not in PLAIN]
        return rank(self.state_dict), rank(".".join(words))

    @property
    def says_nothing(self) -> bool:
        """Return whether the prefix has only words that say nothing about what is under them."""
        return self.rank[1] == (ORDER.index(""),)

    def __str__(self) -> str:
        return printable(
            ".".join(part for part in (self.state_dict, self.prefix.removesuffix(".")) if part) or "the top level"
        )


@dataclass(frozen=True)
class Fit:
    """What a network takes of a file: tensors by its own names, and what is left over by kind (`missing`, ...).

    `fixed` are the file's copies of what the network computes by itself (tables of positions), to be compared.
    """

    tensors: Tensors
    place: Place
    others: tuple[Place, ...]
    ignored: dict[str, list[str]]
    fixed: Tensors


def fit(state_dicts: Mapping[str, Tensors], network: nn.Module, needed: Needs, path: Path) -> Fit:
    """Return what of the state dicts in `path` a network takes; `network` may be a skeleton.

    What `needed` names must be there with its shape, and nothing else within the modules that are computed with;
    InputError names what is not so. What comes behind is taken where it fits, and ignored where not.
    """
    wanted = network.state_dict()
    state_dicts = {name: _first_port(tensors, wanted) for name, tensors in state_dicts.items()}
    place, others = _place(state_dicts, wanted, needed, path)
    tensors = state_dicts[place.state_dict]
    given = {name[len(place.prefix) :]: value for name, value in tensors.items() if name.startswith(place.prefix)}
    fixed = _fixed(given, wanted, network)
    misfits = [name for name, value in given.items() if name in wanted and not _is_like(value, wanted[name])]
    beside = _beside(tensors, place, others, wanted)
    known = wanted.keys() | fixed.keys()
    unknown = [own for own in given if own not in known and not _is_of(others, place.prefix + own, place, wanted)]
    _check(given, wanted, needed, {*unknown, *_stray([*unknown, *beside], place, wanted)}, path, tensors)
    ignored = {
        "missing": [name for name in wanted if name not in given],
        "other shape": misfits,
        "extra": [*unknown, *beside],
    }
    ignored = {kind: [name for name in names if not COUNT.search(name)] for kind, names in ignored.items()}
    taken = {name: value for name, value in given.items() if name in wanted and name not in misfits}
    return Fit(taken, place, others, {kind: names for kind, names in ignored.items() if names}, fixed)


def _is_like(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor can be copied into `own` without another meaning: integers, say, are quantised weights."""
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    return plain and tensor.shape == own.shape and _kind(tensor) == _kind(own)


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _fixed(given: Tensors, wanted: Mapping[str, Tensor], network: nn.Module) -> Tensors:
    """Copies of what the network makes by itself, and which older versions of its library saved."""
    own = {name: value for name, value in network.named_buffers() if name not in wanted}
    return {name: value for name, value in given.items() if name in own and _is_like(value, own[name])}


def _check(
    given: Tensors, wanted: Mapping[str, Tensor], needed: Needs, unknown: set[str], path: Path, tensors: Tensors
) -> None:
    """InputError where something that the layers need is missing or other, or where the file's network has more."""
    missing = sorted(needed.tensors - given.keys())
    other = sorted(name for name in needed.tensors & given.keys() if not _is_like(given[name], wanted[name]))
    more = sorted(name for name in unknown if not needed.is_behind(name) and not IDLE.fullmatch(name))
    faults = [f"missing: {listed(missing, 3)}"] if missing else []
    faults += [f"unexpected: {listed(more, 3)}"] if more else []
    faults += [_shapes(other[0], given, wanted, len(other) - 1)] if other else []
    if len(missing) == len(needed.tensors) > 0 and tensors:
        faults.append(f"the file holds: {listed(tensors, 3)}")
    if faults:
        raise InputError(
            f"{path}: these weights do not fit the network; {'; '.join(faults)}. What the layers are computed with "
            "must match exactly: choose the --model that they were trained with"
        )


def _shapes(name: str, given: Tensors, wanted: Mapping[str, Tensor], more: int) -> str:
    """`NAME is (7,), expected (1000,)`, with the types where these are what differs."""
    tensor, own = given[name], wanted[name]
    shapes = [f"{tuple(value.shape)}" for value in (tensor, own)]
    if tensor.shape == own.shape:
        shapes = [f"{value.dtype}".removeprefix("torch.") for value in (tensor, own)]
    return f"{name} is {shapes[0]}, expected {shapes[1]}" + (f" (and {more:,} more)" if more else "")


# --- where the network is ---


def _place(
    state_dicts: Mapping[str, Tensors], wanted: Mapping[str, Tensor], needed: Needs, path: Path
) -> tuple[Place, tuple[Place, ...]]:
    """The first place, in the documented order, that has all that is needed, and the others that have it too; where
    there is none, that which has most of it."""
    places = [place for name, tensors in state_dicts.items() for place in _places(name, tensors, needed)]
    whole = [place for place in places if place.hits == len(needed.tensors)]
    if not whole:
        return max(places, key=lambda place: place.hits, default=Place(next(iter(state_dicts)), "")), ()
    place, *others = sorted(whole, key=lambda place: (place.rank, place))
    _check_alone(place, state_dicts[place.state_dict], wanted, needed, path)
    if others and others[0].rank == place.rank:
        names = listed([str(place), *map(str, others)], 5)
        raise InputError(f"{path}: holds this network more than once, under {names}; keep one of them in the file")
    return place, tuple(others)


def _places(state_dict: str, tensors: Tensors, needed: Needs) -> list[Place]:
    """Every prefix under which some of what is needed is; a module of the network itself is no prefix."""
    if not needed.tensors:
        return [Place(state_dict, "")]
    hits = Counter(prefix for name in tensors for prefix in _prefixes(name, needed.tensors))
    places = [Place(state_dict, prefix, count) for prefix, count in hits.items()]
    return [place for place in places if place.says_nothing or place.prefix[:-1] not in needed.modules]


def _prefixes(name: str, needed: frozenset[str]) -> Iterable[str]:
    parts = name.split(".")
    for count in range(min(len(parts), DEEPEST)):
        if ".".join(parts[count:]) in needed:
            yield "".join(f"{part}." for part in parts[:count])


def _check_alone(place: Place, tensors: Tensors, wanted: Mapping[str, Tensor], needed: Needs, path: Path) -> None:
    """InputError for two tensors of one state dict that become the same of the network when `module.` and the like are
    dropped."""
    if not place.says_nothing:
        return
    for name in tensors:
        is_placed = name.startswith(place.prefix) and name.removeprefix(place.prefix) in wanted
        for prefix in () if is_placed else _prefixes(name, needed.tensors):
            own = name.removeprefix(prefix)
            if Place(place.state_dict, prefix).says_nothing and place.prefix + own in tensors:
                raise InputError(
                    f"{path}: {place.prefix}{own} and {name} are both {own} of the network; keep one of them"
                )


def _beside(tensors: Tensors, place: Place, others: Iterable[Place], wanted: Mapping[str, Tensor]) -> list[str]:
    """The tensors that are neither under the place, nor of another copy of the network, nor of CLIP's text tower."""
    names = [name for name in tensors if not name.startswith(place.prefix) and not _is_of(others, name, place, wanted)]
    return [name for name in names if not (place.prefix.endswith("visual.") and TEXT.fullmatch(name))]


def _is_of(others: Iterable[Place], name: str, place: Place, wanted: Mapping[str, Tensor]) -> bool:
    """Whether a tensor beside the place is one of another copy of the network in the same state dict."""
    same = [other.prefix for other in others if other.state_dict == place.state_dict]
    return any(name.startswith(prefix) and name.removeprefix(prefix) in wanted for prefix in same)


def _stray(names: Iterable[str], place: Place, wanted: Mapping[str, Tensor]) -> list[str]:
    """Names that no tensor of the network has, without the words that say nothing: with them they may be meant for it
    as well as those under a place whose prefix says nothing."""
    bare = [re.sub(rf"^(?:(?:{'|'.join(PLAIN)})\.)+", "", name) for name in names if place.says_nothing]
    return [name for name in bare if "." in name and name not in wanted]


# --- names of other programs ---


def _first_port(tensors: Tensors, wanted: Iterable[str]) -> Tensors:
    """Rename the tensors of EfficientNet's first PyTorch port, under any prefix, as timm has them."""
    if not any(PORT.search(name) for name in tensors) or "conv_stem.weight" not in wanted:
        return tensors
    modules = _ported(wanted)
    return {PORT.sub(lambda match: _renamed(match[1], modules), name): value for name, value in tensors.items()}


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    """A name of the port with the longest module path at its start replaced by timm's."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        if module := modules.get(".".join(parts[:count])):
            return ".".join([module, *parts[count:]])
    return name


def _ported(wanted: Iterable[str]) -> dict[str, str]:
    """The module paths of the port, each with timm's: the port numbers the blocks of all stages in one row, and names
    their parts by what they do."""
    modules = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    names = list(wanted)
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in names if name.startswith("blocks.")))
    for number, block in enumerate(blocks):
        inverted = f"{block}.conv_pwl.weight" in names
        parts = INVERTED if inverted else SEPARABLE
        modules |= {f"_blocks.{number}": block}
        modules |= {f"_blocks.{number}.{ported}": f"{block}.{own}" for ported, own in parts.items()}
    return modules
