"""Taps on a backbone: what its layers say of a batch of pictures, reduced where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Reduce = Callable[[Tensor], Tensor]


def pooled_and_normalised(activation: Tensor) -> Tensor:
    """Mean over space, then unit L2 length (the paper's figure of the method).

    A map (N, C, H, W) or a vector (N, C) -> (N, C) float32; ValueError for anything else, such as tokens (N, T, C).
    """
    if activation.ndim not in (2, 4):
        raise ValueError(f"activation of shape {tuple(activation.shape)}; (N, C, H, W) or (N, C) can be pooled")
    vector = activation.float()  # N C H W, or N C
    if vector.ndim == 4:
        vector = vector.mean(dim=(2, 3))  # N C
    return F.normalize(vector, dim=1)


class TappedBackbone(nn.Module):
    """A frozen network that returns its layers instead of its last output.

    Each tapped activation goes through `reduce` as soon as its layer has computed it, so that a whole map lives no
    longer than the network itself needs it, and only the reduced numbers leave the device.
    """

    def __init__(self, backbone: nn.Module, layers: Sequence[str], reduce: Reduce = pooled_and_normalised) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers = tuple(layers)
        self.reduce = reduce

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pictures (N, 3, H, W) -> one tensor for each layer, in the order of `layers`."""
        found: dict[str, Tensor] = {}
        handles = [self._tap(layer, found) for layer in self.layers]
        try:
            self.backbone(images)
        finally:
            for handle in handles:
                handle.remove()
        return [found[layer] for layer in self.layers]

    def _tap(self, layer: str, found: dict[str, Tensor]) -> RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[layer] = self.reduce(output)

        return self.backbone.get_submodule(layer).register_forward_hook(keep)


@torch.inference_mode()
def concatenated(backbone: TappedBackbone, images: Tensor) -> Tensor:
    """The layers of a batch (N, 3, H, W) side by side: (N, D)."""
    return torch.cat(backbone(images), dim=1)


@torch.inference_mode()
def bytes_per_image(backbone: nn.Module, image: Tensor) -> int:
    """What one picture (1, 3, H, W) needs while it goes through the network, in bytes, from above.

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
