"""A plan for people."""

from __future__ import annotations

import textwrap

from simclr_jax.planning.plan import MULTIPLES, Plan, needed_input
from simclr_jax.training import progress

Rows = list[tuple[str, str]]
_WIDTH = 100


def format_plan(plan: Plan) -> str:
  """The whole plan, a section for each question."""
  sections = [
    ('Recipe', _recipe(plan)),
    ('Step', _step(plan)),
    ('Memory of a device', _memory(plan)),
    ('Time', _time(plan)),
    ('Input', _input(plan)),
    ('Checkpoints', _checkpoints(plan)),
  ]
  lines = [f'Plan for {plan.topology.label}: {plan.how}']
  for title, rows in sections:
    lines += ['', title, *_align(rows)]
  lines += ['', *_warnings(plan)]
  if plan.memory.fits is False:
    lines += ['', *_options(plan)]
  lines += ['', verdict(plan)]
  return '\n'.join(lines)


def verdict(plan: Plan) -> str:
  """The last line: does it fit?"""
  memory, device = plan.memory, 'chip'
  if plan.topology.devices_per_chip > 1:
    device = 'device (half a chip)'
  need = f'{_gb(memory.needed)} of each {device}'
  if memory.fits is None:
    return f'It needs {need}; how much there is, is not known.'
  have = _gb(memory.limit or 0)
  if memory.fits:
    return f'It fits: {need}, {have} are usable.'
  return f'IT DOES NOT FIT: {need} are needed, {have} are usable.'


def _align(rows: Rows) -> list[str]:
  width = max(len(name) for name, _ in rows)
  lines = []
  for name, value in rows:
    first, *rest = textwrap.wrap(value, _WIDTH - width - 4) or ['']
    lines.append(f'  {name:<{width}}  {first}')
    lines += [' ' * (width + 4) + more for more in rest]
  return lines


def _recipe(plan: Plan) -> Rows:
  config, resolved = plan.config, plan.resolved
  optim, augment = config.optim, config.augment
  parts = ', '.join(f'{name} {n:,}' for name, n in plan.parameters.items())
  model = f'ResNet-{config.model.depth}, width {config.model.width:g}'
  if config.model.sk_ratio:
    model += f', SK {config.model.sk_ratio:g}'
  micro = ''
  if config.train.micro_batches > 1:
    micro = f', in {config.train.micro_batches} micro-batches'
  return [
    (
      'data',
      f'{resolved.num_examples:,} images, {resolved.num_classes} classes '
      f'({plan.split.origin})',
    ),
    (
      'views',
      f'2 of {config.data.image_size} px; jitter {augment.jitter_strength:g}, '
      f'blur {augment.blur_prob:g}; made on: {config.data.augment_on}, loader '
      f'{config.data.loader}',
    ),
    (
      'network',
      f'{model}, {config.model.compute_dtype}, remat {config.model.remat}; '
      f'{sum(plan.parameters.values()):,} parameters ({parts}); '
      f'{plan.forward_flops / 1e9:.3g} GFLOP forward per view',
    ),
    (
      'batch',
      f'{config.train.batch_size:,} images ({resolved.per_device_batch} per '
      f'device, {resolved.per_host_batch} per host){micro}',
    ),
    (
      'loss',
      f'NT-Xent, temperature {config.loss.temperature:g}, '
      f'{config.loss.scale} scale, {resolved.negatives_per_anchor:,} '
      f'negatives; {resolved.loss_implementation}, about '
      f'{resolved.loss_bytes_per_device / 2**20:.3g} MiB per device',
    ),
    (
      'steps',
      f'{resolved.total_steps:,} ({config.train.duration}, '
      f'{resolved.steps_per_epoch:.1f} an epoch), {resolved.warmup_steps:,} of '
      'warm-up',
    ),
    (
      'optimizer',
      f'{optim.name}, {optim.schedule}, peak learning rate '
      f'{resolved.peak_lr:g} ({optim.base_lr:g}, {optim.lr_scaling}), weight '
      f'decay {optim.weight_decay:g}',
    ),
    *(('', ' '.join(group.split(':')[0].split())) for group in plan.groups),
  ]


def _step(plan: Plan) -> Rows:
  cost = plan.cost
  if cost is None:
    return [('compiled', 'no: the compiler found no way to fit it')]
  rows: Rows = [
    ('FLOPs', f'{cost.flops / 1e12:.3g} T per device'),
    ('through memory', f'{_gb(cost.hbm_bytes)} per device'),
  ]
  for kind, total in sorted(cost.collectives.items()):
    rows.append(
      (
        kind,
        f'{total["count"]} x, {total["num_bytes"] / 1e6:,.1f} MB',
      )
    )
  if not cost.collectives:
    rows.append(('collectives', 'none'))
  if cost.compile_seconds:
    cached = ' (earlier; kept)' if cost.cached else ''
    rows.append(('compiled in', f'{cost.compile_seconds:.0f} s{cached}'))
  return rows


def _memory(plan: Plan) -> Rows:
  memory, cost = plan.memory, plan.cost
  rows: Rows = []
  if cost is not None:
    rows += [
      ('arguments', f'{_gb(cost.argument_bytes)} (state, batch)'),
      ('temporaries', _gb(cost.temporary_bytes)),
      (
        'outputs',
        f'{_gb(cost.output_bytes)}, {_gb(cost.aliased_bytes)} of it in place '
        'of arguments',
      ),
    ]
  rows += [
    ('the step', _gb(memory.step)),
    ('next batch', f'{_gb(memory.next_batch)}, put there one ahead'),
  ]
  if memory.pixels:
    rows.append(('pixels', f'{_gb(memory.pixels)}, the data set'))
  there = 'not known'
  if memory.limit is not None and memory.available is not None:
    share = 100 * memory.needed / memory.limit
    there = (
      f'{_gb(memory.needed)} of {_gb(memory.limit)} usable ({share:.0f} %; '
      f'{_gb(memory.available)} in all)'
    )
  return [*rows, ('together', there)]


def _time(plan: Plan) -> Rows:
  roofline = plan.roofline
  if roofline is None:
    return [
      ('least', 'not known: no peak is published for these devices'),
    ]
  links = (
    'links not published'
    if roofline.links is None
    else f'links {1e3 * roofline.links:.1f} ms'
  )
  rows: Rows = [
    (
      'least time of a step',
      f'{1e3 * roofline.floor:.1f} ms by published peaks: arithmetic '
      f'{1e3 * roofline.arithmetic:.1f} ms, memory '
      f'{1e3 * roofline.memory:.1f} ms, {links}; bound by {roofline.bound}',
    )
  ]
  for multiple, duration in zip(MULTIPLES, plan.durations, strict=True):
    name = 'the run at it' if multiple == 1 else f'{multiple} times that'
    rows.append(
      (
        name,
        f'{progress.format_seconds(3600 * duration.hours)}, '
        f'{duration.chip_hours:,.1f} chip-hours, '
        f'{duration.images_per_second:,.0f} images/s',
      )
    )
  rows.append(
    (
      '',
      'no run reaches the least time; what it leaves out: docs/planning.md',
    )
  )
  return rows


def _input(plan: Plan) -> Rows:
  if plan.config.data.augment_on == 'device':
    return [('host', 'sends indices; the devices make the views')]
  rows: Rows = []
  needed = needed_input(plan)
  if needed is not None:
    rows.append(
      (
        'needed per host',
        f'up to {needed:,.0f} pairs of views a second (at the least time of a '
        'step)',
      )
    )
  rate = plan.input_rate
  if rate is None:
    return [*rows, ('this machine', 'not measured')]
  rows.append(
    (
      'this machine',
      f'{rate.pairs_per_second:,.0f} pairs/s on {rate.cores} cores, '
      f'{rate.pairs_per_cpu_second:,.0f} per core and second at work '
      f'({rate.pictures})',
    )
  )
  if needed is not None:
    cores = needed / rate.pairs_per_cpu_second
    rows.append(
      (
        'cores like these',
        f'{cores:,.1f} in each host would do'
        f'{"" if cores < 200 else ": more than hosts have"}',
      )
    )
  return rows


def _checkpoints(plan: Plan) -> Rows:
  disk = plan.disk
  rows: Rows = [
    (
      'one',
      f'{_gb(disk.state + disk.encoder)} (state {_gb(disk.state)}, encoder '
      f'{_gb(disk.encoder)})',
    ),
    (
      'the workdir',
      f'{_gb(disk.at_most)} at most ({disk.checkpoints} checkpoints: those '
      'kept, and the one being written)',
    ),
  ]
  if disk.hours_between is not None:
    rows.append(
      (
        'between them',
        f'at least {progress.format_seconds(3600 * disk.hours_between)} '
        f'({plan.config.checkpoint.every})',
      )
    )
  return rows


def _warnings(plan: Plan) -> list[str]:
  if not plan.warnings:
    return ['Warnings', '  none']
  lines = ['Warnings']
  for warning in plan.warnings:
    text = f'{warning.field}: {warning.text}'
    lines += textwrap.wrap(
      text, _WIDTH, initial_indent='  - ', subsequent_indent='    '
    )
  return lines


def _options(plan: Plan) -> list[str]:
  enough = [o for o in plan.options if o.fits]
  short = [o for o in plan.options if not o.fits]
  lines = [f'What would make it fit ({plan.options_how})']
  rows = [(o.change, f'{_gb(o.needed)}; {o.remark}') for o in enough]
  lines += _align(rows) if rows else ['  nothing alone']
  if short:
    lines += textwrap.wrap(
      'not enough alone: ' + ', '.join(o.change for o in short),
      _WIDTH,
      initial_indent='  ',
      subsequent_indent='    ',
      break_on_hyphens=False,
    )
  return lines


def _gb(num_bytes: float) -> str:
  return f'{num_bytes / 1e9:.2f} GB'
