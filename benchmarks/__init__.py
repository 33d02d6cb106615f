"""How fast it is, side by side with the alternatives: `make bench`."""
