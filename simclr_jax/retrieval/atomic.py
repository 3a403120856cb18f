"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any
import uuid


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Writes under a hidden name, then renames."""
  hidden = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
  try:
    with open(hidden, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(hidden, path)
  finally:
    hidden.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Whole or not at all."""
  text = json.dumps(value, indent=2, allow_nan=False) + '\n'
  write_atomically(path, text.encode())


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
