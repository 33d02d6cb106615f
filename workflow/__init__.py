"""The library that the stages are made of; `workflow.load` is for your own programs and notebooks.

Every stage runs this file first, and all that it imports would be code of every stage, so it imports nothing of the
project.
"""

import importlib
import os
from typing import Any


def load(run: str | os.PathLike[str]) -> Any:
    """A trained model, on the CPU and in evaluation mode: a `workflow.models.base.Model`, which is a torch module.

    What it can do depends on its family: `sample` always; `log_prob`, `sample_given`, `encode`, `reconstruct`,
    `interpolate` and `complete` if it has the method. `workflow/models/base.py` has their shapes and units.

    >>> import workflow
    >>> model = workflow.load("runs/vae/0")
    >>> import torch
    >>> _ = torch.set_grad_enabled(False)
    >>> images = model.sample(4, torch.Generator().manual_seed(0))
    >>> images.shape, images.dtype, model.levels
    (torch.Size([4, 1, 8, 8]), torch.uint8, 17)
    >>> model.log_prob(images, torch.Generator().manual_seed(0)).shape  # nats per image
    torch.Size([4])
    >>> len(model.encode(images))
    4
    >>> hasattr(model, "complete")
    False

    Numbers are byte for byte those of the stages if this is called before NumPy and torch are loaded, since only then
    can it limit them to the instruction set that the stages use (`compute.instructions` of the `params.yaml` in the
    working directory; AVX2 without one), and if torch has as many threads (`torch.set_num_threads`). Otherwise the last
    bits may differ. The limit holds for everything else in the process, too.

    Args:
        run: the folder of a run (`runs/vae/0`), or its `model.safetensors`.

    Raises:
        BakeoffError: if there is no model, or if the file is damaged or does not match the code; one line.
    """
    # By name, as an import statement would make the models' code a part of every stage (workflow/engines/ledger.py).
    instructions = importlib.import_module("workflow.instructions")
    instructions.limit(instructions.requested())
    return importlib.import_module("workflow.trained").load(run)
