"""What is measured of every model, by the same extractor on the same images."""
