"""Read the layers of a backbone by hooks: the activations of a batch of images, pooled where they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.vectors import to_unit
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.folding import fold_batch_norms
from featuresExtractor.processor import Recipe, mean

Reduce = Callable[[Tensor], Tensor]


def raw(activation: Tensor) -> Tensor:
    """The activation as it is: (N, ...) -> (N, ...) float32, without the layout that the device liked best.

    A copy: what follows in the network, such as ReLU, may work in place.
    """
    return activation.float().clone(memory_format=torch.contiguous_format)


def channels_last(shape: Sequence[int]) -> bool:
    """Whether a map of one square image is (H, W, C), as some transformers give it, and not (C, H, W)."""
    return shape[0] == shape[1] != shape[2]


def channels(shape: Sequence[int]) -> int:
    """Of the shape that a layer gives one image: C of (C,), (T, C), (C, H, W) or (H, W, C)."""
    return shape[0] if len(shape) == 3 and not channels_last(shape) else shape[-1]


def as_maps(activation: Tensor, tokens: str = "mean", prefix: int = 0) -> Tensor:
    """A map (N, C, H, W) or (N, H, W, C), tokens (N, T, C) or a vector (N, C) -> (N, C, H, W) float32.

    Of tokens the first, the class token, is taken (`class`), or those behind the first `prefix`, which belong to no
    place (`mean`): (N, C, T, 1). A vector is (N, C, 1, 1). ValueError for an activation of another shape.
    """
    if activation.ndim == 4:
        return (activation.movedim(3, 1) if channels_last(activation.shape[1:]) else activation).float()
    if activation.ndim == 3:
        wanted = activation[:, :1] if tokens == "class" else activation[:, prefix:]
        return wanted.transpose(1, 2).unsqueeze(3).float()
    if activation.ndim != 2:
        raise ValueError(f"activation of shape {tuple(activation.shape)}; a map, tokens or a vector can be pooled")
    return activation[:, :, None, None].float()


def pooled(activation: Tensor, tokens: str = "mean", prefix: int = 0, pool: Reduce = mean) -> Tensor:
    """The maps of an activation, pooled: -> (N, C) float32.

    A copy: what follows in the network, such as ReLU, may work in place.
    """
    return pool(as_maps(activation, tokens, prefix)).to(torch.float32, copy=True)


def pooled_and_normalised(activation: Tensor, tokens: str = "mean", prefix: int = 0, pool: Reduce = mean) -> Tensor:
    """Pooled, then brought to unit L2 length (the paper's figure of the method): -> (N, C) float32."""
    return to_unit(pooled(activation, tokens, prefix, pool))[0]


def pooling_of(recipe: Recipe, model: Backbone) -> Reduce:
    """What a processor does to a layer's activation."""
    if recipe.pool is None:
        return raw
    pooling = pooled_and_normalised if recipe.unit else pooled
    return partial(pooling, tokens=model.tokens, prefix=model.prefix, pool=recipe.pool)


class LayerReader(nn.Module):
    """A frozen network that returns its layers instead of its last output.

    Each activation goes through `reduce` as soon as its layer has computed it, so that a whole map lives no
    longer than the network itself needs it, and only the pooled values leave the device.
    """

    def __init__(self, backbone: nn.Module, layers: Sequence[str], reduce: Reduce = pooled_and_normalised) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers = tuple(layers)
        self.reduce = reduce
        self.activations: dict[str, Tensor] = {}
        self.hooks: list[RemovableHandle] = []
        self._attach()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> one tensor for each layer, in the order of `layers`."""
        self.activations = {}
        self.backbone(images)
        activations, self.activations = self.activations, {}
        return [activations[layer] for layer in self.layers]

    def fold(self, images: Tensor) -> int:
        """Folds BatchNorms into convolutions where that leaves the layers of `images` as they are; their number."""
        self._detach()
        try:
            return fold_batch_norms(self.backbone, lambda: self._once(images), self.layers)
        finally:
            self._attach()

    def _once(self, images: Tensor) -> list[Tensor]:
        """The layers of the network as it is now, whose modules may be others than before."""
        self._attach()
        try:
            return self.forward(images)
        finally:
            self._detach()

    def _attach(self) -> None:
        self.hooks = [self._hook(layer) for layer in self.layers]

    def _detach(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hook(self, layer: str) -> RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.activations[layer] = self.reduce(output)

        return self.backbone.get_submodule(layer).register_forward_hook(keep)


@torch.inference_mode()
def read_layers(backbone: Callable[[Tensor], list[Tensor]], images: Tensor, joined: bool = True) -> list[Tensor]:
    """The layers of a batch (N, 3, H, W): each on its own, or with `joined` side by side as one (N, D)."""
    layers = backbone(images)
    return [torch.cat(layers, dim=1)] if joined else layers


@torch.inference_mode()
def bytes_per_image(backbone: nn.Module, image: Tensor) -> int:
    """What one image (1, 3, H, W) needs while it goes through the network, in bytes, from above.

    Counted at the module that holds most: its input, its output, and as much again for what a residual path keeps.
    """
    most = 0

    def count(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal most
        tensors = [value for value in (*inputs, output) if isinstance(value, Tensor)]
        most = max(most, 2 * sum(tensor.nbytes for tensor in tensors))

    handles = [module.register_forward_hook(count) for module in backbone.modules()]
    try:
        backbone(image)
    finally:
        for handle in handles:
            handle.remove()
    return most
