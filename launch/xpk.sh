#!/usr/bin/env bash
# One run on a GKE cluster that XPK made (pip install xpk): launch/xpk.sh COMMAND
#
#   create    a workload
#   status    of the workload
#   delete    it, or nothing if it is gone; the same `create` continues later
#
# Options, each also as environment variable LAUNCH_NAME in upper case:
#   --name=NAME --cluster=CLUSTER --zone=ZONE --project=PROJECT    always
#   --type=v5litepod-16 --slices=1
#   --image=IMAGE            made by the Dockerfile with ACCELERATOR=tpu
#   --capacity=on-demand     or spot, flex: for clusters that provision themselves
#   --priority=medium --max_restarts=100 --grace_seconds=120
#   --dry_run                print the commands, run none
#
# Flags of the run stand after `--`:
#   launch/xpk.sh create --name=v1 --cluster=C --zone=us-west4-a --project=P \
#     --type=v5litepod-16 --image=IMAGE -- --config=configs/imagenet.py \
#     --workdir=gs://B/v1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/options.sh
. "$here/options.sh"

opt_name='' opt_cluster='' opt_zone='' opt_project='' opt_type='' opt_slices=1
opt_image='' opt_capacity='' opt_priority=medium opt_max_restarts=100
opt_grace_seconds=120

create() {
  local command
  command=(xpk workload create "--workload=$opt_name" "${place[@]}"
    "--tpu-type=$opt_type" "--num-slices=$opt_slices"
    "--docker-image=$opt_image" "--priority=$opt_priority"
    "--max-restarts=$opt_max_restarts"
    # Besides those of killed processes, which XPK restarts itself: a peer was
    # lost, and stopped by a signal after saving.
    '--restart-on-exit-codes=69,75'
    "--termination-grace-period-seconds=$opt_grace_seconds")
  if [[ -n $opt_capacity ]]; then command+=("--$opt_capacity"); fi
  # A shell of the container reads this line, and passes SIGTERM to its child: exec,
  # so that the child is the run.
  execute "${command[@]}" \
    "--command=$(quoted exec python -m simclr_jax.main --distributed=auto "${rest[@]}")"
}

status() {
  execute xpk workload list "${place[@]}" "--filter-by-job=^$opt_name\$"
}

delete() {
  execute xpk workload delete "--workload=$opt_name" "${place[@]}" --force
}

check_options() { # COMMAND
  require name 'of the workload'
  [[ $opt_name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] \
    || fail "--name=$opt_name: up to 40 small letters, digits and -, beginning with a letter"
  require cluster 'made by xpk cluster create'
  require zone 'of the cluster, for example us-west4-a'
  require project 'of Google Cloud'
  place=("--cluster=$opt_cluster" "--zone=$opt_zone" "--project=$opt_project")
  local name
  for name in slices max_restarts grace_seconds; do require_count "$name"; done
  require_switch dry_run
  case $opt_capacity in
    '' | on-demand | spot | flex) ;;
    *) fail "--capacity=$opt_capacity: one of on-demand, spot, flex" ;;
  esac
  if [[ $1 == create ]]; then
    require type 'of the slices, for example v5litepod-16'
    require image 'container image, made by the Dockerfile with ACCELERATOR=tpu'
    require_flags_of_run
  fi
  require_command xpk 'pip install xpk'
}

main() {
  local subcommand=${1-}
  (($# == 0)) || shift
  case $subcommand in
    create | status | delete) ;;
    help | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) usage "${BASH_SOURCE[0]}" >&2; fail "unknown command '$subcommand'" ;;
  esac
  parse_options 'name cluster zone project type slices image capacity priority max_restarts grace_seconds dry_run' "$@"
  check_options "$subcommand"
  "$subcommand"
}

main "$@"
