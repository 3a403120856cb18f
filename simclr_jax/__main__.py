"""`python -m simclr_jax COMMAND ...`, where the script is not installed."""

import sys

from simclr_jax import commands

if __name__ == '__main__':
  sys.exit(commands.main())
