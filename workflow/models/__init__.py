"""One file a family; `base.py` is the contract, `layers.py` the shared blocks."""
