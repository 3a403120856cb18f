"""SimCLR and its family in JAX: pretraining, evaluation, conversion."""

__version__ = '0.1.0'
