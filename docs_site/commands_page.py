"""The page of commands: what `--help` of each says, and the exit codes."""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from simclr_jax import command_help

ROOT = pathlib.Path(__file__).resolve().parents[1]


def listing() -> dict[str, dict[str, Any]]:
  """As `simclr_jax.completion.list_commands`, asked in a process of its own."""
  done = subprocess.run(
    [sys.executable, '-m', 'simclr_jax', 'completion', 'json'],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=True,
  )
  found: dict[str, dict[str, Any]] = json.loads(done.stdout)
  return found


def page(introduction: str, listed: Mapping[str, Mapping[str, Any]]) -> str:
  """Markdown: what docs/commands.md says, then each command.

  Args:
    introduction: The page as it is written by hand.
    listed: As of `listing`.
  """
  lines = [introduction.rstrip()]
  for name, found in listed.items():
    known = [command_help.Flag(**flag) for flag in found['flags']]
    lines += [
      '',
      f'## {name}',
      '',
      f'`python -m simclr_jax.{found["module"]}`, `simclr-jax {name}`: '
      f'{found["summary"]}.',
      '',
      '```text',
      command_help.text(found['doc'], known),
      '```',
    ]
  return '\n'.join(lines) + '\n'
