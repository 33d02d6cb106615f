"""A GPU that is none: tensors that say they are on another device, and do their sums on the CPU.

It finds what a machine without a GPU cannot: operations on tensors of two devices, random numbers drawn on the wrong
one, NumPy asked to read a GPU's memory, and operations that CUDA has no deterministic version of. The numbers are the
CPU's own. Torch's `lazy` device stands for it, of which nothing but the name is used: its autograd needs no driver.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("lazy", 0)

# What raises on CUDA under `set_deterministic_debug_mode("error")`, by the documentation of
# `torch.use_deterministic_algorithms`: no version of it gives the same bytes each time.
NOT_REPEATABLE = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "max_unpool2d",
    "max_unpool3d",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "_ctc_loss_backward",
    "_embedding_bag_per_sample_weights_backward",
    "put",
    "put_",
    "histc",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "kthvalue",
    "median",
    "nanmedian",
    "scatter_reduce",
    "scatter_reduce_",
    "index_reduce",
    "index_reduce_",
}


class FarTensor(Tensor):
    """A tensor that says it is on the GPU; `inside` holds its numbers."""

    inside: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inside: Tensor) -> "FarTensor":
        strides, offset = inside.stride(), inside.storage_offset()
        far: FarTensor = Tensor._make_wrapper_subclass(
            cls, inside.size(), strides=strides, storage_offset=offset, dtype=inside.dtype, device=GPU
        )
        far.inside = inside
        return far

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


_Generator = torch.Generator
_far_generators: dict[int, torch.Generator] = {}  # by address, as operations are given another Python object


class _AnyGenerator(torch.Generator):
    """Random numbers for either device."""

    def __new__(cls, device: torch.device | str = "cpu") -> "_AnyGenerator":
        made = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        if torch.device(device) == GPU:
            _far_generators[_address(made)] = made
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()


class _OnPretendGpu(TorchDispatchMode):
    """Hands every operation to `_run`: those that make tensors from none have no argument that would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Within it, the device that is yielded takes tensors, modules and random numbers."""

    _far_generators.clear()
    with monkeypatch.context() as patch, _OnPretendGpu():  # type: ignore[no-untyped-call]
        patch.setattr(torch, "Generator", _AnyGenerator)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
        patch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)  # else a module keeps its tensors
        torch._C._set_only_lift_cpu_tensors(True)  # so that `torch.tensor(…, device=GPU)` is an operation, too
        try:
            yield GPU
        finally:
            torch._C._set_only_lift_cpu_tensors(False)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do the operation on the CPU, if a GPU could have done it on its own."""
    name: str = func.overloadpacket.__name__
    far: dict[int, FarTensor] = {}
    near, random = False, None

    def inside(value: Any) -> Any:
        nonlocal near, random
        if isinstance(value, FarTensor):
            far[id(value.inside)] = value
            return value.inside
        near |= isinstance(value, Tensor) and value.ndim > 0  # CUDA takes single numbers from the CPU
        random = value if isinstance(value, _Generator) else random
        return value

    asked = kwargs.get("device")
    there = isinstance(args[0], FarTensor) if name == "copy_" else None
    args, kwargs = _each(inside, args), {key: _each(inside, value) for key, value in kwargs.items()}
    if far and near and name not in ("copy_", "_to_copy"):
        raise RuntimeError(f"{func}: tensors on the CPU and on the GPU")
    if asked is not None:
        there, kwargs["device"] = torch.device(asked) == GPU, torch.device("cpu")
    there = bool(far) if there is None else there
    if random is not None and (_address(random) in _far_generators) != there:
        raise RuntimeError(f"{func}: one device's generator for the other's tensor")
    if there and _not_repeatable(name, args, kwargs):
        raise RuntimeError(f"{func}: not repeatable on CUDA")

    def outside(value: Any) -> Any:  # what was changed in place is the tensor that came
        if id(value) in far:
            return far[id(value)]
        return FarTensor(value) if isinstance(value, Tensor) else value

    out = func(*args, **kwargs)
    return _each(outside, out) if there else out


def _address(random: Any) -> int:
    address: int = random._cdata
    return address


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` of the value, or of each in a list or tuple; torch's own function for it takes most of the time."""
    if isinstance(value, (list, tuple)):
        return type(value)([_each(change, one) for one in value])
    return change(value)


def _not_repeatable(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name == "nll_loss2d_forward":
        return bool(args[3] != 0)  # `reduction`: it is the sum that is made of atomic additions
    if name == "bincount":
        return kwargs.get("weights") is not None or (len(args) > 1 and isinstance(args[1], Tensor))
    return name in NOT_REPEATABLE
