"""One file a family; `base.py` is the contract, `layers/` the shared blocks."""
