"""Reads an optimized XLA program: collectives, and traffic by kind of memory.

XLA's own 'bytes accessed' counts every operand and result of every operation.
On a TPU that is not what goes through the memory (HBM): many operands lie in
the chip's fast memory (VMEM, marked S(1) in the text), and each copy into it
counts again, several times over. `memory_traffic` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math
import re

COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)
_BYTES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 'bf16': 2}
_ARRAY = re.compile(r'\b([a-z]+\d*(?:e\d\w*)?)\[([\d,]*)\](\{[^}]*\})?')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_CALLED = re.compile(
  r'(?:calls|body|condition|to_apply|called_computations|branch_computations)'
  r'=\{?((?:%[\w.\-]+(?:, )?)+)\}?'
)
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# They move nothing: names for memory that something else wrote.
_NO_TRAFFIC = frozenset(
  ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast')
  + ('after-all', 'partition-id', 'replica-id', 'optimization-barrier')
)
# Their traffic is that of the computations that they run.
_CONTROL = frozenset(('while', 'call', 'conditional'))


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's type."""

  num_bytes: int
  in_vmem: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  called: tuple[str, ...]
  trip_count: int
  is_bitcast: bool


@dataclasses.dataclass(frozen=True)
class Collective:
  """One kind of collective within one run of the program.

  Attributes:
    count: Times that one runs; an asynchronous one counts once.
    num_bytes: Of the results on one chip, summed.
    largest_array: Bytes of the largest single array among them.
  """

  count: int = 0
  num_bytes: int = 0
  largest_array: int = 0


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes read and written in one run of the program on one chip."""

  hbm: int
  vmem: int


class Program:
  """An optimized program as `compiled.as_text()` gives it."""

  def __init__(self, text: str):
    """Parses the text.

    Raises:
      ValueError: If there is no entry computation in it.
    """
    self.computations: dict[str, list[Instruction]] = {}
    self._entry = ''
    current: list[Instruction] = []
    for line in re.sub(r'/\*.*?\*/', '', text).splitlines():
      start = _COMPUTATION.match(line)
      if start:
        current = self.computations.setdefault(start[2], [])
        self._entry = start[2] if start[1] else self._entry
      elif found := _INSTRUCTION.match(line):
        current.append(_parse(found[1], found[2]))
    if not self._entry:
      raise ValueError('the text has no ENTRY: it is no HLO module')

  def collectives(self) -> dict[str, Collective]:
    """What crosses devices, by kind; inside loops times the trip count."""
    totals: dict[str, Collective] = {}
    for instruction, times in self._executed(self._entry, 1):
      kind = instruction.opcode.removesuffix('-start')
      if kind not in COLLECTIVES:
        continue
      sizes = [a.num_bytes for a in _results(instruction)]
      total = totals.get(kind, Collective())
      totals[kind] = Collective(
        count=total.count + times,
        num_bytes=total.num_bytes + times * sum(sizes),
        largest_array=max(total.largest_array, *sizes),
      )
    return totals

  def memory_traffic(self) -> Traffic:
    """Operands read and results written, each once, by where they lie.

    An upper bound: an operation that reads a part of an operand counts whole.
    """
    hbm = vmem = 0
    arrays = {
      (name, i.name): i
      for name, instructions in self.computations.items()
      for i in instructions
    }
    for name, instruction, times in self._located(self._entry, 1):
      if instruction.opcode in _NO_TRAFFIC | _CONTROL:
        continue
      # The end of an asynchronous operation repeats what its start says.
      if instruction.opcode.endswith(('-done', '-update')):
        continue
      if instruction.is_bitcast:
        continue
      moved = list(_results(instruction))
      if instruction.opcode == 'slice-start':
        # Reads no more than it writes, out of a larger operand.
        source = arrays[name, instruction.operands[0]].arrays[0]
        moved.append(Array(moved[0].num_bytes, source.in_vmem))
      else:
        for operand in instruction.operands:
          moved += arrays[name, operand].arrays
      hbm += times * sum(a.num_bytes for a in moved if not a.in_vmem)
      vmem += times * sum(a.num_bytes for a in moved if a.in_vmem)
    return Traffic(hbm, vmem)

  def _located(
    self, name: str, times: int
  ) -> Iterator[tuple[str, Instruction, int]]:
    for instruction in self.computations[name]:
      yield name, instruction, times
      if instruction.opcode in _CONTROL:
        for called in instruction.called:
          yield from self._located(called, times * instruction.trip_count)

  def _executed(
    self, name: str, times: int
  ) -> Iterator[tuple[Instruction, int]]:
    """Every instruction with how often it runs, also inside of fusions."""
    for instruction in self.computations[name]:
      yield instruction, times
      if instruction.opcode.endswith(('-done', '-update')):
        continue  # Names what its start has run already.
      for called in instruction.called:
        yield from self._executed(called, times * instruction.trip_count)


def _parse(name: str, text: str) -> Instruction:
  """An instruction from what stands behind its '='."""
  split = _end_of_type(text)
  kind, rest = text[:split], text[split:]
  opcode = _OPCODE.match(rest)
  if opcode is None:
    raise ValueError(f'no operation in {text[:120]!r}')
  inside, behind = _split_operands(rest[opcode.end() :])
  trip_count = _TRIP_COUNT.search(behind)
  return Instruction(
    name=name,
    opcode=opcode[1],
    arrays=tuple(_arrays(kind)),
    operands=tuple(re.findall(r'%([\w.\-]+)', inside)),
    called=tuple(
      called
      for group in _CALLED.findall(behind)
      for called in re.findall(r'%([\w.\-]+)', group)
    ),
    trip_count=int(trip_count[1]) if trip_count else 1,
    is_bitcast='custom_call_target="ConcatBitcast"' in behind,
  )


def _end_of_type(text: str) -> int:
  """Where the type ends: a tuple's bracket, or the first space."""
  if not text.startswith('('):
    return text.index(' ')
  depth = 0
  for i, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if depth == 0:
      return i + 1
  raise ValueError(f'unbalanced type in {text[:120]!r}')


def _split_operands(text: str) -> tuple[str, str]:
  """What stands between an operation's brackets, and what behind them."""
  depth = 1
  for i, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if depth == 0:
      return text[:i], text[i + 1 :]
  raise ValueError(f'unbalanced operands in {text[:120]!r}')


def _arrays(kind: str) -> Iterator[Array]:
  for name, dims, layout in _ARRAY.findall(kind):
    digits = re.search(r'\d+', name)
    size = _BYTES.get(name) or (int(digits[0]) / 8 if digits else 0)
    count = math.prod(int(d) for d in dims.split(',') if d)
    yield Array(math.ceil(size * count), 'S(1)' in layout)


def _results(instruction: Instruction) -> tuple[Array, ...]:
  """Arrays that an instruction writes.

  The start of an asynchronous one gives (operands, results, ...), and only the
  results are written; a start of an all-reduce gives the results alone.
  """
  arrays, opcode = instruction.arrays, instruction.opcode
  if opcode == 'copy-start':  # (result, operand, context)
    return arrays[:1]
  if opcode.endswith('-start') and opcode != 'all-reduce-start':
    return arrays[len(instruction.operands) :]
  return arrays
