"""Which of a network's tensors its layers are computed with, and which modules come behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featuresExtractor.backbones.backbone import Backbone


@dataclass(frozen=True)
class Needs:
    """The names of the tensors that activations depend on; of all `modules` those `behind` the last of the layers."""

    tensors: frozenset[str]
    modules: frozenset[str]
    behind: frozenset[str]

    def is_behind(self, name: str) -> bool:
        """Return whether a tensor that the network does not have would be of a module behind the layers, or of one
        beside its own modules (a projector)."""
        owner = name.rpartition(".")[0]
        while owner and owner not in self.modules:
            owner = owner.rpartition(".")[0]
        if not owner:
            return "." in name
        parts = owner.split(".")
        return any(".".join(parts[:count]) in self.behind for count in range(1, len(parts) + 1))


def needs(model: Backbone, network: nn.Module) -> Needs:
    """Return what `model.layers` need of a skeleton: the tensors that any operation is given before the last of the
    layers has ended. Without layers it is all of them, but for what BatchNorm counts.

    Operations are watched, and not modules: attention often uses the weights of modules that it never calls.
    """
    tensors = network.state_dict(keep_vars=True)
    modules = frozenset(path for path, _ in network.named_modules())
    if not model.layers:
        counted = (name for name in tensors if not name.endswith("num_batches_tracked"))
        return Needs(frozenset(counted), modules, frozenset())
    watch = _Watch(network, list(model.layers))
    size = model.preprocessing.crop
    with torch.inference_mode(), watch:
        network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    watch.remove()
    used = frozenset(name for name, tensor in tensors.items() if id(tensor) in watch.used)
    return Needs(used, modules, frozenset(watch.started.keys() - watch.before))


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which tensors are used, and which modules have started, until the last of the layers has ended."""

    def __init__(self, network: nn.Module, layers: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()
        self.used: set[int] = set()
        self.started: dict[str, None] = {}
        self.before: set[str] = set()
        self.handles = [network.get_submodule(layer).register_forward_hook(self._ended) for layer in layers]
        for path, module in network.named_modules():
            hook = module.register_forward_pre_hook(
                lambda _module, _inputs, path=path: self.started.update({path: None})
            )
            self.handles.append(hook)

    def _ended(self, *_: object) -> None:
        self.used, self.before = set(self.seen), set(self.started)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch for each operation."""
        self.seen.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
