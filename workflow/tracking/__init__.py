"""The mirror of all runs in MLflow: `live` follows a training, `mirror` brings everything up to date from the files."""
