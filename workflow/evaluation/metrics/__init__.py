"""Pure functions: features to statistics to metric."""
