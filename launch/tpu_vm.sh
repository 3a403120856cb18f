#!/usr/bin/env bash
# One run on a Cloud TPU slice, as a queued resource: launch/tpu_vm.sh COMMAND
#
#   create    queue the request; nothing if it is there
#   wait      until the slice is there; one that was taken away is made anew
#   install   this checkout's HEAD and its environment, on every worker
#   run       start the run on every worker, detached
#   status    of the queued resource and of the run on every worker
#   logs      of one worker
#   stop      SIGTERM on every worker: the run saves and ends
#   resume    whatever state it is in: wait, install and run
#   watch     resume, again and again, until the run has ended
#   delete    the slice and the request; nothing if they are gone
#
# Options, each also as environment variable LAUNCH_NAME in upper case:
#   --name=NAME --zone=ZONE --project=PROJECT    always
#   --type=v5litepod-16      accelerator type; for create, wait, resume, watch
#   --runtime=VERSION        software of the VMs; guessed from the type
#   --spot                   capacity that may be taken away, at a lower price
#   --network= --subnetwork= --service_account= --valid_until=6h   as of gcloud
#   --worker=0 --lines=100 --follow    for logs
#   --module=simclr_jax.main  what to run; --run=NAME names its log on the workers
#   --poll=60                seconds between looks
#   --max_restarts=100       of watch
#   --delete_when_done       watch deletes the slice when the run has finished
#   --dry_run                print the commands, run none
#
# Flags of the run stand after `--`:
#   launch/tpu_vm.sh watch --name=v1 --zone=us-west4-a --project=P --spot \
#     --type=v5litepod-16 -- --config=configs/imagenet.py --workdir=gs://B/v1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/options.sh
. "$here/options.sh"

opt_name='' opt_zone='' opt_project='' opt_type='' opt_runtime='' opt_spot=false
opt_network='' opt_subnetwork='' opt_service_account='' opt_valid_until=''
opt_worker=0 opt_lines=100 opt_follow=false opt_module=simclr_jax.main opt_run=''
opt_max_restarts=100 opt_delete_when_done=false

# What a dry run takes the states of the queued resource to be, in turn.
assumed_states=()

place() { place=("--zone=$opt_zone" "--project=$opt_project"); }

query_state() { # sets `state`; ABSENT where there is none
  local errors attempt
  local command=(gcloud compute tpus queued-resources describe "$opt_name"
    "${place[@]}" '--format=value(state.state)')
  if dry; then
    quoted "${command[@]}"
    state=${assumed_states[0]-ACTIVE}
    assumed_states=("${assumed_states[@]:1}")
    return
  fi
  errors=$(mktemp)
  for attempt in 1 2 3; do
    state=$("${command[@]}" 2> "$errors") && break
    # Only this error means that there is none; a lost login or a wrong project
    # must not lead to a second slice.
    if grep -Fq NOT_FOUND "$errors"; then
      state=ABSENT && break
    fi
    cat "$errors" >&2
    ((attempt < 3)) || { rm -f "$errors"; exit 1; }
    pause
  done
  rm -f "$errors"
}

runtime_of_type() {
  case $opt_type in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--runtime is missing (or LAUNCH_RUNTIME): no usual software version is known for --type=$opt_type" ;;
  esac
}

request() {
  local runtime=$opt_runtime command
  [[ -n $runtime ]] || runtime=$(runtime_of_type)
  command=(gcloud compute tpus queued-resources create "$opt_name"
    "${place[@]}" "--node-id=$opt_name" "--accelerator-type=$opt_type"
    "--runtime-version=$runtime")
  if [[ $opt_spot == true ]]; then command+=(--spot); fi
  if [[ -n $opt_network ]]; then command+=("--network=$opt_network"); fi
  if [[ -n $opt_subnetwork ]]; then command+=("--subnetwork=$opt_subnetwork"); fi
  if [[ -n $opt_service_account ]]; then
    command+=("--service-account=$opt_service_account")
  fi
  if [[ -n $opt_valid_until ]]; then
    command+=("--valid-until-duration=$opt_valid_until")
  fi
  execute "${command[@]}" --quiet
}

remove() {
  execute gcloud compute tpus queued-resources delete "$opt_name" \
    "${place[@]}" --force --quiet
}

pause() { if ! dry; then sleep "$opt_poll"; fi; }

on_workers() { # WORKER WORD...: the words are run there as they are here
  local worker=$1
  shift
  remote "$worker" "$(quoted "$@")"
}

remote() { # WORKER LINE
  patiently gcloud compute tpus tpu-vm ssh "$opt_name" "${place[@]}" \
    "--worker=$1" "--command=$2" --quiet
}

create() {
  query_state
  case $state in
    ABSENT) request ;;
    FAILED | SUSPENDED | SUSPENDING)
      say "$opt_name exists and is $state: 'resume' makes it anew"
      exit 1
      ;;
    *) say "$opt_name exists: $state" ;;
  esac
}

wait_for_slice() { # sets `fresh` to true where the slice was not there at once
  local failures=0
  fresh=false
  while query_state && [[ $state != ACTIVE ]]; do
    fresh=true
    say "$opt_name: $state"
    case $state in
      ABSENT) request ;;
      SUSPENDED)
        remove
        request
        ;;
      FAILED)
        # Again may help where capacity ran out, never where the request is wrong.
        ((++failures < 3)) || {
          say "$opt_name failed $failures times in a row; see: gcloud compute tpus queued-resources describe $opt_name ${place[*]}"
          exit 1
        }
        remove
        request
        ;;
    esac
    pause
  done
}

install() {
  local revision archive=build/simclr_jax.tar.gz
  cd "$here/.."
  revision=$(git rev-parse HEAD)
  git diff --quiet HEAD -- || say 'warning: changes that are not committed are not installed'
  execute mkdir -p build
  execute git archive --format=tar.gz "--output=$archive" HEAD
  patiently gcloud compute tpus tpu-vm scp "$archive" \
    "$opt_name:simclr_jax.tar.gz" "${place[@]}" --worker=all --quiet
  remote all "rm -rf simclr_jax.new && mkdir simclr_jax.new && tar -xzf simclr_jax.tar.gz -C simclr_jax.new && bash simclr_jax.new/launch/worker.sh install tpu $revision"
}

start_run() {
  # `~` would not be read in a quoted word, and home folders differ by user.
  # shellcheck disable=SC2016
  remote all "bash simclr_jax/launch/worker.sh start $(quoted "$opt_run") \"\$HOME/simclr_venv/bin/python\" $(quoted -m "$opt_module" --distributed=on "${rest[@]}")"
}

run_status() { on_workers all bash simclr_jax/launch/worker.sh status "$opt_run"; }

status() {
  query_state
  dry || echo "queued resource $opt_name: $state"
  if [[ $state == ACTIVE ]]; then run_status; fi
}

logs() {
  local follow=()
  if [[ $opt_follow == true ]]; then follow=(follow); fi
  on_workers "$opt_worker" bash simclr_jax/launch/worker.sh logs "$opt_run" \
    "$opt_lines" "${follow[@]}"
}

resume() {
  wait_for_slice
  if [[ $fresh == true ]]; then install; fi
  start_run
}

# What the workers' lines say of the run: running, finished, again, unknown, or
# the exit code that ends it. Processes of a run end together, or within
# --peer_timeout of each other.
verdict() { # LINES
  local line answer=unknown
  while read -r line; do
    case $line in
      *state=running*)
        echo running
        return
        ;;
      *state=exited\ code=0) [[ $answer != unknown ]] || answer=finished ;;
      *state=exited\ code=[123]) answer=${line##*code=} ;;
      *state=*) [[ $answer == [123] ]] || answer=again ;;
    esac
  done <<< "$1"
  echo "$answer"
}

watch_run() {
  local restarts=0 lines answer
  resume
  while :; do
    pause
    query_state
    answer=again
    if dry; then
      run_status
      answer=finished
    elif [[ $state == ACTIVE ]]; then
      lines=$(run_status 2>&1) || say "$lines"
      answer=$(verdict "$lines")
    fi
    case $answer in
      running | unknown) continue ;;
      finished) break ;;
      again)
        ((++restarts <= opt_max_restarts)) \
          || { say "$restarts restarts are too many (--max_restarts)"; exit 1; }
        say "restart $restarts: the slice is $state"
        resume
        ;;
      *)
        say "the run ended with exit code $answer; see: launch/tpu_vm.sh logs"
        exit "$answer"
        ;;
    esac
  done
  say "$opt_name: the run has finished"
  if [[ $opt_delete_when_done == true ]]; then delete; fi
}

delete() {
  query_state
  if [[ $state == ABSENT ]]; then
    say "$opt_name does not exist"
  else
    remove
  fi
}

check_options() { # COMMAND
  require name 'of the slice and its queued resource'
  require zone 'of Google Cloud, for example us-west4-a'
  require project 'of Google Cloud'
  place
  [[ -n $opt_run ]] || opt_run=$opt_name
  [[ $opt_run != */* && $opt_run != .* ]] || fail "--run=$opt_run must be a file name"
  require_count poll
  require_count max_restarts
  require_count lines
  local name
  for name in spot follow delete_when_done dry_run; do require_switch "$name"; done
  case $1 in
    create | wait | resume | watch)
      require type 'accelerator type, for example v5litepod-16'
      [[ -n $opt_runtime ]] || runtime_of_type > /dev/null
      ;;
  esac
  case $1 in run | resume | watch) require_flags_of_run ;; esac
  require_command gcloud 'https://cloud.google.com/sdk/docs/install'
}

main() {
  local subcommand=${1-}
  (($# == 0)) || shift
  case $subcommand in
    create | wait | install | run | status | logs | stop | resume | watch | delete) ;;
    help | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) usage "${BASH_SOURCE[0]}" >&2; fail "unknown command '$subcommand'" ;;
  esac
  parse_options 'name zone project type runtime spot network subnetwork service_account valid_until worker lines follow module run poll max_restarts delete_when_done dry_run' "$@"
  check_options "$subcommand"
  case $subcommand in
    create) assumed_states=(ABSENT) && create ;;
    wait) assumed_states=(SUSPENDED ACTIVE) && wait_for_slice ;;
    run) start_run ;;
    stop) on_workers all bash simclr_jax/launch/worker.sh stop "$opt_run" ;;
    resume) assumed_states=(SUSPENDED ACTIVE) && resume ;;
    watch) assumed_states=(SUSPENDED ACTIVE) && watch_run ;;
    *) "$subcommand" ;;
  esac
}

main "$@"
