"""`--check-recipe` is `--check_recipe`, for every flag of every command.

The documentation writes underscores, as absl does; a person who is used to
dashes is understood, as with the names of commands.
"""

from __future__ import annotations

from collections.abc import Container, Sequence


def underscored(argv: Sequence[str], known: Container[str]) -> list[str]:
  """Arguments with the names of known flags spelt by underscores.

  Args:
    argv: Arguments. What stands behind '--' is no flag, and values are left
      alone: '--out=a-b'.
    known: Names of flags without dashes.
  """
  spelt = list(argv)
  for i, argument in enumerate(argv):
    if argument == '--':
      break
    name, equals, value = argument.partition('=')
    bare = name.lstrip('-').replace('-', '_')
    if bare not in known and bare.removeprefix('no_') in known:
      bare = f'no{bare.removeprefix("no_")}'
    if name.startswith('-') and (
      bare in known or bare.removeprefix('no') in known
    ):
      spelt[i] = f'--{bare}{equals}{value}'
  return spelt
