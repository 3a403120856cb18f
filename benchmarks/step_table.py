"""Rows of `benchmarks/step.py`: what a child's end means, and the table.

Defines no flags, so that tests can import it.
"""

from __future__ import annotations

import json
from typing import Any

OUT_OF_MEMORY = 'out of memory'
_ERROR_CHARACTERS = 2000


def child_row(return_code: int, *, stdout: str, stderr: str) -> dict[str, Any]:
  """The row that a child printed last, or {'error': why there is none}.

  The error ends in its most telling line and holds the return code, so that it
  is never empty: a killed child (-9, as by the kernel when memory runs out)
  prints nothing. Only a framework's own message counts as out of memory.
  """
  text = stdout + stderr
  if return_code == 0:
    try:
      row = json.loads(stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
      row = None
    if isinstance(row, dict):
      return row
    text = f'{text}\nno row printed'
  elif 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower():
    return {'error': f'{OUT_OF_MEMORY} (return code {return_code})'}
  last = (text.strip().splitlines() or ['no output'])[-1]
  return {
    'error': f'{text.strip()[-_ERROR_CHARACTERS:]}\n'
    f'return code {return_code}: {last}'.lstrip()
  }


def is_out_of_memory(row: dict[str, Any]) -> bool:
  """Whether a smaller batch is worth trying."""
  return row.get('error', '').startswith(OUT_OF_MEMORY)


def check_parameters(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The rows of one network, and an error row where they differ in size."""
  sizes = {
    row['framework']: row['parameters'] for row in rows if 'parameters' in row
  }
  if len(set(sizes.values())) <= 1:
    return rows
  same = {name: rows[0][name] for name in ('network', 'dtype', 'batch')}
  error = f'the networks differ, do not compare them: {sizes} parameters'
  return [*rows, {**same, 'framework': 'both', 'error': error}]


def make_table(rows: list[dict[str, Any]]) -> str:
  """For people; times as such are worth stating on a GPU alone."""
  lines = [
    f'{"network":<14}{"dtype":<10}{"batch":>6}  {"framework":<12}'
    f'{"images/s":>10}{"MFU":>8}{"peak GiB":>10}{"vs torch":>10}'
  ]
  # Rows of networks that differ have no ratio.
  differ = {_key(row) for row in rows if row['framework'] == 'both'}
  peers = {
    _key(row): row.get('seconds')
    for row in rows
    if row['framework'] == 'torch' and _key(row) not in differ
  }
  for row in rows:
    start = (
      f'{row["network"]:<14}{row["dtype"]:<10}{row["batch"]:>6}  '
      f'{row["framework"]:<12}'
    )
    if 'error' in row:
      last = (row['error'].splitlines() or ['failed'])[-1]
      lines.append(f'{start}{last:>10}')
      continue
    peer = peers.get(_key(row))
    cells = [
      f'{row["batch"] / row["seconds"]:.1f}',
      f'{row["mfu"]:.1%}' if row.get('mfu') else '-',
      f'{row["peak_bytes"] / 2**30:.1f}' if row.get('peak_bytes') else '-',
      f'{peer / row["seconds"]:.2f}x' if peer else '-',
    ]
    widths = (10, 8, 10, 10)
    lines.append(
      start + ''.join(f'{c:>{w}}' for c, w in zip(cells, widths, strict=True))
    )
  return '\n'.join(lines)


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
  return row['network'], row['dtype'], row['batch']
