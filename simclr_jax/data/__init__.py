"""From stored images to batches of views; see `source.py`, `pipeline.py`."""

from simclr_jax.data.source import Example, Source
from simclr_jax.data.sources import SOURCES, check_held_out, make_source

__all__ = ['SOURCES', 'Example', 'Source', 'check_held_out', 'make_source']
