"""Sweeps over hyper-parameters: which trials there are, which to try next."""
