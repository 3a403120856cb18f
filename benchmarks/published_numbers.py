"""What is known of the recipes in configs/ without a card of several runs.

Numbers of others, and of a single run here: nothing to hold another run to.
"""

_DKOBAK = 'github.com/dkobak/simclr-cifar10, one A100, float32'
_LIGHTLY = 'github.com/lightly-ai/lightly, CIFAR-10 benchmark, one A6000'

PUBLISHED = {
  'configs/cifar10.py:official': 'about 91 % linear top-1 (README of '
  'github.com/google-research/simclr)',
  'configs/cifar10.py:dkobak': 'kNN (k 10, cosine) 91.4 %, linear 91.7 % '
  f'({_DKOBAK})',
  'configs/cifar10.py:dkobak_500': f'kNN (k 10, cosine) 90.3 % ({_DKOBAK})',
  'configs/cifar10.py:dkobak_100': 'loss 5.18 +- 0.01, kNN (k 10, cosine) 83.2 '
  f'+- 0.2 %, linear 85.6 +- 0.2 % ({_DKOBAK})',
  'configs/cifar10.py:lightly': 'kNN (k 200, temperature 0.1) 84.8 % '
  f'({_LIGHTLY})',
  'configs/cifar10.py:lightly_800': 'kNN (k 200, temperature 0.1) 87.9 % '
  f'({_LIGHTLY})',
  'configs/cifar10.py:solo_learn': '90.74 % with a linear classifier trained '
  'beside the encoder (github.com/vturrisi/solo-learn)',
  'configs/cifar10.py:cpu': 'one run here, whose distance from the next nobody '
  'knows: kNN by epoch 35.2, 38.5, 39.7, 40.2, 40.3, 40.6 %, linear 47.3 % '
  '(docs/results/cifar10_cpu)',
  'configs/imagenet.py:v1': '69.3 % linear top-1 (Chen et al. 2020, v1)',
  'configs/imagenet.py:readme': 'about 64.5 % linear top-1, 6 h on 32 TPU v3 '
  'cores (README of github.com/google-research/simclr)',
  'configs/imagenet.py:v2': '71.7 % linear top-1 with a memory of past keys, '
  'about 71 % without, as here (Chen et al. 2020, v2)',
}
