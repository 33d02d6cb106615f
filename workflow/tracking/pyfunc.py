"""A model as MLflow loads it: `mlflow.pyfunc.load_model("runs:/<id>/<name>").predict(frame)` draws images.

MLflow runs this file ("models from code"), so nothing is unpickled. It also runs it when a model is logged, which does
not need torch: whatever needs torch is imported where it is used.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd


class Sampler(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Draws images from one of the project's models."""

    def load_context(self, context: Any) -> None:
        """Read the weights that were logged with the run."""
        from workflow.models import registry

        self._model = registry.load(Path(context.artifacts["model"])).model

    # MLflow reads the type hint: for any type other than a data frame it would ask for a list, with a warning.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """model_input: columns n and seed, one row per batch. Returns uint8 (sum of n, C, H, W), values 0..levels-1."""
        import torch

        batches = [
            self._model.sample(int(row.n), torch.Generator().manual_seed(int(row.seed))).numpy()
            for row in model_input.itertuples()
        ]
        return np.concatenate(batches)


mlflow.models.set_model(Sampler())
