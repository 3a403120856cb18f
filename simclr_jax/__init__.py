"""SimCLR and its family in JAX: pretraining, evaluation, conversion."""

import importlib.util
import sys

__version__ = '0.1.0'

# `python -m simclr_jax.knn` imports this file with '-m' in the place of a name.
if sys.argv[:1] == ['-m']:
  _missing = [
    name
    for name in ('absl', 'jax', 'flax', 'ml_collections')
    if importlib.util.find_spec(name) is None
  ]
  if _missing:
    print(
      f'error: {sys.executable} has no {", ".join(_missing)}: run '
      "'make install' in the clone and use .venv/bin/python",
      file=sys.stderr,
    )
    sys.exit(2)
