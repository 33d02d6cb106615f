"""The passes of a model's networks that wait for one another, counted while it draws: no formula of any family."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from workflow.models.layers.dense import Degrees, DenseNetwork, InOrder

Layer = nn.Module | InOrder


class _Passes(TorchDispatchMode):
    """Follows what the present pass has computed: products and convolutions, and all that is made of them.

    The pass ends where pixels, codes or units are drawn from that, or where a layer is given what it has computed
    itself. A draw looks for a random number among sums of probabilities, or compares it with a probability.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ended = 0
        self.computed: dict[int, frozenset[Layer]] = {}  # storages, and the layers that they have passed

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As in `workflow.operations.py`."""
        return False

    def of_this_pass(self, values: object) -> bool:
        return not _storages(values).isdisjoint(self.computed)

    def passed(self, values: object) -> frozenset[Layer]:
        return frozenset().union(*(self.computed.get(storage, ()) for storage in _storages(values)))

    def end(self) -> None:
        self.ended += 1
        self.computed.clear()

    def enter(self, layer: Layer, inputs: object) -> None:
        if layer in self.passed(inputs):
            self.end()

    def leave(self, layer: Layer, _: object, outputs: object) -> None:
        for storage in _storages(outputs) & self.computed.keys():
            self.computed[storage] |= {layer}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        drawn = func._overloadpacket is torch.ops.aten.searchsorted or func is torch.ops.aten.lt.Tensor
        if drawn and self.of_this_pass(args):
            self.end()
        passed = self.passed([args, kwargs])
        of_this_pass = func._overloadpacket in flop_registry or self.of_this_pass([args, kwargs])
        for storage in _storages(made):
            self.computed.pop(storage, None)  # the memory may have been another's
            if of_this_pass:
                self.computed[storage] = passed
        return made


def _storages(values: object) -> set[int]:
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
    return {tensor.untyped_storage().data_ptr() for tensor in tensors} - {0}


def count_passes(model: nn.Module, draw: Callable[[], Tensor]) -> int:
    """How many passes follow one after another in `draw`; one that nothing in the images depends on is none."""
    layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    passes = _Passes()
    extend, in_order = InOrder.extend, DenseNetwork.in_order

    def extended(layer: InOrder, x: Tensor, degree: int) -> Tensor:
        """A hidden layer number by number, whose module is not called: a part of it, if it has units of this degree."""
        if not layer.units[degree].shape[1]:
            return extend(layer, x, degree)
        passes.enter(layer, x)
        found = extend(layer, x, degree)
        passes.leave(layer, None, found)
        return found

    def by_number(network: DenseNetwork, n: int, degrees: Degrees) -> Callable[[int, Tensor], Tensor]:
        """The same of the last layer, for which the network stands."""
        numbers = in_order(network, n, degrees)

        def one(rank: int, x: Tensor) -> Tensor:
            found = numbers(rank, x)
            if network in passes.passed(found):
                passes.end()
                passes.computed |= dict.fromkeys(_storages(found), frozenset())
            passes.leave(network, None, found)
            return found

        return one

    in_parts = mock.patch.multiple(InOrder, extend=extended), mock.patch.multiple(DenseNetwork, in_order=by_number)
    with passes, in_parts[0], in_parts[1]:
        hooks = [layer.register_forward_pre_hook(passes.enter) for layer in layers]
        hooks += [layer.register_forward_hook(passes.leave) for layer in layers]
        images = draw()
        for hook in hooks:
            hook.remove()
    return passes.ended + passes.of_this_pass(images)
