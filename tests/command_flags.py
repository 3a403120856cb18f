"""Runs a command's `main` in this process as the shell would."""

from __future__ import annotations

import sys
import types

from absl import flags
import pytest

from simclr_jax.evaluation import command_line


def call(module: types.ModuleType, section: str, *arguments: object) -> int:
  """Exit code of `python -m <module> <arguments>`."""
  argv = [module.__name__, *map(str, arguments)]
  sections = (*command_line.SECTIONS, section)
  for name in list(flags.FLAGS):
    if name.split('.')[0] in sections:
      delattr(flags.FLAGS, name)
    elif flags.FLAGS.find_module_defining_flag(name) == command_line.__name__:
      flags.FLAGS[name].unparse()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'argv', argv)
    # ml_collections looks for overrides in sys.argv when the flag is defined.
    for name in sections:
      command_line.define_section(name)
    return module.main(flags.FLAGS(argv))
