"""Embeddings to scalars: arrays in, (loss, metrics) out; jax.numpy alone."""

from simclr_jax.losses.diagnostics import diagnose as diagnose
from simclr_jax.losses.nt_xent import chance_loss as chance_loss
from simclr_jax.losses.nt_xent import l2_normalize as l2_normalize
from simclr_jax.losses.nt_xent import nt_xent as nt_xent
from simclr_jax.losses.nt_xent_chunked import (
  nt_xent_chunked as nt_xent_chunked,
)
from simclr_jax.losses.nt_xent_ring import nt_xent_ring as nt_xent_ring
