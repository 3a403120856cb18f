"""Whether JAX finds the devices that it is told to use."""

from __future__ import annotations

import os

import jax


def check_devices() -> None:
  """Starts the devices; call it once the processes have found each other.

  Raises:
    ValueError: If that fails; names what was asked for and what is there.
  """
  try:
    jax.devices()
  except Exception as error:  # Of JAX's own, AssertionError among them.
    asked = os.environ.get('JAX_PLATFORMS') or ''
    what = f'JAX_PLATFORMS={asked}' if asked else 'devices are wanted'
    cause = ' '.join(str(error).partition(' (set JAX_PLATFORMS')[0].split())
    raise ValueError(
      f'{what}, but here are only {_found()}'
      + (f' ({cause[:300]})' if cause else '')
      + "; install JAX for what is wanted (pip install '.[cuda13]' or "
      "'.[tpu]' in the clone), end another process that uses it, or "
      + ('unset JAX_PLATFORMS' if asked else 'set JAX_PLATFORMS=cpu')
    ) from error


def _found() -> str:
  """The platforms that JAX can start, such as 'cpu'."""
  found = []
  for platform in ('tpu', 'cuda', 'rocm', 'cpu'):
    try:
      jax.config.update('jax_platforms', platform)
      found += sorted({device.platform for device in jax.devices()})
    except Exception:  # As above: this one is not there.
      continue
  return ' and '.join(found) or 'none'
