#!/usr/bin/env bash
# mutation.sh [PERCENT]: change the code of the files in [tool.mutmut] one place at a time, and see that a test fails.
#
# Fails if under PERCENT (85) of the changes are noticed, and lists those that are not: most of them change nothing
# (another spelling of a default), the others are promises without a test. Works on a copy of the tracked files.
set -euo pipefail
least=${1:-85}
here=$(pwd)
copy=$(mktemp -d)
trap 'rm -rf -- "$copy"' EXIT

git ls-files -z | xargs -0 cp --parents -t "$copy"
ln -s "$here/.venv" "$copy/.venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
  --target "$copy/tools" -r requirements-mutation.lock
cd "$copy"
# Changed code runs in forked processes, where torch may use one thread only.
export PYTHONPATH=$copy/tools OMP_NUM_THREADS=1 COLUMNS=120
.venv/bin/python -m mutmut run | tr '\r' '\n' | tail -n 3
.venv/bin/python -m mutmut results --all true | awk '{print $NF}' | sort | uniq -c
.venv/bin/python -m mutmut results --all true >"$copy/results"
noticed=$(grep -Ec ': (killed|timeout)$' "$copy/results" || true)
all=$(grep -Ec ': (killed|timeout|survived|suspicious)$' "$copy/results" || true)
grep -E ': (survived|suspicious)$' "$copy/results" | while IFS=: read -r name _; do
  .venv/bin/python -m mutmut show "${name// /}" | grep -E '^(# |[-+][^-+])' || true
done
echo "mutation: $noticed of $all changes are noticed by a test"
((all > 0 && noticed * 100 >= least * all))
