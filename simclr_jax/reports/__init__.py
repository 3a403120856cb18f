"""A run on one page: what was trained, how it went, what it learnt."""

from simclr_jax.reports.job import Report, make_report

__all__ = ['Report', 'make_report']
