"""Export: written, loaded again, compared, and only then there."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from simclr_jax import exporters, writes
from simclr_jax.exporters import description, pictures
from simclr_jax.exporters.network import (
  ForwardFn,
  Network,
  Options,
  make_network,
)
from simclr_jax.training import checkpoint

THRESHOLD = 1e-5
_SPDX = re.compile(r'[A-Za-z0-9][A-Za-z0-9.+-]{0,63}')


class ExportDiffers(ValueError):
  """The exported model computes something else; nothing was left."""


class Exported(NamedTuple):
  """What was written.

  Attributes:
    folder: With the files.
    description: What export.json says.
    differences: Output -> {'absolute', 'relative', 'largest'}.
    num_bytes: Of all files.
  """

  folder: pathlib.Path
  description: dict[str, Any]
  differences: dict[str, dict[str, float]]
  num_bytes: int


def export(
  loaded: checkpoint.LoadedEncoder,
  name: str,
  *,
  out: pathlib.Path,
  outputs: Sequence[str] = ('h',),
  threshold: float = THRESHOLD,
  options: Options | None = None,
) -> Exported:
  """Writes `out`, a new folder, which appears by one rename or not at all.

  Args:
    loaded: Checkpoint.
    name: Key of `EXPORTERS`.
    out: Folder that does not exist yet (local).
    outputs: Out of 'h', 'z', 'logits'.
    threshold: Largest difference allowed, relative to the largest value of the
      output.
    options: See `Options`.

  Raises:
    ExportDiffers: If a difference is above the threshold, or not finite.
    ValueError: If the format cannot express the network, or lacks a package.
  """
  exporters.find_exporter(name)
  options = options or Options()
  if ':/' in str(out):  # Of a bucket, a path has lost the second slash.
    raise ValueError(f'--out={out}: a local folder is wanted; copy it then')
  if options.license and not _SPDX.fullmatch(options.license):
    raise ValueError(
      f'--weights_license={options.license!r} is no SPDX identifier, such as '
      'Apache-2.0 or CC-BY-4.0'
    )
  out = pathlib.Path(os.path.abspath(out))
  if out.exists() or out.is_symlink():
    raise ValueError(f'--out={out} exists; a new folder is wanted')
  if not 0 < threshold < 1:
    raise ValueError(f'--threshold={threshold}: a number in (0, 1) is wanted')
  network = make_network(loaded, outputs=outputs)
  with writes.to(out):
    described, differences, num_bytes = _write(
      network, name, out=out, threshold=threshold, options=options
    )
  return Exported(out, described, differences, num_bytes)


def _write(
  network: Network,
  name: str,
  *,
  out: pathlib.Path,
  threshold: float,
  options: Options,
) -> tuple[dict[str, Any], dict[str, dict[str, float]], int]:
  """(description, differences, bytes) of the folder that is there then."""
  exporter = exporters.find_exporter(name)
  out.parent.mkdir(parents=True, exist_ok=True)
  partial = out.parent / f'.{out.name}.partial-{os.getpid()}'
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  try:
    written = exporter(network, partial, options)
    differences = compare(network, written.forward_fn)
    _check(differences, threshold, name=name)
    described = description.describe(
      network,
      name,
      written=written,
      differences=differences,
      options=options,
    )
    (partial / 'export.json').write_text(
      json.dumps(described, indent=2, allow_nan=False) + '\n'
    )
    (partial / 'README.md').write_text(
      description.card(network, described, license=options.license)
    )
    num_bytes = sum(p.stat().st_size for p in partial.rglob('*') if p.is_file())
    partial.rename(out)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return described, differences, num_bytes


def compare(
  network: Network, forward_fn: ForwardFn
) -> dict[str, dict[str, float]]:
  """How far `forward_fn` is from the network, output by output.

  On eight real pictures, and on three of them: a batch that was fixed when a
  program was made would show.
  """
  images = np.asarray(
    jax.jit(network.input_form.apply)(pictures.real_pictures(network.config))
  )
  ours = network.features(images)
  found: dict[str, dict[str, float]] = {}
  for count in (len(images), 3):
    theirs = forward_fn(images[:count])
    for name in network.outputs:
      difference = _difference(ours[name][:count], theirs[name], name=name)
      if (
        found.setdefault(name, difference)['relative']
        < (difference['relative'])
      ):
        found[name] = difference
  return found


def _difference(
  ours: np.ndarray, theirs: np.ndarray, *, name: str
) -> dict[str, float]:
  if ours.shape != theirs.shape:
    raise ExportDiffers(
      f'output {name} of the exported model is {list(theirs.shape)}, not '
      f'{list(ours.shape)}'
    )
  ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
  absolute = float(np.max(np.abs(ours - theirs)))
  largest = float(np.max(np.abs(ours)))
  relative = absolute / largest if largest > 0 else absolute
  if not np.isfinite([absolute, largest, relative]).all():
    raise ExportDiffers(
      f'output {name} is not finite (ours: {np.isfinite(ours).all()}, '
      f'exported: {np.isfinite(theirs).all()})'
    )
  return {'absolute': absolute, 'relative': relative, 'largest': largest}


def _check(
  differences: dict[str, dict[str, float]], threshold: float, *, name: str
) -> None:
  above = [k for k, v in differences.items() if v['relative'] > threshold]
  if above:
    shown = ', '.join(f'{k} {differences[k]["relative"]:.3g}' for k in above)
    raise ExportDiffers(
      f'--format={name}: the exported model differs from the checkpoint by '
      f'more than --threshold={threshold:g} of the largest value: {shown}. '
      'Nothing was left at --out'
    )
