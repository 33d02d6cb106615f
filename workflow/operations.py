"""The cost of a computation in counted operations: the same on every machine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """Adds up operations by torch's formulas, like its `FlopCounterMode`, which would load torch's compiler."""

    total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch loads its compiler for this mode, which takes two seconds; nothing is compiled here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `work`.

    >>> import torch
    >>> operations(lambda: torch.ones(2, 3) @ torch.ones(3, 4))  # 2 · 2 · 3 · 4
    48
    """
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        work()
    return int(counter.total)
