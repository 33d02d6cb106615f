"""The mirror of all runs in MLflow."""
