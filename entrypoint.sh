#!/usr/bin/env bash
# One unattended run, in a container or from a checkout: ./entrypoint.sh [arguments of `python -m job`; none means run].
# Everything printed also goes to CONSOLE_LOG, which holds this run only. The exit code is the job's.
set -euo pipefail
trap 'exit 143' HUP INT TERM # needed as a container's first process, which ignores signals that have no trap
set -m # every child gets its own process group: it receives a signal once, from us, and can be cleaned up with its children

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 # do not import a job.py from the caller's directory instead of the job
export PYTHONUNBUFFERED=1

python=python3
for candidate in "$here/.venv/bin/python" /opt/venv/bin/python; do
  if [[ -x $candidate ]]; then
    python=$candidate
    break
  fi
done

unquoted() { # a value without surrounding quotation marks and trailing comment, by the same rule as the job
  local value=$1
  if [[ $value =~ ^[[:space:]]*\"([^\"]*)\"[[:space:]]*(#.*)?$ || $value =~ ^[[:space:]]*\'([^\']*)\'[[:space:]]*(#.*)?$ ]]; then
    value=${BASH_REMATCH[1]}
  else
    value=${value%%[[:space:]]#*}
  fi
  printf '%s' "$value"
}
if [[ -n ${TMPDIR-} ]]; then
  TMPDIR=$(unquoted "$TMPDIR")
  export TMPDIR
fi

# Variables may also come from a .env file, so the job's own parser is used. If it rejects them, the job will print the
# error; until then the log goes to its default path.
ask='from job.config.settings import load
s = load()
print(s.upload_logs, bool(s.notify_url), s.node_rank, s.console_log, sep="\n")'
answer=$("$python" -c "$ask" 2>/dev/null) || answer=$(printf '%s\n' False "${NOTIFY_URL:+True}" 0 "$(unquoted "${CONSOLE_LOG:-/tmp/console_log.txt}")")
{
  read -r upload_logs
  read -r notify
  read -r node_rank
  IFS= read -r -d '' log || true # reads to the end: a path may contain any character
} <<<"$answer"
log=${log%$'\n'}

# ---- the log ---------------------------------------------------------------------------------------------------------

case ${1-run} in
-* | settings | plan | say | watch | upload-log | notify) log=/dev/null ;; # they tell of runs, whose log stays as it is
esac

no_room() { # where temporary files cannot be written
  echo "TMPDIR=${TMPDIR:-/tmp}: not writable; set TMPDIR to a writable directory" >&2
  exit 2
}

busy() { # whether another run still writes to the log: its tee holds a lock
  if [[ $log == /dev/* || ! -f $log ]]; then return 1; fi
  flock --nonblock -E 99 "$log" true 2>/dev/null # another code: there is no flock, or no locks on this volume
  [[ $? == 99 ]]
}
if busy; then
  taken=$log
  log=$(mktemp "${TMPDIR:-/tmp}/console_log.XXXXXX" 2>/dev/null) || no_room
  export CONSOLE_LOG=$log
  echo "CONSOLE_LOG=$taken: another run writes to it; the log of this one is $log" >&2
fi

fresh() { # removes an older log, or a link in its place; /dev/null and the like are not removed
  case $log in
  /dev/*) ;;
  *) if [[ ! -e $log || -f $log ]]; then rm -f -- "$log"; fi ;;
  esac
}
if ! { fresh && mkdir -p -- "$(dirname -- "$log")" && : >"$log"; } 2>/dev/null; then
  echo "CONSOLE_LOG=$log: not writable; set CONSOLE_LOG to a writable path" >&2
  exit 2
fi

exec 9>>"$log"
if command -v flock >/dev/null; then flock --nonblock 9 2>/dev/null || true; fi # until the last tee has ended

tees=()
pipes=$(mktemp -d 2>/dev/null) || no_room

# shellcheck disable=SC2329  # called by the next function
copy() { tee -a -- "$log"; }

# shellcheck disable=SC2329  # likewise
copy_lines() { # tee may write partial lines; grep appends whole lines
  tee /dev/fd/3 3>&1 >&4 | grep -a --line-buffered '' >>"$log"
} 4>&1

tee_descriptor() { # after the next `exec`, pipe $1 is copied to the log and to $2 by function $3
  mkfifo "$pipes/$1"
  # tee ignores signals, so that the last lines of a stopped job are logged
  (trap '' HUP INT TERM && "$3") <"$pipes/$1" >&"$2" &
  tees+=("$!")
}

if [[ /dev/stdout -ef /dev/stderr ]]; then # one stream: keep the order of the lines
  tee_descriptor out 1 copy
  exec >"$pipes/out" 2>&1
else # two streams: keep them separate, and log whole lines of each
  tee_descriptor out 1 copy_lines
  tee_descriptor err 2 copy_lines
  exec >"$pipes/out" 2>"$pipes/err"
fi
rm -r -- "$pipes"

# ---- children and signals --------------------------------------------------------------------------------------------

child=
stopped=0     # a signal has arrived: start no further child
interrupted=0 # a signal has cut the current `wait` short

# shellcheck disable=SC2329  # called by the traps below
forward() {
  stopped=1
  interrupted=1
  if [[ -n $child ]]; then kill -s "$1" "$child" 2>/dev/null || true; fi # it may have just exited
}
trap 'forward TERM' TERM HUP
trap 'forward INT' INT

run_child() { # run a command, pass signals on to it, return its exit code
  if ((stopped)); then return 143; fi
  "$@" </dev/null 9>&- &
  child=$!
  if ((stopped)); then kill -TERM "$child" 2>/dev/null || true; fi # likewise
  local code
  while :; do
    interrupted=0
    code=0
    wait "$child" || code=$?
    if ((interrupted)); then continue; fi
    # `wait` also returns when it has only been paused, by SIGSTOP.
    if ((code > 128)) && kill -0 "$child" 2>/dev/null; then sleep 1; else break; fi
  done
  local group=$child
  child=
  kill -TERM -- "-$group" 2>/dev/null || true # workers that it left running
  for _ in {1..20}; do
    kill -0 -- "-$group" 2>/dev/null || return "$code"
    sleep 0.1
  done
  kill -KILL -- "-$group" 2>/dev/null || true # they may have exited since
  return "$code"
}

# ---- the run ---------------------------------------------------------------------------------------------------------

if (($# == 0)); then set -- run; fi

job() { run_child "$python" -m job "$@"; }

code=0
job "$@" || code=$? # starts one process per GPU if there are several

case $1 in
-* | settings | plan | say | watch | upload-log | notify) ;; # these have no log worth uploading, and nobody waits for them
*)
  if [[ $upload_logs == True && $node_rank == 0 ]]; then
    stopped=0 # the log of a stopped run is the most important one
    job upload-log || echo "the console log was not uploaded; the run itself ended with $code" >&2
  fi
  if [[ $notify == True && $node_rank == 0 ]]; then
    stopped=0
    job notify "$code" || echo "no message was sent to NOTIFY_URL; the run itself ended with $code" >&2
  fi
  ;;
esac

trap '' HUP INT TERM
# Let tee write the last line; a stray process that still holds the pipe may not keep a rented machine running.
exec >/dev/null 2>&1
(sleep 10 && kill -KILL -- "${tees[@]/#/-}") &
watchdog=$!
wait "${tees[@]}" || true         # only the job's exit code counts
kill -KILL -- "-$watchdog" || true # it has already exited if it had to act
exit "$code"
