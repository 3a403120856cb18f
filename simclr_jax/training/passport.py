"""The passport: what a later command has to know about a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

from absl import logging
import jax

import simclr_jax
from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.data.source import Source
from simclr_jax.resolve import Resolved
from simclr_jax.training import metrics as metrics_lib

SCHEMA_VERSION = 1
_REQUIRED = ('schema_version', 'step', 'objective', 'config', 'data', 'metrics')
_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'ml-collections',
  'clu',
  'tensorflow',
  'tensorflow-cpu',
  'tensorflow-datasets',
  'opencv-python-headless',
  'pillow',
)

# Fields (or whole sections) that may differ between a run and its resumption,
# and why the remaining steps are the same as without the change.
HARMLESS = {
  'loss.implementation': 'the same loss and gradient, summed in another order',
  'loss.chunk_size': 'the same loss and gradient, summed in another order',
  'model.batch_norm': 'the same values up to rounding',
  'model.remat': 'the same values, computed again',
  'train.log_every': 'only when metrics are written',
  'train.state_sharding': 'where arrays lie; the same values up to rounding',
  'train.diagnostics_every': 'reads embeddings, changes nothing',
  'train.on_non_finite': 'decides on steps that the other cannot take',
  'train.max_skipped_steps': 'decides on steps that the other cannot take',
  'train.profile_start': 'only a trace',
  'train.profile_steps': 'only a trace',
  'checkpoint': 'only when checkpoints are saved and which are kept',
  'data.loader': 'the same views, up to rounding in the last digits',
  'data.device_cache': 'where pixels lie, not what they are',
  'data.num_workers': 'views depend on seed, epoch and index alone',
  'data.prefetch_batches': 'views depend on seed, epoch and index alone',
  'data.data_dir': 'the same data elsewhere: its fingerprint is compared',
  'data.path': 'the same data elsewhere: its fingerprint is compared',
  'data.test_split': 'never trained on',
  'data.max_bad_fraction': 'which files are left is in the fingerprint',
  'monitor.knn_every': 'evaluation, changes no parameter',
  'monitor.knn_max_bank': 'evaluation, changes no parameter',
  'eval': 'evaluation, changes no parameter',
  'probe': 'evaluation, changes no parameter',
  'knn': 'evaluation, changes no parameter',
}
_CONTINUE = (
  ' With another batch, length or learning rate it can go on from the state of '
  'this one: --continue_from=THIS_WORKDIR'
)


def make_passport(
  config: config_lib.Config,
  resolved: Resolved | None,
  *,
  source: Source,
  step: int,
  metrics: Mapping[str, Any],
  objective: str,
  lineage: Sequence[Mapping[str, Any]] = (),
  about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Passport of the checkpoint at `step`, ready for JSON.

  Args:
    config: Of the run.
    resolved: Its derived numbers; None for a network that was imported.
    source: Training images.
    step: Finished steps.
    metrics: Of this step; non-finite values become strings
      (`metrics.number_for_json`).
    objective: Name of the objective.
    lineage: Checkpoints of other runs that this one goes on from, see
      training/continuation.py; oldest first.
    about: `Run.about`, under the name of the objective; its 'preprocessing'
      joins that of the passport.
  """
  about = dict(about or {})
  form = about.pop('preprocessing', {})
  return {
    'schema_version': SCHEMA_VERSION,
    'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'step': step,
    'objective': objective,
    'lineage': [dict(link) for link in lineage],
    'metrics': {
      name: metrics_lib.number_for_json(v) for name, v in metrics.items()
    },
    'config': _with_lists(config_lib.to_dict(resolve.settle(config))),
    'derived': dataclasses.asdict(resolved) if resolved else {},
    'data': {
      'name': source.name,
      'fingerprint': source.fingerprint,
      'num_examples': source.num_examples,
      'num_classes': source.num_classes,
      'class_names': list(source.class_names),
      'num_skipped': len(source.skipped),
    },
    'preprocessing': {
      'color': 'RGB',
      'layout': 'NHWC',
      'input_range': [0.0, 1.0],
      'mean': None,
      'std': None,
      'image_size': config.data.image_size,
      # Small images are resized whole (official data_util.py leaves out the
      # crop for CIFAR-10).
      'crop_fraction': (
        config.eval.crop_fraction if config.data.image_size > 32 else None
      ),
      'resize': config.eval.resize,
      'antialias': False,
      **form,
    },
    'software': dict(software()),
    **({objective: _with_lists(about)} if about else {}),
  }


def _with_lists(value: Any) -> Any:
  """Tuples as lists: what JSON would make of them anyway."""
  if isinstance(value, dict):
    return {k: _with_lists(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_with_lists(v) for v in value]
  return value


@functools.cache
def software() -> dict[str, Any]:
  """Versions, revision and devices; the same for the whole process."""
  # Its own version is that of the code that runs; an older one may be
  # installed beside a checkout.
  versions = {'simclr_jax': simclr_jax.__version__}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue  # optional, or run from a checkout that is not installed
  return {
    'packages': versions,
    'git_revision': git_revision(pathlib.Path(__file__).parent),
    'python': platform.python_version(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'backend': jax.default_backend(),
    'device_kind': jax.devices()[0].device_kind,
    'num_devices': jax.device_count(),
    'num_processes': jax.process_count(),
  }


def git_revision(folder: pathlib.Path) -> str | None:
  """Commit of the checkout that `folder` is part of, '-dirty' if changed.

  None if there is no git, no repository, or `folder` is not tracked in it (a
  package installed into an environment inside somebody's repository).
  """

  def git(*args: str) -> str | None:
    try:
      done = subprocess.run(
        ('git', '-C', str(folder), *args),
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
      )
    except (OSError, subprocess.TimeoutExpired):
      return None
    return done.stdout.strip() if done.returncode == 0 else None

  if not git('ls-files', '.') or not (revision := git('rev-parse', 'HEAD')):
    return None
  changed = git('status', '--porcelain', '--untracked-files=no')
  return revision if changed == '' else f'{revision}-dirty'


def validate(passport: Any, *, where: str) -> None:
  """Raises ValueError if this is no passport that this version can read."""
  if not isinstance(passport, Mapping):
    raise ValueError(f'{where}: a passport is a JSON object, got {passport!r}')
  if missing := [name for name in _REQUIRED if name not in passport]:
    raise ValueError(f'{where}: the passport lacks {", ".join(missing)}')
  version = passport['schema_version']
  if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
    raise ValueError(
      f'{where}: the passport has schema version {version!r}, this simclr_jax '
      f'reads 1 to {SCHEMA_VERSION}; a newer simclr_jax wrote it, use that one'
    )


def config_from_passport(
  passport: Mapping[str, Any], *, where: str = 'passport'
) -> config_lib.Config:
  """Config of the run that wrote the checkpoint.

  Raises:
    ValueError: If the passport or its config is not readable.
  """
  validate(passport, where=where)
  try:
    return config_lib.from_config_dict(passport['config'])
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error


def differences(old: config_lib.Config, new: config_lib.Config) -> list[str]:
  """Every field that differs, as 'section.field: old -> new'.

  What 'auto' decides is compared, not the word.
  """
  old_fields, new_fields = (_flatten(resolve.settle(c)) for c in (old, new))
  return [
    f'{name}: {old_fields[name]!r} -> {value!r}'
    for name, value in new_fields.items()
    if old_fields[name] != value
  ]


def _flatten(config: config_lib.Config) -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for name, value in config_lib.to_dict(config).items():
    if isinstance(value, dict):
      flat |= {f'{name}.{field}': v for field, v in value.items()}
    else:
      flat[name] = value
  return flat


def _other_kind(
  passport: Mapping[str, Any], objective: str, about: Mapping[str, Any]
) -> list[str]:
  """Differences of objective and `Run.about`, as those of `differences`."""
  if passport['objective'] != objective:
    return [f'objective: {passport["objective"]!r} -> {objective!r}']
  old = dict(_leaves(passport.get(objective, {}), objective))
  without = {k: v for k, v in about.items() if k != 'preprocessing'}
  new = dict(_leaves(_with_lists(without), objective))
  return [
    f'{name}: {old.get(name)!r} -> {new.get(name)!r}'
    for name in {**old, **new}
    if old.get(name) != new.get(name)
  ]


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
  """'section.field' and value, without what is called 'path'."""
  if not isinstance(value, Mapping):
    yield name, value
    return
  for key, each in value.items():
    if key != 'path':
      yield from _leaves(each, f'{name}.{key}')


def is_harmless(difference: str) -> bool:
  """Whether an entry of `differences` leaves the rest of a run as it was."""
  field = difference.split(':', 1)[0]
  return field in HARMLESS or field.split('.', 1)[0] in HARMLESS


def data_difference(passport: Mapping[str, Any], source: Source) -> str:
  """As an entry of `differences`."""
  before = passport['data']
  return (
    f'training data: {before.get("name")} ({before.get("num_examples")} '
    f'examples, fingerprint {before["fingerprint"]}) -> {source.name} '
    f'({source.num_examples} examples, fingerprint {source.fingerprint})'
  )


def check_same_run(
  passport: Mapping[str, Any],
  config: config_lib.Config,
  source: Source,
  *,
  objective: str | None = None,
  about: Mapping[str, Any] | None = None,
) -> list[str]:
  """Refuses to resume another run's checkpoint.

  Args:
    passport: Of the newest checkpoint in the workdir.
    config: Of the run that wants to resume.
    source: Its training images.
    objective: Name of its objective; None is not compared.
    about: Its `Run.about`.

  Returns:
    The harmless differences (also logged).

  Raises:
    ValueError: Listing every difference that would change the run.
  """
  old = config_from_passport(passport)
  changed = differences(old, config)
  harmful = [d for d in changed if not is_harmless(d)]
  if passport['data']['fingerprint'] != source.fingerprint:
    harmful.append(data_difference(passport, source))
  if objective is not None:
    harmful += _other_kind(passport, objective, about or {})
  if harmful:
    lines = '\n'.join(f'  - {d}' for d in harmful)
    longer = (
      '\nThe learning rate at every step follows from train.duration: a longer '
      'run is another run from its first step on'
      if any(d.startswith('train.duration:') for d in harmful)
      else ''
    )
    raise ValueError(
      f'the workdir holds step {passport["step"]} of another run; resuming '
      f'would mix the two:\n{lines}\n'
      'Undo these changes to resume (a workdir continues only with the same '
      'recipe), or start the changed config in a new workdir.'
      + ('' if about else _CONTINUE)
      + longer
    )
  harmless = [d for d in changed if is_harmless(d)]
  for difference in harmless:
    logging.info('resuming with a harmless change: %s', difference)
  return harmless
