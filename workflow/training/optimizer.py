"""AdamW (Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2), by torch's functional form.

The class `torch.optim.AdamW` imports torch's compiler before its first step: 2 seconds of CPU time in every training
process, although nothing is compiled.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class AdamW:
    """Updates parameters; whatever may change between steps is an argument of `step`.

    state: of each parameter that has had a gradient, by its index. The names are those of torch's class: step, float32
    (); exp_avg and exp_avg_sq, with the parameter's shape and memory format; all on the parameter's device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.state: dict[int, dict[str, Tensor]] = {}

    def forget_gradients(self) -> None:
        """Reset all gradients, so that the next backward pass starts afresh."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8) -> None:
        """Update each parameter that has a gradient."""
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        states: list[dict[str, Tensor]] = []
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            if i not in self.state:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[i] = {"step": torch.zeros((), device=parameter.device), **moments}
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
            fused=True,  # one pass over each parameter; several times faster than an operation at a time
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )

    def restore(self, state: dict[int, dict[str, Tensor]]) -> None:
        """Replace the state by this one, whose tensors may be on any device and in any memory format."""
        self.state = {i: _laid_out_as(self.parameters[i], one) for i, one in state.items()}


def _laid_out_as(parameter: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a parameter on its device and in its memory format, which the fused kernel takes for granted.

    Gradients have that format anyway: torch gives it to whatever it accumulates.
    """
    steps = {"step": state["step"].to(parameter.device)}
    return steps | {name: torch.empty_like(parameter).copy_(state[name]) for name in state.keys() - steps}
