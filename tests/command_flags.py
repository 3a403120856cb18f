"""Runs a command's `main` in this process as the shell would."""

from __future__ import annotations

import types

from absl import flags

from simclr_jax import flag_errors, section_flags
from simclr_jax.evaluation import command_line


def call(module: types.ModuleType, section: str, *arguments: object) -> int:
  """Exit code of `python -m <module> <arguments>`."""
  for name in flags.FLAGS:
    if flags.FLAGS.find_module_defining_flag(name) == command_line.__name__:
      flags.FLAGS[name].unparse()
  section_flags.define(section)
  return module.main(flag_errors.parse([module.__name__, *map(str, arguments)]))
