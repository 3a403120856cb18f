"""The step of `benchmarks/step.py` in PyTorch, at its best settings.

ResNet v1.5 as in torchvision (CIFAR stem at 32 px), two-layer projection head,
both views in one forward, NT-Xent over the batch, fused SGD; channels_last,
torch.compile, autocast to bfloat16 or TF32. Run by `benchmarks.step`.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from typing import Any

from absl import app, flags

_STEPS = flags.DEFINE_integer('steps', 20, 'Steps in one timing.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timings; the median counts.')
_CHILD = flags.DEFINE_string('child', None, 'Row to time.', required=True)
TEMPERATURE, HEAD_DIM = 0.1, 128
DEPTHS = {18: (False, (2, 2, 2, 2)), 50: (True, (3, 4, 6, 3))}
# Tried in this order on a GPU; the fastest counts.
COMPILE_MODES = ('max-autotune', 'default')


def make_model(network: str) -> Any:
  """Encoder and head; the same parameters as `step.make_config`'s."""
  from torch import nn

  depth, side = (int(n) for n in network.removeprefix('resnet').split('_'))
  bottleneck, counts = DEPTHS[depth]
  expansion = 4 if bottleneck else 1

  class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
      super().__init__()
      out = width * expansion
      sizes = [
        # (in, out, kernel, stride)
        *([(width_in, width, 1, 1)] if bottleneck else []),
        (width if bottleneck else width_in, width, 3, stride),
        (width, out, 1 if bottleneck else 3, 1),
      ]
      layers: list[Any] = []
      for i, (a, b, kernel, step) in enumerate(sizes):
        layers += [
          nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False),
          nn.BatchNorm2d(b),
        ]
        if i < len(sizes) - 1:
          layers.append(nn.ReLU(inplace=True))
      nn.init.zeros_(layers[-1].weight)
      self.branch = nn.Sequential(*layers)
      self.shortcut: Any = nn.Identity()
      if stride != 1 or width_in != out:
        self.shortcut = nn.Sequential(
          nn.Conv2d(width_in, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )

    def forward(self, x: Any) -> Any:
      return nn.functional.relu(self.branch(x) + self.shortcut(x))

  stem: list[Any] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False)]
  if side <= 32:
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
  stem += [nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
  if side > 32:
    stem.append(nn.MaxPool2d(3, 2, 1))
  blocks, width_in = [], 64
  for group, count in enumerate(counts):
    for i in range(count):
      stride = 2 if group and i == 0 else 1
      blocks.append(Block(width_in, 64 * 2**group, stride))
      width_in = 64 * 2**group * expansion
  return nn.Sequential(
    *stem,
    *blocks,
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(width_in, width_in),
    nn.ReLU(inplace=True),
    nn.Linear(width_in, HEAD_DIM),
  )


def nt_xent(z: Any) -> Any:
  """Twice the mean over rows; rows 2i and 2i+1 are views of one image."""
  import torch

  z = torch.nn.functional.normalize(z.float(), dim=1)
  logits = z @ z.T / TEMPERATURE
  logits = logits.masked_fill(
    torch.eye(len(z), dtype=torch.bool, device=z.device), float('-inf')
  )
  positives = torch.arange(len(z), device=z.device) ^ 1
  return 2 * torch.nn.functional.cross_entropy(logits, positives)


def time_mode(
  network: str, dtype: str, *, batch: int, mode: str | None
) -> dict[str, Any]:
  """Seconds of a step with one torch.compile mode (None: eager)."""
  import torch

  on_gpu = torch.cuda.is_available()
  device = torch.device('cuda' if on_gpu else 'cpu')
  side = int(network.split('_')[1])
  model = make_model(network).to(device).to(memory_format=torch.channels_last)
  optimizer = torch.optim.SGD(
    model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-6, fused=True
  )
  images = torch.rand(2 * batch, 3, side, side, device=device).to(
    memory_format=torch.channels_last
  )

  def loss_fn(images: Any) -> Any:
    with torch.autocast(
      device.type, torch.bfloat16, enabled=dtype == 'bfloat16'
    ):
      z = model(images)
    return nt_xent(z)

  compiled = loss_fn if mode is None else torch.compile(loss_fn, mode=mode)

  def step() -> Any:
    optimizer.zero_grad(set_to_none=True)
    loss = compiled(images)
    loss.backward()
    optimizer.step()
    return loss

  def wait() -> None:
    if on_gpu:
      torch.cuda.synchronize()

  for _ in range(5):
    loss = float(step().detach())
  seconds = []
  for _ in range(_REPEATS.value):
    wait()
    begin = time.perf_counter()
    for _ in range(_STEPS.value):
      step()
    wait()
    seconds.append((time.perf_counter() - begin) / _STEPS.value)
  return {
    'framework': 'torch',
    'compile_mode': mode,
    'parameters': sum(p.numel() for p in model.parameters()),
    'seconds': statistics.median(seconds),
    'seconds_all': seconds,
    'peak_bytes': torch.cuda.max_memory_allocated() if on_gpu else None,
    'loss': loss,
    'hardware': torch.cuda.get_device_name() if on_gpu else 'cpu',
    'versions': {'torch': torch.__version__},
  }


def free_memory() -> None:
  """Each mode starts with an empty GPU and a peak of its own."""
  import torch

  torch.compiler.reset()
  gc.collect()
  if torch.cuda.is_available():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def main(argv: list[str]) -> None:
  """Times one row, prints it as JSON."""
  del argv
  import torch

  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  network, dtype, batch = json.loads(_CHILD.value)
  # On a CPU compiling takes minutes and needs a C++ compiler.
  modes = COMPILE_MODES if torch.cuda.is_available() else (None,)
  rows, too_large = [], []
  for mode in modes:
    try:
      rows.append(time_mode(network, dtype, batch=batch, mode=mode))
    except torch.OutOfMemoryError as error:
      # Another mode may fit: CUDA graphs keep memory pools of their own.
      too_large.append(f'{mode}: {error}')
    # Out of the handler, which would keep the failed mode's tensors alive.
    free_memory()
  if not rows:
    raise MemoryError(
      'CUDA out of memory in all modes: ' + '; '.join(too_large)
    )
  best = min(rows, key=lambda row: row['seconds'])
  seconds = {str(row['compile_mode']): row['seconds'] for row in rows}
  print(
    json.dumps(
      {
        **best,
        'seconds_by_compile_mode': seconds,
        'out_of_memory_by_compile_mode': too_large,
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
