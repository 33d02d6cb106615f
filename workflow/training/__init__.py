"""The training loop of all families, and what it needs: optimiser, checkpoints, history, several processes."""
