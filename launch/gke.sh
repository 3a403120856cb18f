#!/usr/bin/env bash
# One run on TPU slices of a GKE cluster, as a JobSet: launch/gke.sh COMMAND
#
#   render    print the JobSet (launch/jobset.yaml with its values)
#   apply     create it; the same JobSet again changes nothing
#   status    of the JobSet and its pods
#   logs      of one process
#   delete    the JobSet and its pods; nothing if it is gone. SIGTERM first: the
#             run saves, and the same `apply` continues it
#
# kubectl must point to the cluster, and the JobSet controller be installed on it.
#
# Options, each also as environment variable LAUNCH_NAME in upper case:
#   --name=NAME              always
#   --namespace=default
#   --image=IMAGE            made by the Dockerfile with ACCELERATOR=tpu
#   --accelerator=tpu-v5-lite-podslice --topology=4x4 --chips_per_node=4
#   --slices=1               more than one: joined by the data centre's network
#   --spot                   nodes that may be taken away, at a lower price
#   --service_account=       Kubernetes account that may read and write the bucket
#   --max_restarts=100 --grace_seconds=120
#   --process=0 --lines=100 --follow     for logs
#   --dry_run                print the commands, run none
#
# Flags of the run stand after `--`:
#   launch/gke.sh apply --name=v1 --image=IMAGE --topology=4x4 -- \
#     --config=configs/imagenet.py --workdir=gs://B/v1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/options.sh
. "$here/options.sh"

opt_name='' opt_namespace=default opt_image='' opt_topology='' opt_slices=1
opt_accelerator=tpu-v5-lite-podslice opt_chips_per_node=4 opt_spot=false
opt_service_account='' opt_max_restarts=100 opt_grace_seconds=120
opt_process=0 opt_lines=100 opt_follow=false

find_python() {
  local candidate
  for candidate in "$here/../.venv/bin/python" python3 python; do
    if "$candidate" -c 'import yaml' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail 'no Python with PyYAML: make install, or pip install pyyaml'
}

render() {
  local python
  python=$(find_python)
  "$python" "$here/render.py" "--name=$opt_name" "--namespace=$opt_namespace" \
    "--image=$opt_image" "--accelerator=$opt_accelerator" \
    "--topology=$opt_topology" "--chips_per_node=$opt_chips_per_node" \
    "--slices=$opt_slices" "--spot=$opt_spot" \
    "--service_account=$opt_service_account" "--max_restarts=$opt_max_restarts" \
    "--grace_seconds=$opt_grace_seconds" -- "${rest[@]}"
}

apply() {
  local manifest
  manifest=$here/../build/$opt_name.jobset.yaml
  mkdir -p "$here/../build"
  render > "$manifest.new"
  mv "$manifest.new" "$manifest"
  execute kubectl apply "--filename=$manifest"
}

status() {
  execute kubectl get jobset "$opt_name" "${place[@]}" --ignore-not-found
  execute kubectl get pods "${place[@]}" --output=wide \
    "--selector=jobset.sigs.k8s.io/jobset-name=$opt_name"
}

logs() {
  local follow=()
  if [[ $opt_follow == true ]]; then follow=(--follow); fi
  execute kubectl logs "${place[@]}" "--tail=$opt_lines" --prefix \
    "--selector=jobset.sigs.k8s.io/jobset-name=$opt_name,batch.kubernetes.io/job-completion-index=$opt_process" \
    "${follow[@]}"
}

delete() {
  execute kubectl delete jobset "$opt_name" "${place[@]}" --ignore-not-found
}

check_options() { # COMMAND
  require name 'of the JobSet'
  [[ $opt_name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] \
    || fail "--name=$opt_name: small letters, digits and -, beginning with a letter"
  place=("--namespace=$opt_namespace")
  local name
  for name in chips_per_node slices max_restarts grace_seconds process lines; do
    require_count "$name"
  done
  for name in spot follow dry_run; do require_switch "$name"; done
  case $1 in
    render | apply)
      require image 'container image, made by the Dockerfile with ACCELERATOR=tpu'
      require topology 'of a slice, for example 4x4'
      require_flags_of_run
      ;;
  esac
  [[ $1 == render ]] \
    || require_command kubectl 'https://kubernetes.io/docs/tasks/tools/'
}

main() {
  local subcommand=${1-}
  (($# == 0)) || shift
  case $subcommand in
    render | apply | status | logs | delete) ;;
    help | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) usage "${BASH_SOURCE[0]}" >&2; fail "unknown command '$subcommand'" ;;
  esac
  parse_options 'name namespace image accelerator topology chips_per_node slices spot service_account max_restarts grace_seconds process lines follow dry_run' "$@"
  check_options "$subcommand"
  "$subcommand"
}

main "$@"
