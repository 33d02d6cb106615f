"""One small script a stage: reads files, calls one function, writes files."""
