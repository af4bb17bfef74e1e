"""BatchNorm folded into convolutions: in float64 nothing but rounding changes, and what does not fit is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from featuresExtractor.backbones.folding import fold_batch_norms

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(network: nn.Module) -> Any:
    """The network in float64 and eval mode, with statistics and scales that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, _BatchNorm):
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.normal_(std=0.3, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator)
                nn.init.normal_(norm.bias, std=0.3, generator=generator)
    return network.double().eval().requires_grad_(False)


def images(side: int = 9, count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fold(network: nn.Module, side: int = 9, keep: tuple[str, ...] = ()) -> int:
    """Folds by one image; the tests look at others."""
    return fold_batch_norms(network, lambda: [network(images(side, 1, seed=5))], keep)


def same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).norm() <= 1e-12 * expected.norm())


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def convolution(bias: bool = False, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(3, 3, kernel, padding=kernel // 2, bias=bias)


class BasicConv(nn.Module):
    """As in facenet's Inception-ResNet: a convolution without bias, a BatchNorm with a large epsilon, ReLU in place."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(given, made, (1, 3), stride=2, padding=(0, 1), bias=False)
        self.bn = nn.BatchNorm2d(made, eps=0.1, momentum=0.1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.relu(self.bn(self.conv(images)))
        return result


def resnet() -> nn.Module:
    made: nn.Module = torchvision.models.resnet18(weights=None, num_classes=7)
    return made


def lite() -> nn.Module:
    made: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=7)
    return made


def clip_resnet() -> nn.Module:
    sizes = {"layers": [1, 1, 1, 1], "output_dim": 16, "heads": 4, "image_size": 64, "width": 16}
    made: nn.Module = open_clip.modified_resnet.ModifiedResNet(**sizes)
    return made


def facenet() -> nn.Module:
    return nn.Sequential(BasicConv(3, 8), BasicConv(8, 12), nn.Flatten(), nn.Linear(12 * 16 * 16, 5))


@pytest.mark.parametrize(("make", "count"), [(resnet, 20), (lite, 49), (clip_resnet, 19), (facenet, 2)])
def test_networks_give_the_same_without_their_batch_norms(make: Callable[[], nn.Module], count: int) -> None:
    torch.manual_seed(3)
    network = trained(make())
    activations = sum(isinstance(module, nn.ReLU | nn.ReLU6) for module in network.modules())
    with torch.inference_mode():
        expected = network(images(64))
        assert norms(network) == fold(network, 64) == count
        assert norms(network) == 0
        assert same(network(images(64)), expected)
    # Those within timm's BatchNormAct2d stay, and most of them bend what they are given.
    assert sum(isinstance(module, nn.ReLU | nn.ReLU6) for module in network.modules()) == activations > 0


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_folded_convolution_is_that_of_jacob_and_others(bias: bool, affine: bool) -> None:
    """Channel by channel, by hand: w * gamma / sqrt(var + eps), and beta + (b - mean) * gamma / sqrt(var + eps)."""
    norm = nn.BatchNorm2d(3, eps=0.01, affine=affine)
    network = trained(nn.Sequential(convolution(bias), norm))
    before, weight = network[0], network[0].weight.clone()
    expected = network(images())
    assert fold(network) == 1
    found = network[0]
    assert isinstance(found, nn.Conv2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    for channel in range(3):
        scale = (float(norm.weight[channel]) if affine else 1) / (float(norm.running_var[channel]) + 0.01) ** 0.5
        shift = float(before.bias[channel] if before.bias is not None else 0) - float(norm.running_mean[channel])
        assert torch.allclose(found.weight[channel], weight[channel] * scale, rtol=1e-12)
        assert found.bias is not None
        told = (float(norm.bias[channel]) if affine else 0) + shift * scale
        assert float(found.bias[channel]) == pytest.approx(told, rel=1e-12)
    assert same(network(images()), expected)
    assert torch.equal(before.weight, weight)


@pytest.mark.parametrize("options", [{"padding": 1, "padding_mode": "reflect"}, {"groups": 3}, {"dilation": 2}])
def test_convolutions_of_every_kind_are_folded(options: dict[str, Any]) -> None:
    network = trained(nn.Sequential(nn.Conv2d(3, 6, 3, **options), nn.BatchNorm2d(6)))
    expected = network(images())
    assert fold(network) == 1
    assert same(network(images()), expected)


def test_folded_network_goes_on_to_other_types_as_any_other() -> None:
    network = trained(nn.Sequential(convolution(), nn.BatchNorm2d(3)))
    assert fold(network) == 1
    network.to(torch.bfloat16)
    assert {one.dtype for one in network.parameters()} == {torch.bfloat16}
    assert network(images().bfloat16()).dtype == torch.bfloat16
    assert not any(one.requires_grad for one in network.parameters())


# --- what is wanted itself ---


def test_convolution_that_is_wanted_itself_is_left_alone_and_the_others_folded() -> None:
    network = trained(nn.Sequential(convolution(), nn.BatchNorm2d(3), convolution(), nn.BatchNorm2d(3)))
    first, weight = network[0], network[0].weight.clone()
    expected, whole = first(images()), network(images())
    assert fold(network, keep=("0",)) == 1
    assert network[0] is first
    assert torch.equal(first.weight, weight)
    assert torch.equal(network[0](images()), expected)
    assert (norms(network), type(network[3])) == (1, nn.Sequential)
    assert same(network(images()), whole)


def test_paths_to_what_is_within_a_norm_lead_there_as_before() -> None:
    network = trained(nn.Sequential(convolution(), BatchNormAct2d(3, act_layer=nn.Tanh)))
    activation = network.get_submodule("1.act")
    assert isinstance(activation, nn.Tanh)
    expected = network(images())
    assert fold(network) == 1
    assert network.get_submodule("1.act") is activation
    assert same(network(images()), expected)


# --- what does not fit ---


class Net(nn.Module):
    """Two convolutions and two norms that `run` puts together, in front of a pair that could well be folded."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.other = convolution(), convolution(bias=True)
        self.norm = nn.BatchNorm2d(3) if norm is None else norm
        self.act = nn.ReLU()
        self.run = run
        self.pair = nn.Sequential(convolution(), nn.BatchNorm2d(3))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.pair(self.run(self, images))
        return result


def residual(net: Any, images: Tensor) -> Tensor:
    before = net.conv(images)
    result: Tensor = net.norm(before) + before
    return result


def residual_from_far(net: Any, images: Tensor) -> Tensor:
    before = net.conv(images)
    result: Tensor = net.other(net.act(net.norm(before))) + before
    return result


RUNS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    # It is seen that these do not fit, and the other pair is folded.
    "convolution before and behind": (lambda net, x: net.conv(net.norm(net.conv(x))), 1),
    "convolution behind, too": (lambda net, x: net.conv(net.act(net.norm(net.conv(x)))), 1),
    "norm first": (lambda net, x: net.conv(net.norm(x)), 1),
    "something between": (lambda net, x: net.norm(net.act(net.conv(x))), 1),
    "norm of something else": (lambda net, x: net.norm(net.conv(x) + x), 1),
    "other in between": (lambda net, x: net.norm(net.conv(x)[:, [0, 1, 2]] * net.other(x)), 1),
    # These change what comes out, and everything is put back.
    "convolution twice before": (lambda net, x: net.norm(net.conv(net.conv(x))), 0),
    "norm twice": (lambda net, x: net.norm(net.other(net.norm(net.conv(x)))), 0),
    "norm of two convolutions": (lambda net, x: net.norm(net.conv(x)) + net.norm(net.other(x)), 0),
    "norm again alone": (lambda net, x: net.norm(net.norm(net.conv(x))), 0),
    "residual": (residual, 0),
    "residual from far": (residual_from_far, 0),
    "changed in place": (lambda net, x: net.norm(net.conv(x).relu_()), 0),
    "weights read": (lambda net, x: net.norm(net.conv(x)) * net.norm.weight.view(1, -1, 1, 1), 0),
    "statistics read": (lambda net, x: net.norm(net.conv(x)) - net.norm.running_mean.view(1, -1, 1, 1), 0),
    "convolution's weights read": (lambda net, x: net.norm(net.conv(x)) + F.conv2d(x, net.conv.weight, padding=1), 0),
}


@pytest.mark.parametrize("case", RUNS)
def test_what_is_used_otherwise_is_not_folded_or_put_back(case: str) -> None:
    run, count = RUNS[case]
    network = trained(Net(run))
    modules, state = list(network.modules()), {name: one.clone() for name, one in network.state_dict().items()}
    expected = network(images())
    assert fold(network) == count
    if count:
        assert same(network(images()), expected)
        assert norms(network) == 1
    else:
        assert torch.equal(network(images()), expected)
        assert [id(one) for one in network.modules()] == [id(one) for one in modules]
        assert set(network.state_dict()) == set(state)
    left = {name: one for name, one in state.items() if not count or not name.startswith("pair")}
    for name, one in left.items():
        assert torch.equal(network.state_dict()[name], one), name


def chain(net: Any, images: Tensor) -> Tensor:
    result: Tensor = net.norm(net.conv(images))
    return result


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.GroupNorm(3, 3),
        nn.LayerNorm(9),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norm_without_numbers_of_its_own_is_left_alone(norm: nn.Module) -> None:
    network = trained(Net(chain, norm))
    kept, weight = network.conv, network.conv.weight.clone()
    expected = network(images())
    assert fold(network) == 1  # the pair behind
    assert (network.norm, network.conv) == (norm, kept)
    assert torch.equal(kept.weight, weight)
    assert same(network(images()), expected)


def test_norm_in_training_mode_is_left_alone() -> None:
    network = trained(Net(chain, nn.BatchNorm2d(3, momentum=0.0)))
    assert isinstance(network.norm, nn.BatchNorm2d)
    norm = network.norm.train()
    expected = network(images())
    assert fold(network) == 1
    assert network.norm is norm
    assert same(network(images()), expected)


def test_what_is_told_by_the_outputs_alone_is_all_or_nothing() -> None:
    """A pair whose first output nobody looks at may be folded: `run` says what is wanted."""
    network = trained(Net(residual))
    wanted = lambda: [network.pair(images())]  # noqa: E731
    assert fold_batch_norms(network, wanted) == 1
    assert norms(network) == 1


def test_no_watch_is_left_behind() -> None:
    for run, _ in RUNS.values():
        network = trained(Net(run))
        fold(network)
        assert not any(one._forward_hooks or one._forward_pre_hooks for one in network.modules())


def test_a_network_that_fails_is_told_and_left_as_it_was() -> None:
    network = trained(Net(chain))
    state = list(network.state_dict())
    with pytest.raises(RuntimeError, match="expected input"):
        fold_batch_norms(network, lambda: [network(torch.zeros(1, 2, 9, 9, dtype=torch.float64))])
    assert list(network.state_dict()) == state
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in network.modules())
