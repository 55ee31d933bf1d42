#!/bin/sh
# setup.sh LOCK...: make .venv hold what the locks name. Run from the top of the checkout; `make setup` does.
#
# Beside each finished lock a copy of it is kept in .venv, so that the next call has nothing to do until the lock changes.
# A set-up that was killed leaves .venv/unfinished behind, and is then started afresh.
set -eu

works() { # does $1 run, and is it new enough?
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

choose_python() {
  if [ -n "${PYTHON:-}" ]; then
    if works "$PYTHON"; then
      echo "$PYTHON"
      return
    fi
    echo "PYTHON=$PYTHON: is not a Python 3.11 or newer with venv; name one that is, or unset it" >&2
    exit 2
  fi
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    if works "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python 3.11 or newer with venv was found; install one (Debian: python3 python3-venv) or set PYTHON" >&2
  exit 2
}

pending=
for lock; do
  cmp -s "$lock" ".venv/$lock" || pending=yes
done
if [ -z "$pending" ] && [ ! -e .venv/unfinished ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

if [ -e .venv/unfinished ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(choose_python)
  echo "Making .venv with $("$python" --version)"
  rm -rf .venv
  mkdir .venv
  : >.venv/unfinished
  "$python" -m venv .venv
fi
: >.venv/unfinished
echo "Installing $* (several GB the first time; minutes)"
sh scripts/install-locked.sh .venv/bin/python "$@"
for lock; do
  cp "$lock" .venv/
done
rm .venv/unfinished
echo "Ready: .venv"
