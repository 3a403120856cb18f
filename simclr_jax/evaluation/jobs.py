"""The linear probe and kNN as jobs: checkpoint in, report out.

What the commands do, for tests and notebooks. Everything about the network and
the images comes from the checkpoint's passport; `overrides` changes single
fields of its sections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import hashlib
import json
import os
import shlex
import sys
import time
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh

from simclr_jax import config as config_lib
from simclr_jax import data, processes, section_flags, writes
from simclr_jax.data import Source, part
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import (
  knn,
  linear_probe,
  occurring,
  official_probe,
  splits,
)
from simclr_jax.training import checkpoint, provenance
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import passport as passport_lib

Overrides = Mapping[str, Mapping[str, Any]]
Report = dict[str, Any]
ShowFn = Callable[[Report], None]
FOLDER = 'probe'


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is judged, and on what.

  Attributes:
    encoder: Frozen.
    config: Of the checkpoint's passport, with the overrides.
    train, test: Data splits.
    workdir: Of the run.
    step: Of the checkpoint.
    path: Folder of the checkpoint.
    mesh: Axis 'data'.
    overridden: Fields of `config` that are not as in the passport, 'data.name'
      -> value.
  """

  encoder: encoder_lib.Encoder
  config: config_lib.Config
  train: Source
  test: Source
  workdir: epath.Path
  step: int
  path: str
  mesh: Mesh
  overridden: Mapping[str, Any]

  def features(self) -> tuple[features_lib.Features, features_lib.Features]:
    """Of the training and the test split, cached in the workdir.

    What is known to have no label is not encoded.
    """
    train, test = (
      dataclasses.replace(
        features_lib.extract_features(
          self.encoder,
          some := part.labelled(source),
          self.config,
          cache_dir=self.cache_dir,
        ),
        name=source.name,
        num_left_out=source.num_examples - some.num_examples,
      )
      for source in (self.train, self.test)
    )
    return train, test

  @property
  def cache_dir(self) -> epath.Path:
    """Where features are kept."""
    return self.workdir / 'features'


def open_subject(
  path: epath.PathLike | checkpoint.LoadedEncoder,
  *,
  step: int | str | None = None,
  kind: str = 'checkpoint',
  overrides: Overrides | None = None,
  mesh: Mesh | None = None,
) -> Subject:
  """Loads an encoder and opens the data it is judged on.

  Args:
    path: Workdir of a run, or one of its checkpoints; or what
      `checkpoint.load_encoder` gave.
    step: A step, 'best', or None for the newest.
    kind: 'checkpoint'; or a baseline on the same data: 'random_init' (the same
      network, freshly initialised from the run's seed) or 'raw_pixels'.
    overrides: Fields of config sections, {'data': {'data_dir': ...}}.
    mesh: Default: all devices.

  Raises:
    ValueError: If there is no such checkpoint, an override is impossible, or
      there is no labelled test split.
  """
  mesh = mesh_lib.make_mesh() if mesh is None else mesh
  if isinstance(path, checkpoint.LoadedEncoder):
    loaded = path
  else:
    loaded = checkpoint.load_encoder(path, step=step)
  trained = passport_lib.config_from_passport(loaded.passport)
  config = section_flags.apply(trained, overrides or {})
  workdir = epath.Path(loaded.path).parent
  if workdir.name == checkpoint.FOLDER:
    workdir = workdir.parent
  with processes.together(), section_flags.named('--data'):
    train, test = _open_splits(config.data, str(workdir))
  processes.check_same(
    {source.name: source.fingerprint for source in (train, test)},
    consequence='they would not judge the same images',
  )
  if kind == 'checkpoint':
    encoder = encoder_lib.make_encoder(loaded, mesh=mesh)
  elif kind == 'random_init':
    encoder = encoder_lib.make_random_encoder(
      trained, mesh=mesh, seed=trained.seed
    )
  elif kind == 'raw_pixels':
    encoder = encoder_lib.make_raw_pixel_encoder(config, mesh=mesh)
  else:
    raise ValueError(f'kind = {kind!r}: one of {", ".join(encoder_lib.KINDS)}')
  return Subject(
    encoder=encoder,
    config=config,
    train=train,
    test=test,
    workdir=workdir,
    step=loaded.step,
    path=loaded.path,
    mesh=mesh,
    overridden=_differences(trained, config),
  )


def _open_splits(
  settings: config_lib.DataConfig, workdir: str
) -> tuple[Source, Source]:
  """(training, test) split, from which an honest accuracy can follow."""
  train = data.make_source(settings, settings.train_split, workdir=workdir)
  try:
    if not train.num_classes:
      raise occurring.NoAccuracy(f'{train.name} has no labels')
    if not settings.test_split:
      raise ValueError(
        'config.data.test_split is empty: an accuracy on the training images '
        f'would say nothing; {splits.advise(settings.train_split)}'
      )
    test = data.make_source(settings, settings.test_split, workdir=workdir)
    features_lib.check_sources(train, test)
    features_lib.check_source_labels(train, test)
  except occurring.NoAccuracy as error:
    raise occurring.NoAccuracy(
      f'{error}. Without labels: python -m simclr_jax.report '
      f'--workdir={shlex.quote(workdir)} shows neighbours and a map, '
      'simclr_jax.embed and simclr_jax.search find similar images. With labels '
      'of these or other images, in a folder that has a folder for each class: '
      '--data.source=folder --data.path=FOLDER --data.labels_from=folders '
      "--data.train_split='[:80%]' --data.test_split='[80%:]'"
    ) from error
  return train, test


def _differences(
  trained: config_lib.Config, config: config_lib.Config
) -> dict[str, Any]:
  before, after = config_lib.to_dict(trained), config_lib.to_dict(config)
  return {
    f'{section}.{field}': value
    for section, fields in after.items()
    if isinstance(fields, dict)
    for field, value in fields.items()
    if value != before[section][field]
  }


def run_probe(
  subject: Subject,
  *,
  out: epath.PathLike | None = None,
  show_fn: ShowFn | None = None,
) -> Report:
  """Linear probe of a subject.

  Args:
    subject: From `open_subject`; `config.probe.mode` chooses the protocol.
    out: JSON file, and then nothing is written in the workdir; default
      WORKDIR/probe/linear_probe...-step<N>.json, with a hash of what differs
      from the passport.
    show_fn: Called with the report before anything is written, so that no full
      disk hides the number.

  Returns:
    What is written: 'result' is a `linear_probe.ProbeResult`.
  """
  start, config = time.monotonic(), subject.config
  if config.probe.mode == 'official':
    result = official_probe.probe_official(
      subject.encoder,
      subject.train,
      subject.test,
      config,
      cache_dir=subject.cache_dir,
    )
  else:
    train, test = subject.features()
    result = linear_probe.probe_features(train, test, config.probe)
  name = 'linear_probe'
  if config.probe.mode != 'features':
    name += f'-{config.probe.mode}'
  if config.probe.labels_per_class:
    name += f'-labels{config.probe.labels_per_class}'
  report = make_report(
    'linear_probe', subject, result, section='probe', start=start
  )
  scalars = {'top1': result.top1, 'train_nll': result.train_nll}
  if result.top5 is not None:
    scalars['top5'] = result.top5
  return write_report(
    report, subject, name=name, scalars=scalars, out=out, show_fn=show_fn
  )


def run_knn(
  subject: Subject,
  *,
  out: epath.PathLike | None = None,
  show_fn: ShowFn | None = None,
) -> Report:
  """kNN of a subject; see `run_probe`. 'result' is a `knn.KnnResult`."""
  start, config = time.monotonic(), subject.config.knn
  train, test = subject.features()
  result = knn.knn_accuracy(train, test, config, mesh=subject.mesh)
  name = 'knn' if config.layer == 'h' else f'knn-{config.layer}'
  report = make_report('knn', subject, result, section='knn', start=start)
  scalars = {'top1': result.headline.top1}
  return write_report(
    report, subject, name=name, scalars=scalars, out=out, show_fn=show_fn
  )


def follow(
  path: epath.PathLike,
  judge_fn: Callable[[checkpoint.LoadedEncoder], Report],
  *,
  refused_fn: Callable[[int, Exception], None],
  timeout: float,
  poll: float = 10.0,
) -> Iterator[Report]:
  """Judges every checkpoint of a running pretraining, oldest first.

  The run keeps only its newest checkpoints. One that is deleted before it is in
  memory is passed over with a warning; afterwards it is not needed on disk, and
  what goes wrong is no matter of deletion.

  Args:
    path: Workdir.
    judge_fn: Loaded checkpoint -> report.
    refused_fn: Told the step of which no honest number can be given, and why;
      the next is judged all the same.
    timeout: Longest wait for a new checkpoint, seconds.
    poll: Seconds between two looks.
  """
  for step in checkpoint.wait_for_new_step(
    path, -1, timeout=timeout, poll=poll
  ):
    try:
      loaded = checkpoint.load_encoder(path, step=step)
    except (OSError, ValueError, checkpoint.DamagedCheckpoint) as error:
      if step in checkpoint.list_steps(path):
        refused_fn(step, error)
      else:
        logging.warning('step %d was deleted before it could be judged', step)
      continue
    try:
      report = judge_fn(loaded)
    except processes.AgreedFailure as error:
      refused_fn(step, error)
      continue
    except ValueError as error:
      if jax.process_count() > 1:
        raise  # the others may be waiting for this process in this very step
      refused_fn(step, error)
      continue
    yield report


def summary(report: Report) -> str:
  """One line for a person."""
  result = report['result']
  best = result.get('headline', result)
  low, high = best['top1_interval']
  what = {
    'checkpoint': f'step {report["step"]}',
    'random_init': 'random initialisation',
    'raw_pixels': 'raw pixels',
  }[report['encoder']]
  parts = [f'top-1 {best["top1"]:.2%} [{low:.2%}, {high:.2%}]']
  if best['top5'] is not None:
    parts.append(f'top-5 {best["top5"]:.2%}')
  if report['job'] == 'knn':
    parts.append(f'k {best["k"]}, temperature {best["temperature"]:g}')
  else:
    parts.append(
      f'lr {result["base_lr"]:g}, weight decay {result["weight_decay"]:g}'
    )
    if result['top1_std'] is not None:
      count = len(result['top1_per_seed'])
      parts.append(f'std {result["top1_std"]:.2%} over {count} seeds')
  parts += [
    f'{result[f"num_{split}"]} {noun} of '
    + occurring.classes_text(result[f'num_{split}_classes'])
    for split, noun in (('train', 'training labels'), ('test', 'test images'))
  ]
  return f'{report["job"]} of {what}: ' + ', '.join(parts)


def make_report(
  job: str, subject: Subject, result: Any, *, section: str, start: float
) -> Report:
  """Everything needed to tell what was measured, and to repeat it.

  Args:
    job: Name of what was done.
    subject: What was judged.
    result: A dataclass.
    section: Of the config, that decided how.
    start: `time.monotonic()` when it began.
  """
  config = config_lib.to_dict(subject.config)
  return {
    'job': job,
    'encoder': subject.encoder.kind,
    'step': subject.step,
    'checkpoint': subject.path,
    'encoder_fingerprint': subject.encoder.fingerprint(),
    'result': dataclasses.asdict(result),
    'config': {name: config[name] for name in ('data', 'eval', section)},
    'data': {
      name: {
        'name': source.name,
        'num_examples': source.num_examples,
        'fingerprint': source.fingerprint,
      }
      for name, source in (('train', subject.train), ('test', subject.test))
    },
    'seconds': round(time.monotonic() - start, 1),
    **provenance.made_by(),
  }


def write_json(file: epath.Path, report: Report, *, hint: str = '') -> None:
  """Writes a report; OSError says which file, and what to do (`hint`)."""
  try:
    writes.whole(file, json.dumps(report, indent=2, allow_nan=False) + '\n')
  except writes.StorageFailed:
    raise
  except OSError as error:
    raise OSError(f'{file} cannot be written ({error}){hint}') from error


def write_report(
  report: Report,
  subject: Subject,
  *,
  name: str,
  scalars: Mapping[str, float],
  out: epath.PathLike | None,
  show_fn: ShowFn | None,
) -> Report:
  """JSON file and, unless `out` is given, a line in WORKDIR/probe.

  Args:
    report: From `make_report`.
    subject: What was judged.
    name: Begin of the file's name, and of the metrics'.
    scalars: For the line.
    out: As for `run_probe`.
    show_fn: As for `run_probe`.

  Returns:
    The report, with 'overridden' and 'file'.
  """
  folder = subject.workdir / FOLDER
  kind = report['encoder']
  if kind != 'checkpoint':
    name = f'{name}-{kind}'
  changed = {
    field: value
    for field, value in subject.overridden.items()
    if field.split('.')[0] in report['config']
  }
  if changed:
    text = json.dumps(changed, sort_keys=True)
    name = f'{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'
  file = folder / f'{name}-step{subject.step}.json'
  if out is not None:
    file = epath.Path(out)
  report = {**report, 'overridden': changed, 'file': os.fspath(file)}
  if show_fn is not None:
    show_fn(report)
  with processes.together():
    if jax.process_index() == 0:
      write_json(file, report, hint='; name another file with --out')
  if out is not None:
    return report
  # Not the run's own metrics.jsonl, which a running pretraining has open.
  try:
    writer = metrics_lib.MetricWriter(
      folder, primary=jax.process_index() == 0, start_step=sys.maxsize
    )
  except OSError as error:  # A log; the report is there.
    logging.warning('no line in the log of evaluations: %s', error)
    return report
  try:
    writer.write_scalars(
      subject.step, {f'{name}/{key}': v for key, v in scalars.items()}
    )
  finally:
    writer.close()
  return report
