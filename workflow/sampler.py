"""A model as MLflow loads it: `mlflow.pyfunc.load_model("runs:/<id>/model").predict(frame)` draws images.

MLflow runs this file ("models from code"), so nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from workflow.models import registry


class Sampler(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Draws from one of the project's models."""

    def load_context(self, context: Any) -> None:
        """Read the weights that were logged with the run."""
        self._model = registry.load(Path(context.artifacts["model"])).model

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """model_input: data frame with columns n and seed, a row a batch. uint8 (sum of n, C, H, W)."""
        batches = [
            self._model.sample(int(row.n), torch.Generator().manual_seed(int(row.seed))).numpy()
            for row in model_input.itertuples()
        ]
        return np.concatenate(batches)


mlflow.models.set_model(Sampler())
