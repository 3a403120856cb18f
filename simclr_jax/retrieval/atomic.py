"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from simclr_jax import writes


def write_json(path: pathlib.Path, value: Any) -> None:
  """Whole or not at all."""
  writes.whole(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object.

  Raises:
    ValueError: If it is none.
  """
  try:
    value = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  if not isinstance(value, dict):
    raise ValueError(f'{path} holds no JSON object')
  return value
