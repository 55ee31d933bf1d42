#!/usr/bin/env bash
# What the RunPod image starts: the serverless worker where RunPod sends requests, one unattended run in a Pod.
#   start.sh [arguments of `python -m job`; none means run]      in a Pod
#   start.sh serve [arguments of handler.py]                     the worker, also without RunPod
# RunPod mounts volumes as root's. So this begins as root, gives the job's uid its folders there, and becomes that uid.
set -euo pipefail

uid=10001
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
python=/opt/runpod/bin/python
if [[ ! -x $python ]]; then python=$here/.venv/bin/python; fi

mode=pod
if [[ ${1-} == serve ]]; then
  mode=serve
  shift
elif [[ -n ${RUNPOD_WEBHOOK_GET_JOB-} ]]; then
  mode=serve
fi

become=()
if ((EUID == 0)); then
  become=(setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs --)
  volumes=(/runpod-volume /work)
  if [[ -n ${JOB_VOLUME-} ]]; then volumes=("$JOB_VOLUME"); fi
  for volume in "${volumes[@]}"; do
    if [[ ! -d $volume ]]; then continue; fi
    # only the job's own folders: what else is on the volume keeps its owner
    folders=("$volume/jobs" "$volume/.cache")
    if [[ $mode == pod ]]; then folders+=("$volume"); fi
    { mkdir -p -- "${folders[@]}" && chown "$uid:$uid" -- "${folders[@]}"; } || true
    if ! "${become[@]}" test -w "$volume/jobs"; then
      echo "$volume does not let its owner be changed: going on as root" >&2
      become=()
      break
    fi
  done
fi

if [[ $mode == serve ]]; then
  exec "${become[@]}" "$python" "$here/handler.py" "$@"
fi
exec "${become[@]}" "$python" "$here/pod.py" "$@"
