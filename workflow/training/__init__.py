"""The training loop of all families: steps, validation, optimiser, checkpoints, history, several processes."""
