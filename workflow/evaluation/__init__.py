"""Evaluation of all models with the same feature extractor on the same images."""
