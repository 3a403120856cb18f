"""ResNets of timm: resnet18, 34, 50, 101, 152, 200, by torchvision's names.

Its variants (resnet50d, resnetv2, seresnet, skresnet) are other networks; their
names do not match and are refused.
"""

from __future__ import annotations

from simclr_jax.importers import torchvision

FORMAT = torchvision.FORMAT
