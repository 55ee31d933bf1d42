#!/usr/bin/env bash
# A stranger's first hour: a fresh clone, an empty home, nothing in any cache, and the commands of README.md and docs/ that
# need neither GPU nor account, copied from the pages as they stand (the blocks after a line `<!-- walk -->`).
#
# Only what a stranger brings is added: recordings in recordings/, and, in place of a GPU and hours, the tiny base model
# and a few steps. Ends with 0 when every command has done what the pages say.
set -euo pipefail

source=$(cd -- "$(dirname -- "$0")/.." && pwd -P)
# What a walk has left that was killed without a warning; none takes an hour.
find "${TMPDIR:-/var/tmp}" -maxdepth 1 -type d -name 'readme-walk.??????' -user "$(id -u)" -mmin +60 -exec rm -rf -- {} +
home=$(mktemp -d -p "${TMPDIR:-/var/tmp}" readme-walk.XXXXXX) # several GB
trap 'rm -rf -- "$home"' EXIT
trap 'exit 143' INT TERM HUP
said=$home/said

fail() {
  echo "walk: $*" >&2
  exit 1
}

# Python is found by the stranger's own means: the tools of this checkout's .venv are not on the path.
path=
IFS=: read -ra parts <<<"$PATH"
for part in "${parts[@]}"; do
  if [[ $part != "$source"/* ]]; then path+=${path:+:}$part; fi
done
# How packages are reached belongs to the machine, not to the stranger's home.
outside=()
while IFS= read -r name; do
  outside+=("$name=${!name}")
done < <(compgen -e | grep -E '^(PIP_.*|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY)$')

walk() { # run a command as the stranger, from the clone, with the given variables first; what it says is also in $said
  local started=$SECONDS code=0
  (cd -- "$clone" && env -i "HOME=$home" "PATH=$path" "LANG=C.UTF-8" "TERM=dumb" "TMPDIR=$home/tmp" "OMP_NUM_THREADS=1" \
    "CONSOLE_LOG=$home/console_log.txt" "${outside[@]}" "$@") </dev/null 2>&1 | tee "$said" || code=$?
  if ((code)); then fail "the command ended with $code"; fi
  echo "--- $((SECONDS - started)) s"
}

blocks() { # the marked blocks of page $1, each command on a line of its own; lines that go on are joined
  awk '/^<!-- walk -->$/ { marked = 1; next } marked && /^```/ { if (inside) { inside = marked = 0 } else inside = 1; next }
    inside' "$clone/$1" | sed -e ':again' -e '/\\$/N; s/\\\n *//; tagain' -e 's/  *#.*//'
}

expect() { # the last command has said $1
  grep -qF -- "$1" "$said" || fail "it did not say: $1"
}

# ---- the clone -------------------------------------------------------------------------------------------------------

clone=$home/qwen3-tts-job
mkdir -p "$home/tmp"
if git -C "$source" rev-parse --git-dir >/dev/null 2>&1; then
  git clone --quiet --no-local --depth 1 "file://$source" "$clone"
else
  mkdir "$clone" && tar -C "$source" --exclude=./.venv -c . | tar -C "$clone" -x
fi
cd -- "$clone"

# ---- README.md: two commands -----------------------------------------------------------------------------------------

while IFS= read -r command; do
  if [[ $command == "make test" ]]; then continue; fi # a step of CI by itself
  echo "\$ $command"
  walk bash -c "$command"
done < <(blocks README.md)
expect "recited 100.00 % of the codes"

echo "\$ make demo   # again"
walk make demo
expect "[train] nothing to do"

# ---- README.md: the finished voice, with stock qwen_tts --------------------------------------------------------------

# The demo's voice, speaker and a text that it knows, in place of the page's.
awk '/^```python$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' README.md |
  sed -e 's|work/output/best|work/demo/output/best|' -e 's|my_voice|ada|' -e 's|text="[^"]*"|text="Good evening, everyone."|' >"$home/speak.py"
grep -q 'generate_custom_voice(text="Good evening' "$home/speak.py" || fail "README.md does not show how to speak"
echo 'print(f"{len(wavs[0]) / rate:.2f} s of speech")' >>"$home/speak.py"
walk .venv/bin/python "$home/speak.py"
expect "s of speech"

# ---- docs/quickstart.md, without a container, on recordings of one's own ---------------------------------------------

mkdir recordings
cp job/demo/clips/en-*.flac recordings/
sed -n -e 's/, "speaker": "ada", "language": "English"//p' job/demo/clips/metadata.jsonl >recordings/train.jsonl
small=(INIT_MODEL_PATH=demo DEVICE=cpu MAX_STEPS=4 BATCH_SIZE=2 PROBE_SENTENCES=0 "TEST_TEXTS=Hello." MAX_NEW_TOKENS=12)
walk "${small[@]}" bash -euxc "$(blocks docs/quickstart.md)"
expect "4 steps per epoch, 4 in total"
expect "[report] done"
[[ -f work/output/best/model.safetensors && -f work/report/index.html ]] || fail "no checkpoint, or no report"

echo "\$ ./entrypoint.sh   # again"
walk "${small[@]}" TRAIN_JSONL=recordings/train.jsonl SPEAKER_NAME=my_voice ./entrypoint.sh
expect "[train] nothing to do"

# ---- a mistake, as everybody makes one -------------------------------------------------------------------------------

code=0
(cd -- "$clone" && env -i "HOME=$home" "PATH=$path" TRAIN_JSNOL=recordings/train.jsonl CONSOLE_LOG="$home/console_log.txt" \
  ./entrypoint.sh doctor) >"$said" 2>&1 || code=$?
cat "$said"
((code == 2)) || fail "a misspelled variable ended with $code"
expect "TRAIN_JSONL"

echo "the walk took $SECONDS s"
