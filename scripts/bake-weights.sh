#!/bin/sh
# bake-weights.sh HF DIRECTORY REPO REVISION: put the weights of a Hub repo into DIRECTORY/REPO; an empty REPO bakes none.
#
# HF is the Hub's command line. A token for a gated repo is read from the build secret hf_token (or the file that
# HF_TOKEN_SECRET names), if there is one.
set -eu

hf=$1 directory=$2 repo=$3 revision=$4
mkdir -p "$directory"
if [ -z "$repo" ]; then
  exit 0
fi
case $repo in
*/*/* | /* | */ | *..*) echo "BAKE_MODEL=$repo: not a repo of the Hub (owner/name)" >&2 && exit 2 ;;
*/*) ;;
*) echo "BAKE_MODEL=$repo: not a repo of the Hub (owner/name)" >&2 && exit 2 ;;
esac

cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
export HF_HOME="$cache" HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_PROGRESS_BARS=1
secret=${HF_TOKEN_SECRET:-/run/secrets/hf_token}
if [ -s "$secret" ]; then
  export HF_TOKEN_PATH="$secret"
fi
"$hf" download "$repo" --revision "$revision" --local-dir "$directory/$repo" >/dev/null
rm -rf "$directory/$repo/.cache" # what --local-dir keeps to go on with a download
chmod -R a+rX "$directory"
