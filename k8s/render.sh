#!/bin/sh
# Write k8s/job.yaml anew: overlays/job in one file, for those who would rather edit that. Needs kubectl or kustomize.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
render() {
  if command -v kubectl >/dev/null; then kubectl kustomize "$1"; else kustomize build "$1"; fi
}

new=$(mktemp "$here/.job.yaml.XXXXXX")
trap 'rm -f "$new"' EXIT
cat >"$new" <<'TEXT'
# overlays/job in one file, made by k8s/render.sh: kubectl apply -f k8s/job.yaml
#
# As it stands it runs the built-in demo on one GPU. For a voice of your own set `image` to where you pushed it, and add
# to `data` of the ConfigMap (every variable is in docs/variables.md; quote numbers and true/false):
#   WORK_DIR: /work/my_voice
#   TRAIN_JSONL: /work/input/train.jsonl
#   SPEAKER_NAME: my_voice
#   HF_REPO_ID: owner/my-voice
#   UPLOAD_TO_HUB: "true"
#   HF_TOKEN_FILE: /run/secrets/huggingface/token
# The last three publish; the token comes from a Secret called `huggingface` with the key `token`.
# To start again: kubectl delete job qwen3-tts-job, then apply. `kubectl delete -f` would also delete the volume and
# all that is on it.
#
# yamllint disable rule:indentation
---
TEXT
render "$here/overlays/job" >>"$new"
chmod 644 "$new"
mv -- "$new" "$here/job.yaml"
