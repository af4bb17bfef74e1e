"""Do the work in the plain way, as written on a first afternoon: right, and as slow as that.

One thread decodes each view of each image by itself; fp32, channels first; whole maps go to the host and are pooled
there; Python lists; scikit-learn's PCA; one run after the other, in which cosines are computed again for the metrics,
sorted twice, and searched by a loop for each k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featuresExtractor.transforms import Preprocessing


def features(
    paths: Sequence[Path], network: nn.Module, layers: Sequence[str], preprocessing: Preprocessing, batch: int
) -> NDArray[np.float32]:
    """Return the features (views, N, D) of images: layers pooled, brought to unit length and concatenated."""
    device = next(network.parameters()).device
    maps: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: maps.__setitem__(layer, output.clone())
        )
        for layer in layers
    ]
    views: list[list[list[float]]] = []
    for flip in (False, True):
        rows: list[list[float]] = []
        for start in range(0, len(paths), batch):
            images = torch.stack([_image(path, preprocessing, flip) for path in paths[start : start + batch]])
            with torch.no_grad():
                network(images.to(device))
            whole = [maps[layer].cpu() for layer in layers]
            for number in range(len(images)):
                rows.append([value for layer in whole for value in _pooled(layer[number])])
        views.append(rows)
    for hook in hooks:
        hook.remove()
    return np.array(views, np.float32)


def _image(path: Path, preprocessing: Preprocessing, flip: bool) -> Tensor:
    """Return a view of an image, decoded, resized, cropped and normalised: (3, H, W)."""
    transform = v2.Compose(
        [
            v2.Resize(preprocessing.resize, v2.InterpolationMode[preprocessing.interpolation.upper()]),
            v2.CenterCrop(preprocessing.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    tensor: Tensor = transform(Image.open(path).convert("RGB"))
    return tensor.flip(-1) if flip else tensor


def _pooled(activation: Tensor) -> list[float]:
    """Return a map (C, H, W) or a vector (C,) as C values of unit length."""
    values = activation.mean((1, 2)) if activation.ndim == 3 else activation
    pooled: list[float] = (values / values.norm()).tolist()
    return pooled


def fit_pca(vectors: NDArray[np.float32], components: int, solver: str = "auto") -> Any:
    """Return scikit-learn's PCA of all vectors (N, D) at once."""
    from sklearn.decomposition import PCA

    return PCA(n_components=components, svd_solver=solver).fit(vectors)


def train(
    left: Tensor, right: Tensor, tested: Tensor, weight: Tensor, temperature: float, ks: Sequence[int]
) -> Iterator[dict[str, float]]:
    """Train one run on pairs (V, N, D) with the indices `tested`; yield losses and recalls after each epoch."""
    trained = torch.tensor(sorted(set(range(left.shape[1])) - set(tested.tolist())))
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(left.device)
    linear.load_state_dict({"weight": weight})
    adam = torch.optim.Adam(linear.parameters(), lr=1e-3)
    while True:
        losses = []
        for view in range(len(left)):
            similarities = _cosines(linear, left[view, trained], right[view, trained])
            losses.append(_loss(similarities, temperature))
        loss = torch.stack(losses).mean()
        with torch.no_grad():
            train_recalls = _recalls(_cosines(linear, left[0, trained], right[0, trained]), ks)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        with torch.no_grad():
            similarities = _cosines(linear, left[0, tested], right[0, tested])
            test_recalls = _recalls(similarities, ks)
            test_loss = _loss(similarities, temperature)
        yield {
            "train Loss": loss.item(),
            "test Loss": test_loss.item(),
            **{f"train top {k}": value for k, value in zip(ks, train_recalls, strict=True)},
            **{f"test top {k}": value for k, value in zip(ks, test_recalls, strict=True)},
        }


def _cosines(linear: nn.Module, left: Tensor, right: Tensor) -> Tensor:
    return F.normalize(linear(left).relu(), dim=1) @ F.normalize(linear(right).relu(), dim=1).T


def _loss(similarities: Tensor, temperature: float) -> Tensor:
    targets = torch.arange(len(similarities), device=similarities.device)
    logits = temperature * similarities
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def _recalls(similarities: Tensor, ks: Sequence[int]) -> list[float]:
    """Return the asymmetric recalls aR@k."""
    forth = similarities.argsort(dim=1, descending=True).cpu()
    back = similarities.T.argsort(dim=1, descending=True).cpu()
    recalls = []
    for k in ks:
        hits = 0
        for number in range(len(similarities)):
            if number in forth[number, :k] or number in back[number, :k]:
                hits += 1
        recalls.append(hits / len(similarities))
    return recalls
