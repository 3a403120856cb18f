#!/usr/bin/env bash
# Runs on each machine of a slice, in its home directory; tpu_vm.sh calls it.
#
#   worker.sh install ACCELERATOR STAMP   environment for the code beside this file
#   worker.sh start RUN COMMAND...        detached; no second one while it runs
#   worker.sh status RUN                  one line: state, exit code
#   worker.sh logs RUN [LINES] [follow]
#   worker.sh stop RUN                    SIGTERM: the run saves and ends
#
# A run's files are in ~/simclr_runs/RUN: command, log, pid, exit_code.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
runs=$HOME/simclr_runs
venv=$HOME/simclr_venv

fail() {
  printf 'error: %s: %s\n' "$(hostname)" "$1" >&2
  exit 1
}

# The supervisor's process id, if this run has one. A number alone may by now
# belong to another program.
supervisor() { # FOLDER
  local pid
  pid=$(cat "$1/pid" 2> /dev/null) || return 1
  tr '\0' '\n' < "/proc/$pid/cmdline" 2> /dev/null | grep -Fxq -- "$1" || return 1
  echo "$pid"
}

start() {
  local folder=$runs/$1 pid
  shift
  mkdir -p "$folder"
  if pid=$(supervisor "$folder"); then
    echo "already running: process $pid on $(hostname)"
    return
  fi
  rm -f "$folder/exit_code" "$folder/child"
  printf '%q ' "$@" > "$folder/command"
  # A session of its own and no terminal: a lost connection ends nothing.
  setsid bash "$here/worker.sh" supervise "$folder" "$@" \
    >> "$folder/log" 2>&1 < /dev/null &
  echo $! > "$folder/pid"
  echo "started: process $! on $(hostname), log $folder/log"
}

# Runs the command and notes its exit code. Signals go to the command alone: when
# the machine shuts down both get one, and a second one would end the command
# before it has saved. So they are heard here and not passed on.
supervise() {
  local folder=$1 code=0 child
  shift
  trap : TERM INT HUP
  cd "$here/.."
  "$@" &
  child=$!
  echo "$child" > "$folder/child"
  # A signal ends a wait early; once the command is gone, one more wait gives its
  # code (bash keeps it).
  while kill -0 "$child" 2> /dev/null; do wait "$child" || true; done
  wait "$child" || code=$?
  echo "$code" > "$folder/exit_code.new"
  mv "$folder/exit_code.new" "$folder/exit_code"
}

status() {
  local folder=$runs/$1 state=absent code=none
  if supervisor "$folder" > /dev/null; then
    state=running
  elif [[ -s $folder/exit_code ]]; then
    state=exited code=$(cat "$folder/exit_code")
  elif [[ -e $folder/pid ]]; then
    state=lost # The machine started anew, or the supervisor was killed.
  fi
  echo "worker=$(hostname) state=$state code=$code"
}

logs() {
  tail -n "${2:-100}" ${3:+-F} "$runs/$1/log"
}

stop() {
  local folder=$runs/$1 child
  supervisor "$folder" > /dev/null || { status "$1"; return; }
  child=$(cat "$folder/child") || fail 'the run is just starting: ask again'
  kill -TERM "$child"
  echo "asked to stop: $(hostname)"
}

find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" > /dev/null && "$candidate" -c \
      'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

make_environment() {
  local python
  if python=$(find_python); then
    "$python" -m venv --clear "$venv"
    return
  fi
  # Images of TPU VMs bring Python 3.10; uv installs another beside it.
  python3 -m pip install --quiet --user 'uv>=0.8,<1'
  python3 -m uv venv --quiet --clear --seed --python=3.12 "$venv"
}

# The new code takes the place of the old in one step.
settle() {
  local code
  code=$(cd "$here/.." && pwd)
  [[ $code != "$HOME/simclr_jax" ]] || return 0
  rm -rf "$HOME/simclr_jax"
  mv "$code" "$HOME/simclr_jax"
}

install_for() { # ACCELERATOR STAMP
  local accelerator=$1 stamp="$1 $2" requirements=$here/../requirements-no-tf.txt
  local folder
  for folder in "$runs"/*/; do
    ! supervisor "${folder%/}" > /dev/null \
      || fail "$folder is running: stop it before installing"
  done
  if [[ $(cat "$venv/installed" 2> /dev/null) == "$stamp" ]]; then
    settle
    echo "already installed: $2 on $(hostname)"
    return
  fi
  sed -i "s/^jax\[[a-z0-9]*\]/jax[$accelerator]/" "$requirements"
  grep -Fq "jax[$accelerator]==" "$requirements" \
    || fail "no line jax[...]==VERSION in $requirements"
  make_environment
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$here/../requirements.txt"
  echo "$stamp" > "$venv/installed"
  settle
  echo "installed: $2 on $(hostname)"
}

case ${1-} in
  start | supervise | status | logs | stop) "$@" ;;
  install) install_for "$2" "$3" ;;
  *) fail "unknown command '${1-}'" ;;
esac
