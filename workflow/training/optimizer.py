"""AdamW (Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2), by torch's functional form.

The class `torch.optim.AdamW` imports torch's compiler before its first step: 2 seconds of CPU time in every training
process, although nothing is compiled.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

EPSILON = 1e-8  # torch's default
CACHED = 2**21  # parameters that fit into a processor's cache along with their gradients and moments, at most


class AdamW:
    """Updates parameters; whatever may change between steps is an argument of `step`.

    state: of each parameter that has had a gradient, by its index. The names are those of torch's class: step, float32
    (), on the CPU; exp_avg and exp_avg_sq, with the parameter's shape and device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.state: dict[int, dict[str, Tensor]] = {}
        # `foreach` applies each operation to all parameters at once instead of going through them one by one: the same
        # bytes in half the time for small models. For large ones torch chooses: it does so on a GPU, not on a CPU.
        self._at_once = True if sum(p.numel() for p in self.parameters) <= CACHED else None

    def forget_gradients(self) -> None:
        """Reset all gradients, so that the next backward pass starts afresh."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        """Update each parameter that has a gradient."""
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        states: list[dict[str, Tensor]] = []
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            if i not in self.state:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[i] = {"step": torch.tensor(0.0), **moments}
            parameters.append(parameter)
            gradients.append(parameter.grad)
            states.append(self.state[i])
        adamw(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=self._at_once,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def restore(self, state: dict[int, dict[str, Tensor]]) -> None:
        """Replace the state by this one, whose tensors may be on any device."""
        self.state = {
            i: {name: value if name == "step" else value.to(self.parameters[i].device) for name, value in one.items()}
            for i, one in state.items()
        }
