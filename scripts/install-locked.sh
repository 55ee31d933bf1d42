#!/bin/sh
# install-locked.sh PYTHON LOCK...: install exactly what the locks name, every file checked against its hash.
#
# One dependency comes as source only. It is built with the setuptools of the lock instead of whichever is newest today:
# so that is installed first, and pip is kept from fetching another.
set -eu

python=$1
shift
build_tools=$(mktemp)
trap 'rm -f "$build_tools"' EXIT

for lock; do
  awk '/^setuptools==/ { found = 1 } found { print; if ($0 !~ /\\$/) exit }' "$lock" >"$build_tools"
  if [ -s "$build_tools" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r "$build_tools"
  fi
  # The lock is complete, so there is nothing to resolve (--no-deps); `pip check` below would notice if it were not.
  "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes \
    --no-build-isolation --use-pep517 -r "$lock"
done
"$python" -m pip check
