"""How a result file came to be, for jobs that judge, embed and search."""

from __future__ import annotations

import datetime
import pathlib
import platform
import sys
from typing import Any

import jax

from simclr_jax.training import passport as passport_lib


def made_by() -> dict[str, Any]:
  """Command line, time, hardware and software of this process."""
  return {
    'command': sys.argv,
    'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'hardware': {
      'backend': jax.default_backend(),
      'device_kind': jax.devices()[0].device_kind,
      'num_devices': jax.device_count(),
      'num_processes': jax.process_count(),
    },
    'software': {
      'jax': jax.__version__,
      'python': platform.python_version(),
      'git_revision': passport_lib.git_revision(pathlib.Path(__file__).parent),
    },
  }
