"""Everything that needs a GPU, in one command that ends in time: `python -m benchmarks gpu`."""
