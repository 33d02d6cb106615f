"""The passes of a model's networks that wait for one another, counted while it draws: no formula of any family."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class _Passes(TorchDispatchMode):
    """Follows what the present pass has computed: products and convolutions, and all that is made of them.

    The pass ends where pixels or codes are drawn from that, or where a layer is given it that was in the pass before.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ended = 0
        self.computed = set[int]()  # storages
        self.used = set[nn.Module]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As in `workflow.operations.py`."""
        return False

    def of_this_pass(self, values: object) -> bool:
        return not self.computed.isdisjoint(_storages(values))

    def end(self) -> None:
        self.ended += 1
        self.computed.clear()
        self.used.clear()

    def enter(self, layer: nn.Module, inputs: object) -> None:
        if layer in self.used and self.of_this_pass(inputs):
            self.end()
        self.used.add(layer)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.searchsorted and self.of_this_pass(args):
            self.end()
        if func._overloadpacket in flop_registry or self.of_this_pass([args, kwargs]):
            self.computed |= _storages(made)
        else:
            self.computed -= _storages(made)  # the memory may have been another's
        return made


def _storages(values: object) -> set[int]:
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
    return {tensor.untyped_storage().data_ptr() for tensor in tensors} - {0}


def count_passes(model: nn.Module, draw: Callable[[], Tensor]) -> int:
    """How many passes follow one after another in `draw`; one that nothing in the images depends on is none."""
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    passes = _Passes()
    with passes:
        hooks = [layer.register_forward_pre_hook(passes.enter) for layer in layers]
        images = draw()
        for hook in hooks:
            hook.remove()
    return passes.ended + passes.of_this_pass(images)
