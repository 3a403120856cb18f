"""State dicts of PyTorch, from .safetensors or .pth, as named arrays."""

from __future__ import annotations

import pathlib
import pickle
from typing import Any

import numpy as np

from simclr_jax.importers import packages
from simclr_jax.importers.format import Arrays, Contents, widen

_WRAPPERS = ('state_dict', 'model_state_dict', 'model')


def read(source: pathlib.Path) -> Contents:
  """All tensors of a file; counters of batch norms are left out.

  Raises:
    ValueError: If it is neither .safetensors nor a pickle of plain tensors.
  """
  if not source.is_file():
    raise ValueError(f'--source={source} is not a file')
  no_notes: tuple[str, ...] = ()
  if source.suffix == '.safetensors':
    found, notes = read_safetensors(source), no_notes
  else:
    found, notes = _read_pickle(source)
  arrays, more = widen(found)
  counters = tuple(n for n in arrays if n.endswith('num_batches_tracked'))
  return Contents(
    arrays={n: a for n, a in arrays.items() if n not in counters},
    left_out={'counters of batch norms': counters} if counters else {},
    notes=(*notes, *more),
  )


def read_safetensors(source: pathlib.Path) -> Arrays:
  """All arrays of a .safetensors file.

  Raises:
    ValueError: If the file is damaged, or the package is missing.
  """
  packages.require('safetensors', for_what=f'reading {source}')
  import safetensors
  import safetensors.numpy

  try:
    return dict(safetensors.numpy.load_file(source))
  except (safetensors.SafetensorError, KeyError) as error:
    raise ValueError(
      f'{source} is no readable .safetensors file: {error}'
    ) from error


def _read_pickle(source: pathlib.Path) -> tuple[Arrays, tuple[str, ...]]:
  packages.require('torch', for_what=f'reading {source}')
  import torch

  try:
    loaded: Any = torch.load(source, map_location='cpu', weights_only=True)
  except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
    raise ValueError(
      f'{source} is not a file of tensors alone, and a pickle that runs code '
      'when it is read is never loaded here: '
      f'{" ".join(str(error).split())[:200]}. In the environment that wrote '
      'it, save the tensors: safetensors.torch.save_file(torch.load(FILE)'
      "['state_dict'], 'model.safetensors')"
    ) from error
  notes: tuple[str, ...] = ()
  if isinstance(loaded, dict):
    inner = [k for k in _WRAPPERS if isinstance(loaded.get(k), dict)]
    if inner:
      loaded, notes = loaded[inner[0]], (f'taken: the entry {inner[0]!r}',)
  if not isinstance(loaded, dict) or not any(
    isinstance(v, torch.Tensor) for v in loaded.values()
  ):
    raise ValueError(f'{source} holds no state dict')
  return {
    str(name): _to_numpy(value)
    for name, value in loaded.items()
    if isinstance(value, torch.Tensor)
  }, notes


def _to_numpy(tensor: Any) -> np.ndarray:
  import torch

  if tensor.dtype == torch.bfloat16:  # NumPy has none; this is exact.
    tensor = tensor.to(torch.float32)
  return np.asarray(tensor.detach().cpu().numpy())


def strip_prefix(contents: Contents, prefix: str, *, stem: str) -> Contents:
  """Removes what the backbone's names begin with.

  Args:
    contents: Of a file.
    prefix: As a person gave it; '' finds it out.
    stem: Name of the first convolution without prefix.

  Raises:
    ValueError: If there is no such network, or there are several (a momentum
      encoder beside it).
  """
  found = sorted(
    name.removesuffix(stem) for name in contents.arrays if _ends(name, stem)
  )
  found = [
    p for p in found if not any(p != q and p.startswith(q) for q in found)
  ]
  if prefix:
    found = [p for p in found if p.rstrip('.') == prefix.rstrip('.')]
  if len(found) != 1:
    names = ', '.join(repr(p) for p in found) or 'none'
    wanted = f'--prefix={prefix}' if prefix else 'the backbone'
    raise ValueError(
      f'{wanted}: wanted is one network with a {stem}, found: {names}. Choose '
      f'one with --prefix; the file begins with {sorted(contents.arrays)[:4]}'
    )
  (begin,) = found
  arrays = {n.removeprefix(begin): a for n, a in contents.arrays.items()}
  if len(arrays) != len(contents.arrays):
    raise ValueError(f'without {begin!r} two names of the file are the same')
  notes = (f'names begin with {begin!r}',) if begin else ()
  return Contents(
    arrays=arrays,
    step=contents.step,
    left_out=contents.left_out,
    notes=(*contents.notes, *notes),
  )


def _ends(name: str, stem: str) -> bool:
  return name == stem or name.endswith(f'.{stem}')
