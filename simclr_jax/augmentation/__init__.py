"""Views made on the accelerators, from draws that were made on the host."""

from simclr_jax.augmentation.pixel_cache import (
  PixelCache,
  build_cache,
  index_batches,
)
from simclr_jax.augmentation.views import make_device_views

__all__ = ['PixelCache', 'build_cache', 'index_batches', 'make_device_views']
