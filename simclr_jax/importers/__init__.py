"""Weights of other codebases <-> ours; one file per format."""
