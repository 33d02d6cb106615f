"""Sweeps over hyper-parameters: the trials, which values to try next, and how they are run."""
