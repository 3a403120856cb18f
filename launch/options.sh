# shellcheck shell=bash
# What the launchers share: options, the dry run, errors. Source it.
#
# An option NAME is the shell variable opt_NAME, given as --NAME=VALUE or by the
# environment variable LAUNCH_NAME (upper case); --NAME alone means true. What
# follows `--` goes to the command that is launched, in the array `rest`.

set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash 4.4 or newer is needed, this is $BASH_VERSION" >&2
  exit 2
fi

opt_dry_run=false opt_poll=60

fail() { # MESSAGE: a mistake of the caller
  printf 'error: %s\n' "$1" >&2
  exit 2
}

say() { printf '%s\n' "$1" >&2; }

quoted() { # WORD...: one line that a shell reads back as these words
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

dry() { [[ $opt_dry_run == true ]]; }

execute() { # WORD...: runs the command; in a dry run prints it instead
  if dry; then quoted "$@"; else "$@"; fi
}

parse_options() { # NAMES ARGUMENT...; NAMES is one word, separated by spaces
  local known=$1 argument name value variable
  shift
  for name in $known; do
    variable=LAUNCH_${name^^}
    if [[ -n ${!variable+set} ]]; then printf -v "opt_$name" '%s' "${!variable}"; fi
  done
  rest=()
  while (($#)); do
    argument=$1
    shift
    case $argument in
      --) rest=("$@") && break ;;
      --*=*) name=${argument%%=*} value=${argument#*=} ;;
      --*) name=$argument value=true ;;
      *) fail "unexpected argument $(quoted "$argument"): options look like --name=value, and what is to run stands after --" ;;
    esac
    name=${name#--}
    [[ " $known " == *" $name "* ]] \
      || fail "unknown option $(quoted "--$name"); known: ${known// /, }. Flags of the run stand after --"
    if [[ $argument != *=* ]]; then
      variable=opt_$name
      [[ ${!variable} == true || ${!variable} == false ]] \
        || fail "--$name needs a value: --$name=VALUE"
    fi
    printf -v "opt_$name" '%s' "$value"
  done
}

require() { # NAME MEANING
  local variable=opt_$1
  [[ -n ${!variable} ]] || fail "--$1 is missing (or LAUNCH_${1^^}): $2"
}

require_count() { # NAME: a whole number
  local variable=opt_$1
  [[ ${!variable} =~ ^[0-9]+$ ]] \
    || fail "--$1=${!variable} is not a whole number"
}

require_switch() { # NAME: true or false
  local variable=opt_$1
  [[ ${!variable} == true || ${!variable} == false ]] \
    || fail "--$1=${!variable} is neither true nor false"
}

require_flags_of_run() { # what `rest` must hold
  ((${#rest[@]})) \
    || fail 'flags of the run are missing: end the line with -- --config=FILE --workdir=DIR'
}

patiently() { # WORD...: `execute`, three times before it gives up
  local attempt
  for attempt in 1 2 3; do
    if execute "$@"; then return; fi
    say "attempt $attempt of 3 failed: $1 ${2-} ${3-}"
    ((attempt == 3)) || sleep "$opt_poll"
  done
  return 1
}

require_command() { # COMMAND HINT; a dry run needs none
  dry || command -v "$1" > /dev/null || fail "$1 is not installed: $2"
}

usage() { # FILE: its leading comment
  sed -n '2,/^$/ s/^# \{0,1\}//p' "$1"
}
