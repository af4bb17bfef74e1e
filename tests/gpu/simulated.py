"""A GPU that is not there: tensors on a device `cuda` or `meta` that hold no numbers, and a watch over each operation.

Tensors of the CPU are real. What the host fetches from the device are random numbers. `test_simulated.py` lists what
cannot be seen in this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from common.machine import device
from common.machine.gpu import unusable

aten = torch.ops.aten
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
CARD = "Simulated GPU"
GIB = 2**30


class Waits(AssertionError):
    """The host waited for the device where it must not."""


class Uploads(AssertionError):
    """The host sent numbers to the device where it must not."""


class Mixed(AssertionError):
    """An operation got tensors of two devices."""


class Fakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Fakes that never ask for a real GPU, whatever torch is made to say of one."""

    @property
    def avoid_device_init(self) -> bool:
        return True


class Simulated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tensors of a `kind` of device: `cuda`, which are fakes, or `meta`, which autograd's own engine works with.

    Operations on tensors of two devices are refused. `log` has a letter for each step: `u` for what is sent to the
    device, `c` for what it computes (a view is no work), `f` for what is fetched from it, and `w` for a single value
    that the host waits for, which is `value`. While `uploads` is a number, the host may not wait, and may send so many
    tensors and no more.
    """

    def __init__(self, kind: str, value: float = 1.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind, self.value, self.log = kind, value, ""
        self.uploads: int | None = None
        self.beside = False  # whether uploads go to a stream of their own
        self.generator = torch.Generator().manual_seed(0)
        self.fake = Fakes(allow_non_fake_inputs=True) if kind == "cuda" else None

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor, such as where it is
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # which inference mode leaves whole
                return func.decompose(*args, **kwargs)
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        here = [tensor for tensor in tensors if tensor.device.type == self.kind]
        others = [tensor for tensor in tensors if tensor.device.type != self.kind]
        target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if not here and target != self.kind:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        name = func.overloadpacket
        if name in (aten._to_copy, aten.copy_):
            return self._copied(func, args, kwargs, target)
        if name in INDEXED and any(index is not None for index in args[1]):
            self._check_indices(func, args[1])
        elif here and any(tensor.ndim for tensor in others):
            raise Mixed(f"{func}: a tensor on {self.kind} and one on {others[0].device}")
        if name is aten._local_scalar_dense or (name not in INDEXED and WAITING_TAGS & set(func.tags)):
            return self._waited_for(func, args, kwargs)
        return self._computed(func, args, kwargs)

    def _computed(self, func: Any, args: Any, kwargs: Any, step: str = "c") -> Any:
        if not func.is_view:
            self.log += step
        return func(*args, **kwargs)

    def _copied(self, func: Any, args: Any, kwargs: Any, target: str | None) -> Any:
        """A change of type, an upload, or what is fetched."""
        to, source = (args[0].device.type, args[1]) if func.overloadpacket is aten.copy_ else (target, args[0])
        start, to = source.device.type, to or source.device.type
        if start == to:
            return self._computed(func, args, kwargs)
        if to == self.kind:
            self._note_upload(func)
            return self._computed(func, args, kwargs, "u")
        self._check_wait(func, bool(kwargs.get("non_blocking")))
        self.log += "f"
        with unset_fake_temporarily():
            numbers = self._numbers(source.shape).to(kwargs.get("dtype") or source.dtype)
            return args[0].copy_(numbers) if func.overloadpacket is aten.copy_ else numbers

    def _numbers(self, shape: torch.Size) -> Tensor:
        """What the host receives: numbers of 1..2, which no check takes for those of a broken network."""
        return torch.rand(shape, generator=self.generator).add_(1)

    def _check_indices(self, func: Any, indices: Sequence[Tensor | None]) -> None:
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8) and index.ndim:
                self._check_wait(func)  # for their number
            elif index is not None and index.device.type != self.kind and index.ndim:
                self._note_upload(func)

    def _waited_for(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A value that the host needs, or a tensor whose size depends on values."""
        self._check_wait(func)
        self.log += "w"
        if func.overloadpacket is aten.bincount:
            return torch.zeros((args[2:3] or [kwargs.get("minlength")])[0], dtype=torch.int64, device=self.kind)
        if func.overloadpacket is not aten._local_scalar_dense:
            raise NotImplementedError(f"{func}: nothing is simulated")
        dtype = args[0].dtype
        return bool(self.value) if dtype == torch.bool else self.value if dtype.is_floating_point else int(self.value)

    def _check_wait(self, func: Any, non_blocking: bool = False) -> None:
        if self.uploads is not None and not non_blocking:
            raise Waits(f"{func}: the host waits for the device")

    def _note_upload(self, func: Any) -> None:
        if self.uploads is not None:
            self.uploads -= 1
            if self.uploads < 0:
                raise Uploads(f"{func}: the host sends numbers to the device")
            if self.kind == "cuda" and not self.beside:
                raise Waits(f"{func}: sent in the stream of the work, so that the host waits for it")


@contextmanager
def beside(mode: Simulated) -> Iterator[None]:
    """Within a stream that is not that of the work."""
    before, mode.beside = mode.beside, True
    try:
        yield
    finally:
        mode.beside = before


class Event:
    """A moment in the work of the device, which is always over. The log of the device has an `s` where one is waited
    for."""

    def __init__(self, device: Simulated) -> None:
        self.device = device

    def record(self) -> None: ...

    def synchronize(self) -> None:
        self.device.log += "s"

    def elapsed_time(self, _: Event) -> float:
        return 1.0


def apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` in short, for fakes, which torch would exchange in place and cannot."""
    for child in module.children() if recurse else ():
        apply(child, change)
    for name, weight in module._parameters.items():
        if weight is not None:
            module._parameters[name] = nn.Parameter(change(weight.detach()), weight.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = change(buffer) if buffer is not None else None
    return module


def backward(loss: Tensor) -> None:
    """Autograd's engine in Python, for fakes, whose device has no threads: each node is called itself."""
    received: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    with torch.no_grad():
        for node in _in_order(loss.grad_fn):
            wanted = [each.shape for each in node._input_metadata]  # smaller where an operation repeated numbers
            gradients = {number: sums.sum_to_size(wanted[number]) for number, sums in received.pop(node).items()}
            if hasattr(node, "variable"):
                given = node.variable.grad
                node.variable.grad = gradients[0] if given is None else given + gradients[0]
                continue
            call = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
            results = call(*(gradients.get(number) for number in range(len(wanted))))
            results = results if isinstance(results, tuple) else (results,)
            for (following, number), result in zip(node.next_functions, results, strict=False):
                if following is not None and result is not None:
                    sums = received.setdefault(following, {})
                    sums[number] = sums[number] + result if number in sums else result


def _in_order(start: Any) -> list[Any]:
    """The nodes of a graph, each before those that follow."""
    order: list[Any] = []
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                visit(following)
        order.append(node)

    visit(start)
    return order[::-1]


@contextmanager
def simulated(kind: str, value: float = 1.0) -> Iterator[Simulated]:
    """A machine with a GPU, of which torch is asked as of a real one."""
    mode = Simulated(kind, value)
    answers = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: CARD,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: SimpleNamespace(name=CARD),
        "mem_get_info": lambda *_: (60 * GIB, 80 * GIB),
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "Stream": lambda *_: None,
        "stream": lambda _: beside(mode),
        "current_stream": lambda *_: None,
        "Event": lambda **_: Event(mode),
    }
    unusable.cache_clear()
    with ExitStack() as stack:
        stack.callback(unusable.cache_clear)
        stack.callback(device._uploads.cache_clear)
        stack.enter_context(mode.fake or nullcontext())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if kind == "cuda":
            for name, answer in answers.items():
                patch.setattr(torch.cuda, name, answer)
            patch.setattr(Tensor, "backward", backward)
            patch.setattr(Tensor, "record_stream", lambda *_: None)
            patch.setattr(nn.Module, "_apply", apply)
            lifted = torch._C._only_lift_cpu_tensors()
            torch._C._set_only_lift_cpu_tensors(True)  # or numbers would go to a real GPU
            stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        else:
            autocast = torch.autocast
            patch.setattr(torch, "autocast", lambda at, *given, **named: nullcontext() if at == kind else autocast(at))
        yield stack.enter_context(mode)
