"""Flags that the commands judging a checkpoint share.

A section of the config is a flag: `--data.data_dir=/data` replaces one field of
the checkpoint's passport, and what is not given stays as it was in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import sys
from typing import Any

from absl import flags
import jax

from simclr_jax import (
  command_flags,
  console,
  multi_process,
  out_file,
  processes,
  section_flags,
)
from simclr_jax.evaluation import jobs
from simclr_jax.training import checkpoint, choice

CHECKPOINT = command_flags.DEFINE_address(
  'checkpoint', None, 'Workdir of a pretraining run (local or gs://...).'
)
STEP = command_flags.DEFINE_string(
  'step', '', "Step of the checkpoint, or 'best'; default: the newest."
)
FOLLOW = command_flags.DEFINE_bool(
  'follow',
  False,
  'Judge each checkpoint of a running pretraining as it is saved, until the '
  'run has finished.',
)
FOLLOW_TIMEOUT = command_flags.DEFINE_float(
  'follow_timeout', 6 * 3600, 'Longest wait for a new checkpoint, in seconds.'
)
FOLLOW_POLL = command_flags.DEFINE_float(
  'follow_poll', 10.0, 'Seconds between two looks for a new checkpoint.'
)
RANDOM_INIT = command_flags.DEFINE_bool(
  'random_init',
  False,
  'Judge the same network freshly initialised instead: the baseline.',
)
FEATURES = command_flags.DEFINE_enum(
  'features',
  'encoder',
  ['encoder', 'raw_pixels'],
  'What to classify: features of the encoder, or the pixels themselves.',
)
OUT = command_flags.DEFINE_address(
  'out', None, 'JSON file to write; default: WORKDIR/probe/<name>.json.'
)
flags.adopt_module_key_flags(multi_process)


SECTIONS = ('data', 'eval')
for _name in SECTIONS:
  section_flags.define(_name)


def run(
  argv: list[str],
  *,
  section: str,
  judge_fn: Callable[..., jobs.Report],
  summary_fn: Callable[[jobs.Report], str] = jobs.summary,
  same: Sequence[flags.FlagHolder[Any]] = (),
) -> int:
  """Judges what the flags say; returns the exit code.

  `same` are further flags of the command, which every process must be given
  alike: they decide which collectives it enters.

  0: done. 1: the number is on stdout, but could not be written. 2: the flags,
  the checkpoint or the data do not allow an honest number (with --follow: that
  of at least one step); the reason is on stderr.
  """

  def judge() -> int:
    with processes.together():
      if len(argv) > 1:
        raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
      kind, changes = _kind(), section_flags.given((*SECTIONS, section))
    given = (CHECKPOINT, STEP, FOLLOW, RANDOM_INIT, FEATURES, *same)
    processes.check_same(
      {f'--{flag.name}': flag.value for flag in given} | {'fields': changes},
      consequence='give every process the same flags',
    )
    return _judge(changes, kind, judge_fn, summary_fn)

  return multi_process.run(
    judge,
    codes={
      OSError: console.EXIT_FAILED,
      ValueError: console.EXIT_WRONG_INPUT,
      checkpoint.DamagedCheckpoint: console.EXIT_WRONG_INPUT,
    },
    agreed=(checkpoint.DamagedCheckpoint,),
  )


def _kind() -> str:
  """What is judged.

  Raises:
    ValueError: If the flags contradict each other.
  """
  kind = 'checkpoint'
  if RANDOM_INIT.value or FEATURES.value == 'raw_pixels':
    kind = 'random_init' if RANDOM_INIT.value else 'raw_pixels'
    if FOLLOW.value or (RANDOM_INIT.value and FEATURES.value == 'raw_pixels'):
      raise ValueError(
        '--random_init, --features=raw_pixels and --follow exclude each other'
      )
  if FOLLOW.value and (OUT.value or STEP.value):
    raise ValueError(
      '--follow judges every step into its own file: no --step or --out with it'
    )
  if OUT.value:
    out_file.check(OUT.value)
  choice.parse_step(STEP.value)
  return kind


def _judge(
  changes: dict[str, dict[str, Any]],
  kind: str,
  judge_fn: Callable[..., jobs.Report],
  summary_fn: Callable[[jobs.Report], str],
) -> int:
  """One checkpoint, or all of a running pretraining; the exit code."""

  def judge(loaded: checkpoint.LoadedEncoder) -> jobs.Report:
    subject = jobs.open_subject(loaded, kind=kind, overrides=changes)
    show_fn = functools.partial(_show, summary_fn=summary_fn)
    report = judge_fn(subject, out=OUT.value, show_fn=show_fn)
    if jax.process_index() == 0:
      print(f'-> {report["file"]}', file=sys.stderr)
    return report

  if FOLLOW.value:
    return _follow(judge)
  step = choice.parse_step(STEP.value)
  judge(checkpoint.load_encoder(CHECKPOINT.value, step=step))
  return 0


def _follow(
  judge_fn: Callable[[checkpoint.LoadedEncoder], jobs.Report],
) -> int:
  """Every step until the run has finished; the exit code."""
  code = 0

  def refused(step: int, error: Exception) -> None:
    nonlocal code
    print(f'step {step} is refused:', file=sys.stderr)
    code = max(code, console.fail(error, code=console.EXIT_WRONG_INPUT))

  for _ in jobs.follow(
    CHECKPOINT.value,
    judge_fn,
    refused_fn=refused,
    timeout=FOLLOW_TIMEOUT.value,
    poll=FOLLOW_POLL.value,
  ):
    pass
  return code


def _show(
  report: jobs.Report, *, summary_fn: Callable[[jobs.Report], str]
) -> None:
  if jax.process_index() != 0:
    return
  print(summary_fn(report), flush=True)
  for warning in report['result'].get('warnings', ()):
    print(f'warning: {warning}', file=sys.stderr)
