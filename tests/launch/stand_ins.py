"""Programs that write down how they were called, in place of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Each call appends [name, *arguments] to `calls`, and answers by the first rule
# whose words all occur in the call; of several answers each is given once, the
# last for ever.
_PROGRAM = """#!{python} -SE
import json, os, sys
folder = {folder!r}
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(folder + '/calls', 'a') as log:
  log.write(json.dumps(call) + '\\n')
with open(folder + '/rules') as file:
  rules = json.load(file)
text = ' '.join(call)
for rule in rules:
  if all(word in text for word in rule['words']):
    answer = rule['answers'][0]
    if len(rule['answers']) > 1:
      del rule['answers'][0]
    with open(folder + '/rules', 'w') as file:
      json.dump(rules, file)
    sys.stdout.write(answer.get('out', ''))
    sys.stderr.write(answer.get('err', ''))
    sys.exit(answer.get('code', 0))
"""


class StandIns:
  """A folder of such programs, and an environment that finds them first."""

  def __init__(self, folder: pathlib.Path, names: Sequence[str]):
    self._folder = folder
    self.home = folder / 'home'
    self.home.mkdir(parents=True)
    binaries = folder / 'bin'
    binaries.mkdir()
    for name in names:
      program = binaries / name
      program.write_text(
        _PROGRAM.format(python=sys.executable, folder=str(folder))
      )
      program.chmod(0o755)
    # With PyYAML, whatever other Python the machine has.
    python = binaries / 'python3'
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    self.environment = {
      'PATH': f'{binaries}:{os.environ["PATH"]}',
      'HOME': str(self.home),
      'LANG': 'C.UTF-8',
    }
    self._rules: list[dict] = []
    self.forget()

  def answer(self, *words: str, **answer: object) -> None:
    """Calls with `words` get `out`, `err`, `code`; again: the next answer."""
    for rule in self._rules:
      if rule['words'] == list(words):
        rule['answers'].append(answer)
        break
    else:
      self._rules.append({'words': list(words), 'answers': [answer]})
    self.forget()

  def forget(self) -> None:
    """No calls so far, and all answers still to be given."""
    (self._folder / 'calls').write_text('')
    (self._folder / 'rules').write_text(json.dumps(self._rules))

  def calls(
    self, *, without: str = 'git rev-parse, git diff'
  ) -> list[list[str]]:
    """What was called, in order; `without` what only reads this checkout."""
    lines = (self._folder / 'calls').read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    reads = [words.split() for words in without.split(', ')]
    return [call for call in calls if call[:2] not in reads]

  def run(
    self, script: str, *arguments: str, **environment: str
  ) -> subprocess.CompletedProcess[str]:
    """`launch/SCRIPT ARGUMENTS`."""
    return self._run([str(ROOT / 'launch' / script), *arguments], environment)

  def run_lines(self, lines: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of `lines`."""
    return self._run(['bash', '-euc', lines], {})

  def _run(
    self, argv: Sequence[str], environment: dict[str, str]
  ) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      argv,
      env={**self.environment, **environment},
      cwd=self._folder,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=60,
    )
