"""A file of another codebase -> a workdir with a checkpoint and passport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import importers, models, writes
from simclr_jax.data.source import Example, Source
from simclr_jax.importers import matching, normalization, own
from simclr_jax.importers.format import Contents, Format, Plan
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib

OBJECTIVE = 'imported'
_HEAD = 'params/head/'


class Imported(NamedTuple):
  """What was written.

  Attributes:
    path: Folder of the checkpoint.
    match: What became of every array.
    decided: Fields of the config that the file decided, 'model.depth = 18'.
    notes: What a person should know.
    passport: Of the checkpoint.
  """

  path: str
  match: matching.Match
  decided: tuple[str, ...]
  notes: tuple[str, ...]
  passport: dict[str, Any]


def import_checkpoint(
  source: pathlib.Path,
  name: str,
  *,
  out: pathlib.Path,
  config: config_lib.Config | None,
  normalize: str = '',
  prefix: str = '',
  leave_out: Sequence[str] = (),
  allow_missing: Sequence[str] = (),
) -> Imported:
  """Reads, matches and writes; writes nothing unless the match is full.

  Args:
    source: File or folder.
    name: Key of `FORMATS`.
    out: New workdir.
    config: Network and data; what the file decides is replaced. None for the
      defaults, or for the config that an export of ours carries.
    normalize: 'none', 'imagenet' or 'm,m,m/s,s,s'; '' where the format says it.
    prefix: What names begin with.
    leave_out: Beginnings of names that are not looked at.
    allow_missing: 'head' if the file need not have one.

  Raises:
    ValueError: If anything is missing, unexpected, misshapen or unclear.
  """
  chosen = importers.find_format(name)
  if unknown := [a for a in allow_missing if a != 'head']:
    raise ValueError(
      f"--allow_missing={unknown[0]}: only 'head' may be missing"
    )
  if ':/' in str(out):  # Of a bucket, a path has lost the second slash.
    raise ValueError(f'--out={out}: a local folder is wanted; copy it then')
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f'--out={out} exists; a new workdir is wanted')
  described = _described(source, name)
  if config is None:
    config = config_lib.Config()
    if described:
      config = passport_lib.config_from_passport(described, where=str(source))
  preprocessing = normalization.stated(chosen, normalize, described, name=name)
  contents = _without(chosen.read(source, prefix), leave_out)
  plan = _plan(chosen, contents, config, allow_missing)
  variables, match = _assemble(chosen, contents, plan)
  if not match.is_full:
    raise ValueError(
      f'{source} is not the network of this config; nothing was written:\n'
      f'{match.table()}\n{_hint(plan, match)}'
    )
  preprocessing.setdefault('pad', plan.pad)
  preprocessing.setdefault('trained_with_antialias', chosen.antialias)
  passport = _passport(
    plan,
    step=contents.step,
    preprocessing=preprocessing,
    imported={
      'format': name,
      'source': os.path.abspath(source),
      'sha256': _digest(match, contents),
      'arrays': match.counts(),
      'left_out': {why: len(names) for why, names in match.left_out.items()},
      'notes': list(contents.notes),
      'description': described,
    },
  )
  _write(out, variables, passport)
  return Imported(
    path=str(out / checkpoint.FOLDER / str(contents.step)),
    match=match,
    decided=tuple(passport_lib.differences(config, plan.config)),
    notes=contents.notes,
    passport=passport,
  )


def _described(source: pathlib.Path, name: str) -> dict[str, Any]:
  """The export.json of a folder (or beside a file) of ours; {} without."""
  if importers.FORMATS[name] not in (own.NPZ, own.SAFETENSORS):
    return {}
  path = (source if source.is_dir() else source.parent) / own.DESCRIPTION
  if not path.is_file():
    return {}
  try:
    described = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is no JSON: {error}') from error
  if not isinstance(described, dict):
    raise ValueError(f'{path} holds no JSON object: {str(described)[:80]!r}')
  return described


def _without(contents: Contents, leave_out: Sequence[str]) -> Contents:
  """Leaves out arrays whose names begin as asked."""
  asked = tuple(
    n for n in contents.arrays if any(n.startswith(b) for b in leave_out)
  )
  for begin in leave_out:
    if not any(n.startswith(begin) for n in contents.arrays):
      raise ValueError(
        f'--leave_out={begin}: no name begins so; there are '
        f'{sorted(contents.arrays)[:6]}'
      )
  if not asked:
    return contents
  return dataclasses.replace(
    contents,
    arrays={n: a for n, a in contents.arrays.items() if n not in asked},
    left_out={**contents.left_out, 'asked for': asked},
  )


def _plan(
  chosen: Format,
  contents: Contents,
  config: config_lib.Config,
  allow_missing: Sequence[str],
) -> Plan:
  plan = chosen.plan(contents.arrays, config)
  head = [n for p, n in plan.names.items() if _HEAD in f'{p}/']
  stats = [n for p, n in plan.names.items() if p.startswith('batch_stats/head')]
  wanted = [*head, *stats]
  if 'head' in allow_missing and not any(n in contents.arrays for n in wanted):
    without = config_lib.replace(config, model={'head': 'none'})
    plan = chosen.plan(contents.arrays, without)
  return plan


def _assemble(
  chosen: Format, contents: Contents, plan: Plan
) -> tuple[dict[str, Any], matching.Match]:
  """Our variables, and what became of every array."""
  size = plan.config.data.image_size
  model = models.make_model(
    plan.config.model, image_size=size, num_classes=plan.num_classes
  )
  shapes = {
    path: leaf.shape
    for path, leaf in models.flat_paths(
      models.abstract_variables(model, image_size=size)
    ).items()
  }
  # What a plan has no name for is missing by our own.
  names = {path: plan.names.get(path, path) for path in shapes}
  converted = {
    path: chosen.to_ours(path, contents.arrays[name])
    for path, name in names.items()
    if name in contents.arrays
  }
  match = matching.match(
    names,
    shapes,
    contents.arrays,
    converted=converted,
    left_out=contents.left_out,
  )
  nested = flax.traverse_util.unflatten_dict(
    {path: converted[path] for path in match.loaded}, sep='/'
  )
  return {'params': {}, 'batch_stats': {}, **nested}, match


def _hint(plan: Plan, match: matching.Match) -> str:
  model = plan.config.model
  text = (
    f'The network: depth {model.depth}, width {model.width:g}, sk_ratio '
    f'{model.sk_ratio:g}, se_ratio {model.se_ratio:g}, head {model.head} of '
    f'{model.head_layers} layers, {plan.config.data.image_size} px '
    f'({model.stem} stem). Change it with --config.model.FIELD and '
    '--config.data.image_size, leave names out with --leave_out=BEGINNING'
  )
  if any('head' in name for name in match.missing):
    text += '; a file without projection head needs --allow_missing=head'
  return text


def _passport(
  plan: Plan,
  *,
  step: int,
  preprocessing: dict[str, Any],
  imported: dict[str, Any],
) -> dict[str, Any]:
  """Passport without training: no data, no derived numbers, no metrics."""
  passport = passport_lib.make_passport(
    plan.config,
    None,
    source=_unknown_source(plan.num_classes),
    step=step,
    metrics={},
    objective=OBJECTIVE,
  )
  passport['preprocessing'] |= preprocessing
  return {**passport, 'imported': imported}


def _unknown_source(num_classes: int) -> Source:
  def read(index: int) -> Example:
    raise ValueError(f'example {index} of an unknown data set')

  return Source(
    name='unknown (imported)',
    num_examples=0,
    num_classes=num_classes,
    encoded=False,
    read=read,
    example_id=str,
    fingerprint='unknown',
  )


def _digest(match: matching.Match, contents: Contents) -> str:
  """Of what was loaded, by its names in the file."""
  digest = hashlib.sha256()
  for name in sorted(match.loaded.values()):
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(contents.arrays[name]).tobytes())
  return digest.hexdigest()


def _write(
  out: pathlib.Path, variables: Mapping[str, Any], passport: dict[str, Any]
) -> None:
  """A checkpoint that holds the encoder alone; it appears by a rename."""
  arrays = jax.tree.map(np.asarray, dict(variables))
  step = passport['step']
  checkpointer = checkpoint.Checkpointer(
    out / checkpoint.FOLDER, config_lib.CheckpointConfig()
  )
  try:
    with contextlib.closing(checkpointer):
      checkpointer.save(
        step,
        {'step': np.asarray(step)},
        encoder=arrays,
        passport=passport,
        metrics={},
      )
      checkpointer.wait()  # Closing would only report a save that fails.
  except checkpoint.SaveFailed as error:
    # The same command wants a new workdir.
    shutil.rmtree(out, ignore_errors=True)
    raise writes.StorageFailed(f'{error}. {writes.REMEDY}') from error
