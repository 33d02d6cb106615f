"""What it takes to compute something, counted: the same on every machine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """Adds up operations by torch's own formulas, as its `FlopCounterMode` does, which loads torch's compiler first."""

    total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; else torch loads its compiler for this mode, which takes two seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `work`."""
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        work()
    return int(counter.total)
