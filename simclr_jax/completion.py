"""`simclr-jax completion bash|zsh`: a script that completes commands and flags.

  simclr-jax completion bash >> ~/.bashrc
  simclr-jax completion zsh >> ~/.zshrc

All words stand in the script, so that completing starts no Python; print it
anew after an update. `simclr-jax completion json` prints all flags of all
commands for other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import importlib
import io
import json
import os
import sys
from typing import Any

from simclr_jax import commands, console

SHELLS = ('bash', 'zsh', 'json')
# Imported once; each command is then asked in a process that begins with them.
_SHARED = (
  'simclr_jax.evaluation.jobs',
  'simclr_jax.training.loop',
  'simclr_jax.training.run',
  'ml_collections.config_flags',
)
_SCRIPT = """\
# Completion of simclr-jax; written by `simclr-jax completion {kind}`.
{prelude}_simclr_jax() {{
  local line=${{COMP_LINE:0:$COMP_POINT}} words= values= name value reply
  local cur=${{line##* }} command=
  read -r _ command _ <<< "$line"
  COMPREPLY=()
  if [[ $cur == "$command" ]]; then
    COMPREPLY=($(compgen -W '{names}' -- "$cur"))
    COMPREPLY=("${{COMPREPLY[@]/%/ }}")
    return
  fi
  case $command in
{cases}
  esac
  if [[ $cur == --*=* ]]; then
    name=${{cur%%=*}} value=${{cur#*=}}
    case $command,$name in
{values}
      *) reply=($(ls -d -- "$value"* 2> /dev/null)) ;;
    esac
    [[ -n $values ]] && reply=($(compgen -W "$values" -- "$value"))
    # bash splits words at '=', where zsh wants the whole word.
    [[ $COMP_WORDBREAKS == *=* ]] || reply=("${{reply[@]/#/$name=}}")
    COMPREPLY=("${{reply[@]}}")
    return
  fi
  # Without a dot the sections are enough: there are a hundred fields.
  if [[ $cur != --*.* ]]; then
    words=$(printf '%s\\n' $words | sed 's/\\..*/./' | sort -u)
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o nospace -F _simclr_jax simclr-jax
"""
_PRELUDES = {
  'bash': '',
  'zsh': 'autoload -U +X compinit && compinit\n'
  'autoload -U +X bashcompinit && bashcompinit\n',
}


def main(arguments: Sequence[str]) -> int:
  """Prints the script for the shell that is named; the exit code."""
  if list(arguments) in (['--help'], ['-h']):
    print(__doc__.strip())
    return 0
  if len(arguments) != 1 or arguments[0] not in SHELLS:
    console.say(f'simclr-jax completion wants one of {", ".join(SHELLS)}')
    return console.EXIT_WRONG_INPUT
  listing = list_commands()
  if arguments[0] == 'json':
    print(json.dumps(listing, indent=2))
  else:
    print(script(arguments[0], listing), end='')
  return 0


def list_commands() -> dict[str, dict[str, Any]]:
  """Name -> {'module', 'summary', 'doc', 'flags'} of every command.

  Starts a process for each by a fork, so it wants one without threads.
  """
  for name in _SHARED:
    importlib.import_module(name)
  listing = {}
  for name, command in commands.COMMANDS.items():
    found = json.loads(_ask(command))
    listing[name] = {**command._asdict(), **found}
  return listing


def script(shell: str, listing: Mapping[str, Mapping[str, Any]]) -> str:
  """The completion script for 'bash' or 'zsh'."""
  cases, values = [], []
  for name, found in listing.items():
    spellings = {name, name.replace('_', '-')}
    spellings |= {a for a, target in commands.ALIASES.items() if target == name}
    pattern = '|'.join(sorted(spellings))
    words = []
    for flag in found['flags']:
      words += _words(flag)
      if flag['choices']:
        patterns = '|'.join(f'{s},--{flag["name"]}' for s in sorted(spellings))
        values.append(
          f"      {patterns}) values='{' '.join(flag['choices'])}' ;;"
        )
    cases.append(f"    {pattern}) words='{' '.join(words)}' ;;")
  names = (*listing, *commands.ALIASES, commands.COMPLETION)
  shells = ' '.join(s for s in SHELLS if s != 'json')
  cases.append(f"    {commands.COMPLETION}) words='{shells}' ;;")
  return _SCRIPT.format(
    kind=shell,
    prelude=_PRELUDES[shell],
    names=' '.join(names),
    cases='\n'.join(cases),
    values='\n'.join(values),
  )


def _words(flag: Mapping[str, Any]) -> list[str]:
  name = f'--{flag["name"]}'
  if flag['kind'] == 'bool':
    return [name, f'--no{flag["name"]}']
  is_section = flag['kind'] == 'config' and flag['name'] != 'config'
  return [] if is_section else [f'{name}=']


def _ask(command: commands.Command) -> str:
  """What `--helpjson` of a command prints."""
  reading, writing = os.pipe()
  child = os.fork()
  if not child:
    code = 1
    try:
      os.close(reading)
      out = io.StringIO()
      with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        commands.run(command, ['--helpjson'])
      with os.fdopen(writing, 'w') as pipe:
        pipe.write(out.getvalue())
      code = 0
    finally:
      sys.stderr.flush()
      os._exit(code)
  os.close(writing)
  with os.fdopen(reading) as pipe:
    answer = pipe.read()
  if os.waitpid(child, 0)[1]:
    raise RuntimeError(f'simclr_jax.{command.module} --helpjson failed')
  return answer
