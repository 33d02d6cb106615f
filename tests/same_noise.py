"""The same random numbers on a GPU as on the CPU, whose generators are others: the GPU's are drawn on the CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class SameNoise(TorchDispatchMode):
    """Within it, a generator on a device of this type gives what one on the CPU would, seeded alike.

    Its state does not move: what reads or sets it sees nothing of that.
    """

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        # By address, as operations are given another Python object; holding that keeps the address from being reused.
        self.twins: dict[int, tuple[torch.Generator, torch.Generator]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch loads its compiler for this mode."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        random = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Generator)]
        if not random or random[0].device.type != self.kind:
            return func(*args, **kwargs)
        near_args, near = tree_map(self._near, (args, kwargs))
        if asked := kwargs.get("device"):
            near["device"] = torch.device("cpu")
        drawn = func(*near_args, **near)
        if func._schema.is_mutable:  # in place
            return args[0].copy_(drawn)
        return drawn.to(asked or args[0].device)

    def _near(self, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            twin = torch.Generator().manual_seed(value.initial_seed())
            return self.twins.setdefault(_address(value), (value, twin))[1]
        return value.cpu() if isinstance(value, Tensor) else value


def _address(random: Any) -> int:
    address: int = random._cdata
    return address
