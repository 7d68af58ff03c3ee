"""Data sets: manifests, downloads, converters, synthetic images; and the trained weights."""
