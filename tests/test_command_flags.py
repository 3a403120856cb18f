"""Commands in one program: each has its flags, the program has its own."""

from __future__ import annotations

import subprocess
import sys

from tests.command_server import ROOT

_PROGRAM = """
import importlib, sys
from absl import flags
flags.DEFINE_integer('k', 3, 'Before the commands are imported.')
from simclr_jax import commands, completion
for command in commands.COMMANDS.values():
  importlib.import_module(f'simclr_jax.{command.module}')
flags.mark_flags_as_required(['checkpoint'])  # Of whichever command.
flags.DEFINE_string('config', None, 'After that.')
# A section's field, as a command's own argument would be.
rest = flags.FLAGS(['program', '--config=mine', '--k=4', '--checkpoint=c'])
assert (flags.FLAGS.config, flags.FLAGS.k) == ('mine', 4)
found = completion.list_commands()
assert len(found) == len(commands.COMMANDS)
defaults = {
  name: {flag['name']: flag['default'] for flag in of['flags']}
  for name, of in found.items()
}
assert defaults['finetune']['methods'] == 'finetune'
assert defaults['label_efficiency']['methods'].count(',') == 2
assert defaults['import_checkpoint']['normalize'] == ''
assert defaults['embed']['normalize'] == 'False'
assert defaults['knn']['knn.ks'] and 'probe.epochs' in defaults['linear_probe']
"""


def test_all_commands_in_one_program_with_flags_of_its_own():
  done = subprocess.run(
    # An unknown field would end a command, and is none of an import.
    [sys.executable, '-c', _PROGRAM, '--data.none=1'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
