"""AdamW: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, by torch's function for its steps.

The class around that function, `torch.optim.AdamW`, imports torch's compiler before its first step: 2 seconds of CPU in
every process that trains, though nothing is compiled.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

EPSILON = 1e-8  # torch's default
CACHED = 2**21  # parameters, at most, that a processor's cache holds, with gradients and moments


class AdamW:
    """Takes steps with parameters; what can change from step to step is given with the step.

    state: of each parameter that has had a gradient, by its number, under the names that torch's class has for it:
    step, float32 (), on the CPU, exp_avg and exp_avg_sq, in the parameter's shape and on its device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.state: dict[int, dict[str, Tensor]] = {}
        # Each operation with all parameters at once, not all operations with one parameter after the other: the same
        # bytes in half the time, if few. Of many it is for torch to choose: it does so on a GPU, and not on a CPU.
        self._at_once = True if sum(p.numel() for p in self.parameters) <= CACHED else None

    def forget_gradients(self) -> None:
        """So that the next backward pass starts from none."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        """Move each parameter that has a gradient."""
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
        """Have this `state`, of tensors on any device."""
        self.state = {
            i: {name: value if name == "step" else value.to(self.parameters[i].device) for name, value in one.items()}
            for i, one in state.items()
        }
