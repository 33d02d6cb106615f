"""Blocks that more than one family uses, each at the one place where it is tested."""
