"""The console script `simclr-jax`: every command by its name.

`simclr-jax pretrain ...` is `python -m simclr_jax.main ...`, and so on. Nothing
is imported before it is known which command is wanted, so that help and
mistakes come at once.
"""

from __future__ import annotations

from collections.abc import Sequence
import difflib
import runpy
import sys
from typing import NamedTuple

import simclr_jax


class Command(NamedTuple):
  """One file of the package with a `__main__` block.

  Attributes:
    module: Its name in the package.
    summary: What it does, in a line.
  """

  module: str
  summary: str


# In the order in which a person meets them.
COMMANDS = {
  'pretrain': Command('main', 'pretrain an encoder, or resume'),
  'plan': Command('plan', 'what a run needs, before it is paid for'),
  'linear_probe': Command('linear_probe', 'linear accuracy of a checkpoint'),
  'knn': Command('knn', 'kNN accuracy of a checkpoint'),
  'probe_transforms': Command(
    'probe_transforms', 'what h and z know of the views'
  ),
  'finetune': Command('finetune', 'fine-tune an encoder on labels'),
  'label_efficiency': Command(
    'label_efficiency', 'accuracy by the number of labels'
  ),
  'distill': Command('distill', 'a student from a fine-tuned teacher'),
  'embed': Command('embed', 'features of any pictures as Parquet'),
  'search': Command('search', 'the most similar pictures of a set'),
  'duplicates': Command('duplicates', 'pictures that are nearly the same'),
  'report': Command('report', 'a page that shows what a run learnt'),
  'export': Command('export', 'the encoder for another program'),
  'import_checkpoint': Command(
    'import_checkpoint', "a checkpoint of another codebase's weights"
  ),
  'prepare': Command('prepare', 'write a data set as Parquet files'),
}
ALIASES = {'main': 'pretrain'}
COMPLETION = 'completion'


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command that the first argument names; its exit code."""
  given = list(sys.argv[1:] if arguments is None else arguments)
  if not given:
    print(usage(), file=sys.stderr)
    return 2
  first, *rest = given
  if first in ('--help', '-h', '-help', 'help') and not rest:
    print(usage())
    return 0
  if first == '--version':
    print(simclr_jax.__version__)
    return 0
  if first == 'help':
    first, rest = rest[0], ['--help']
  if first == COMPLETION:
    from simclr_jax import completion

    return completion.main(rest)
  try:
    command = find(first)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return run(command, rest)


def run(command: Command, arguments: Sequence[str]) -> int:
  """As `python -m simclr_jax.<module> <arguments>` in this process."""
  name = f'simclr_jax.{command.module}'
  sys.argv = [name, *arguments]
  runpy.run_module(name, run_name='__main__', alter_sys=True)
  return 0


def find(name: str) -> Command:
  """The command called `name`; '-' and '_' are the same.

  Raises:
    ValueError: If there is none; it names the closest and all others.
  """
  key = name.replace('-', '_')
  key = ALIASES.get(key, key)
  if key in COMMANDS:
    return COMMANDS[key]
  known = (*COMMANDS, *ALIASES, COMPLETION)
  close = difflib.get_close_matches(key, known, n=1)
  hint = f'did you mean {close[0]!r}? ' if close else ''
  raise ValueError(
    f'simclr-jax has no command {name[:99]!r}; {hint}known: {", ".join(known)}'
  )


def usage() -> str:
  """What `simclr-jax --help` prints."""
  rows = [(name, command.summary) for name, command in COMMANDS.items()]
  rows.append((f'{COMPLETION} bash|zsh', 'a script that completes all this'))
  width = max(len(name) for name, _ in rows) + 2
  lines = [
    'simclr-jax COMMAND [--flag=value ...]',
    '',
    *(f'  {name:<{width}}{summary}' for name, summary in rows),
    '',
    '`simclr-jax COMMAND --help` has its flags and exit codes;',
    '`python -m simclr_jax.MODULE` is the same without the script',
    '(pretrain is simclr_jax.main).',
  ]
  return '\n'.join(lines)
