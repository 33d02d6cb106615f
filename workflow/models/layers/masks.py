"""Masks that keep each colour channel of a pixel from depending on itself or on later ones."""

import torch
from torch import Tensor


def group_mask(outputs: int, inputs: int, groups: int, *, own: bool) -> Tensor:
    """Which input features each output feature may depend on at its own pixel: 1 or 0, float (outputs, inputs).

    Args:
        outputs: number of output features.
        inputs: number of input features.
        groups: equal blocks that the features come in, one per colour channel. A block depends on those before it.
        own: whether it also depends on itself: mask B, as opposed to mask A (van den Oord et al. 2016, Pixel Recurrent
            Neural Networks, section 3.4).
    """
    group_out = torch.arange(outputs) * groups // outputs
    group_in = torch.arange(inputs) * groups // inputs
    return (group_out[:, None] >= group_in + (not own)).float()
