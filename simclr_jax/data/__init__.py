"""From stored images to batches of views; see `source.py`, `pipeline.py`."""

from simclr_jax.data.source import Example, Source
from simclr_jax.data.sources import SOURCES, make_source

__all__ = ['SOURCES', 'Example', 'Source', 'make_source']
