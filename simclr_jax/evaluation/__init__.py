"""What judges a frozen encoder: features, linear probe, kNN, intervals."""

from simclr_jax.evaluation.knn_monitor import KnnMonitor

__all__ = ['KnnMonitor']
