"""A SLURM cluster of one machine, for tests: no systemd, cgroups or munge.

Debian: apt-get install slurmctld slurmd slurm-client. Its files stay in one
folder, its daemons end with the `with` block. Tried with 22.05.
"""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

_CONFIG = """
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=30
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
  """Why there can be no such cluster here; '' where there can."""
  programs = ('slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol')
  missing = [name for name in programs if _find(name) is None]
  if missing:
    return f'{", ".join(missing)} not installed'
  if not any(pathlib.Path('/usr/lib').glob('*/slurm*/auth_none.so')):
    return "SLURM's auth/none plugin is not installed"
  return ''


def _find(name: str) -> str | None:
  return shutil.which(name, path=f'{os.environ["PATH"]}:/usr/sbin')


def _free_port() -> int:
  with socket.socket() as sock:
    sock.bind(('127.0.0.1', 0))
    return sock.getsockname()[1]


class SlurmBox:
  """The running cluster; `environment` is that of commands and their jobs."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    for name in ('state', 'spool'):
      (folder / name).mkdir(parents=True)
    config = folder / 'slurm.conf'
    config.write_text(
      _CONFIG.format(
        folder=folder,
        host=socket.gethostname(),
        user=pwd.getpwuid(os.getuid()).pw_name,
        port=_free_port(),
        other_port=_free_port(),
      )
    )
    self.environment = {**os.environ, 'SLURM_CONF': str(config)}
    self._daemons: list[subprocess.Popen[bytes]] = []

  def __enter__(self) -> SlurmBox:
    """Starts the daemons and waits until the node is idle."""
    try:
      for name, *flags in (('slurmctld', '-c'), ('slurmd', '-N', 'localhost')):
        program = _find(name)
        assert program is not None
        with open(self._folder / f'{name}.out', 'wb') as out:
          self._daemons.append(
            subprocess.Popen(
              [program, '-D', *flags],
              env=self.environment,
              stdout=out,
              stderr=out,
            )
          )
        time.sleep(1)
      self._wait_until_idle()
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *_: object) -> None:
    """Ends jobs, then the daemons."""
    if all(daemon.poll() is None for daemon in self._daemons):
      subprocess.run(
        ['scancel', '--full', '--signal=KILL', '--state=RUNNING'],
        env=self.environment,
        timeout=30,
      )
      time.sleep(1)
    for daemon in reversed(self._daemons):
      daemon.terminate()
      try:
        daemon.wait(timeout=20)
      except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()

  def run(self, *argv: str, **environment: str) -> str:
    """Output of a command of SLURM."""
    return subprocess.run(
      argv,
      env={**self.environment, **environment},
      capture_output=True,
      text=True,
      timeout=60,
      check=True,
    ).stdout

  def state(self, job: str) -> str:
    """JobState of a job, such as RUNNING."""
    words = self.run('scontrol', '--oneliner', 'show', 'job', job).split()
    (state,) = [w[9:] for w in words if w.startswith('JobState=')]
    return state

  def _wait_until_idle(self) -> None:
    deadline = time.monotonic() + 30
    while 'idle' not in (seen := self._sinfo()):
      if time.monotonic() > deadline:
        logs = [path.read_text()[-2000:] for path in self._folder.glob('*.out')]
        raise RuntimeError(f'SLURM does not start: {seen}\n' + '\n'.join(logs))
      time.sleep(0.3)

  def _sinfo(self) -> str:
    result = subprocess.run(
      ['sinfo', '--noheader', '--format=%T'],
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=30,
    )
    return result.stdout + result.stderr
