"""Metrics as pure functions: from images or features to statistics to numbers."""
