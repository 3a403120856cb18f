#!/usr/bin/env bash
# Runs on a SLURM cluster: launch/slurm.sh COMMAND
#
#   submit    queue a run (launch/slurm.sbatch); nothing if one of this name is there
#   status    of the jobs of this name
#   logs      the end of the newest log
#   stop      SIGTERM to the tasks: the run saves, ends, and is queued again
#   cancel    stop and forget; the same `submit` continues later
#
# Options, each also as environment variable LAUNCH_NAME in upper case:
#   --name=NAME              of the job and its log, always
#   --nodes=1 --gpus_per_node=0 --tasks_per_node=   tasks: one per GPU, else one
#   --time=24:00:00 --partition= --account= --qos= --constraint= --cpus_per_task=
#   --python=.venv/bin/python --module=simclr_jax.main
#   --max_restarts=100
#   --lines=100 --follow     for logs
#   --dry_run                print the commands, run none
#
# Flags of the run stand after `--`; the workdir must be on a shared disk:
#   launch/slurm.sh submit --name=v1 --nodes=2 --gpus_per_node=8 -- \
#     --config=configs/imagenet.py --workdir=/shared/v1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/options.sh
. "$here/options.sh"

opt_name='' opt_nodes=1 opt_gpus_per_node=0 opt_tasks_per_node='' opt_time=24:00:00
# shellcheck disable=SC2034 # Read by name in `submit`.
opt_partition='' opt_account='' opt_qos='' opt_constraint='' opt_cpus_per_task=''
opt_python=.venv/bin/python opt_module=simclr_jax.main opt_max_restarts=100
opt_lines=100 opt_follow=false

list_jobs=()

submit() {
  local jobs command name variable
  if dry; then
    quoted "${list_jobs[@]}" --format=%A
  else
    jobs=$("${list_jobs[@]}" --format=%A)
    if [[ -n $jobs ]]; then
      say "$opt_name is in the queue as job ${jobs//$'\n'/, }"
      return
    fi
  fi
  command=(env "SIMCLR_PYTHON=$opt_python" "SIMCLR_MODULE=$opt_module"
    "SIMCLR_MAX_RESTARTS=$opt_max_restarts" sbatch "--job-name=$opt_name"
    "--chdir=$(cd "$here/.." && pwd)" "--nodes=$opt_nodes"
    "--ntasks-per-node=$opt_tasks_per_node" "--time=$opt_time")
  if ((opt_gpus_per_node)); then command+=("--gpus-per-node=$opt_gpus_per_node"); fi
  for name in partition account qos constraint cpus_per_task; do
    variable=opt_$name
    if [[ -n ${!variable} ]]; then command+=("--${name//_/-}=${!variable}"); fi
  done
  execute "${command[@]}" --export=ALL "$here/slurm.sbatch" "${rest[@]}"
}

logs() {
  local newest follow=()
  if [[ $opt_follow == true ]]; then follow=(-F); fi
  newest=$(find "$here/.." -maxdepth 1 -name "$opt_name-*.log" -printf '%T@ %p\n' \
    | sort -n | tail -n 1 | cut -d ' ' -f 2-)
  [[ -n $newest ]] || fail "no log of $opt_name in $(cd "$here/.." && pwd)"
  execute tail -n "$opt_lines" "${follow[@]}" "$newest"
}

check_options() { # COMMAND
  require name 'of the job'
  # SLURM reads % in the name of the log, and a slash would be a folder.
  [[ $opt_name =~ ^[A-Za-z0-9._-]+$ ]] \
    || fail "--name=$opt_name may hold letters, digits and ._- only"
  local name
  for name in nodes gpus_per_node max_restarts lines; do require_count "$name"; done
  for name in follow dry_run; do require_switch "$name"; done
  if [[ -z $opt_tasks_per_node ]]; then
    opt_tasks_per_node=$((opt_gpus_per_node > 0 ? opt_gpus_per_node : 1))
  fi
  require_count tasks_per_node
  ((opt_nodes && opt_tasks_per_node)) || fail 'no nodes or no tasks'
  list_jobs=(squeue --noheader "--name=$opt_name" "--user=$(id -un)")
  if [[ $1 == submit ]]; then require_flags_of_run; fi
  if [[ $1 != logs ]]; then
    require_command sbatch 'run this on a login node of the cluster'
  fi
}

main() {
  local subcommand=${1-}
  (($# == 0)) || shift
  case $subcommand in
    submit | status | logs | stop | cancel) ;;
    help | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) usage "${BASH_SOURCE[0]}" >&2; fail "unknown command '$subcommand'" ;;
  esac
  parse_options 'name nodes gpus_per_node tasks_per_node time partition account qos constraint cpus_per_task python module max_restarts lines follow dry_run' "$@"
  check_options "$subcommand"
  case $subcommand in
    status) execute "${list_jobs[@]}" '--format=%A %T %r nodes=%N %M of %l' ;;
    # To the tasks alone, not to the script that then queues the job again.
    stop) execute scancel "--name=$opt_name" "--user=$(id -un)" --signal=TERM ;;
    cancel) execute scancel "--name=$opt_name" "--user=$(id -un)" ;;
    *) "$subcommand" ;;
  esac
}

main "$@"
