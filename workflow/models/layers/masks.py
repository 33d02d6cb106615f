"""Which features may see which, so that no colour channel of a pixel sees itself or a later one."""

import torch
from torch import Tensor


def group_mask(outputs: int, inputs: int, groups: int, *, own: bool) -> Tensor:
    """Which input feature each output feature may see at its own pixel, as 1 or 0, (outputs, inputs).

    Features come in `groups` equal blocks, one a colour channel. Block g sees the blocks before it and, if `own` (mask
    B; mask A does not), itself.
    """
    group_out = torch.arange(outputs) * groups // outputs
    group_in = torch.arange(inputs) * groups // inputs
    return (group_out[:, None] >= group_in + (not own)).float()
