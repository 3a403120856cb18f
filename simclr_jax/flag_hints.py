"""Names that people try for flags, with ours for them.

Other codebases call the same thing `--lr`, `--epochs` or `--k`. A name that no
flag has is answered with the flag that means it, or that is spelt alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import difflib
import re
import shlex

# What is tried -> what it means, best first; the first that a command has
# counts. Behind '=' stands how a plain number is written there.
_EPOCHS, _STEPS = 'train.duration={} epochs', 'train.duration={} steps'
_WARMUP = 'optim.warmup={} epochs'
_USUAL: dict[str, tuple[str, ...]] = {
  'batch_size': ('train.batch_size', 'batch_size', 'eval.batch_size'),
  'checkpoint': ('checkpoint', 'continue_from', 'workdir', 'source'),
  'classes': ('data.labels_from', 'labels_from'),
  'data': ('data.path', 'input', 'embeddings', 'checkpoint'),
  'dataset': ('data.name', 'data.path', 'input'),
  'depth': ('model.depth', 'student.depth'),
  'dim': ('model.head_dim',),
  'dtype': ('model.compute_dtype', 'dtype'),
  'epochs': (_EPOCHS, 'probe.epochs'),
  'image_size': ('data.image_size', 'eval.resize'),
  'k': ('k', 'knn.ks', 'ks'),
  'learning_rate': ('optim.base_lr', 'probe.base_lrs'),
  'micro_batches': ('train.micro_batches',),
  'optimizer': ('optim.name',),
  'output': ('out', 'output', 'workdir'),
  'resume': ('workdir', 'checkpoint', 'source'),
  'scheduler': ('optim.schedule',),
  'seed': ('seed',),
  'steps': (_STEPS,),
  'temperature': ('loss.temperature', 'temperature', 'knn.temperatures'),
  'warmup': (_WARMUP,),
  'weight_decay': ('optim.weight_decay', 'probe.weight_decays'),
  'workdir': ('workdir', 'checkpoint', 'out'),
  'workers': ('data.num_workers', 'num_workers'),
}
_SAME = {
  'arch': 'depth',
  'backbone': 'depth',
  'bs': 'batch_size',
  'ckpt': 'checkpoint',
  'data_dir': 'data',
  'data_path': 'data',
  'embedding_dim': 'dim',
  'grad_accum': 'micro_batches',
  'gradient_accumulation_steps': 'micro_batches',
  'accumulate_grad_batches': 'micro_batches',
  'accumulation_steps': 'micro_batches',
  'img_size': 'image_size',
  'base_learning_rate': 'learning_rate',
  'logdir': 'workdir',
  'log_dir': 'workdir',
  'lr': 'learning_rate',
  'max_epochs': 'epochs',
  'max_steps': 'steps',
  'model': 'depth',
  'n_neighbors': 'k',
  'num_epochs': 'epochs',
  'num_steps': 'steps',
  'opt': 'optimizer',
  'out_dim': 'dim',
  'output_dir': 'output',
  'path': 'data',
  'precision': 'dtype',
  'pretrained': 'checkpoint',
  'proj_dim': 'dim',
  'resolution': 'image_size',
  'save_dir': 'workdir',
  'schedule': 'scheduler',
  'size': 'image_size',
  'tau': 'temperature',
  'temp': 'temperature',
  'train_batch_size': 'batch_size',
  'train_dir': 'data',
  'warmup_epochs': 'warmup',
  'top': 'k',
  'top_k': 'k',
  'topk': 'k',
  'wd': 'weight_decay',
}


def suggest(name: str, known: Iterable[str], *, value: str = '') -> list[str]:
  """Flags that a name probably means, best first; [] if none does.

  Args:
    name: What was tried, without dashes before it.
    known: Flags of the command, those of config fields with their sections.
    value: What was given, which is written as the flag takes it.
  """
  flags = list(known)
  tried = name.replace('-', '_')
  last = tried.rpartition('.')[2]
  for target in _USUAL.get(_SAME.get(last, last), ()):
    wanted, _, form = target.partition('=')
    if found := _ending_with(wanted, flags):
      return [_with_value(found[0], value, form)]
  # The field, with the sections that were left out or are others here.
  found = _ending_with(last, flags)
  if not found:
    ends = {flag.rpartition('.')[2]: flag for flag in reversed(flags)}
    close = difflib.get_close_matches(last, ends, n=1, cutoff=0.75)
    found = [ends[end] for end in close]
  return [_with_value(flag, value, '') for flag in found[:3]]


def example(doc: str, names: Sequence[str]) -> str:
  """'--config=configs/cifar10.py', as the text of a command has it."""
  given = []
  for name in names:
    match = re.search(rf'--{name}=(\S+)', doc)
    given.append(f'--{name}={match[1] if match else "..."}')
  return ' '.join(given)


def _ending_with(end: str, flags: Sequence[str]) -> list[str]:
  exact = [flag for flag in flags if flag == end]
  return exact + [flag for flag in flags if flag.endswith(f'.{end}')]


def _with_value(flag: str, value: str, form: str) -> str:
  if not value:
    return f'--{flag}'
  if form and re.fullmatch(r'[\d.e-]+', value):
    value = form.format(value)
  return f'--{flag}={shlex.quote(value)}'
