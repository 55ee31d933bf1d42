#!/bin/sh
# image.sh TAG [BUILD OPTION...]: build the image with docker, or with buildah where docker is not running.
set -eu

tag=$1
shift
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
set -- --build-arg "REVISION=$revision" --tag "$tag" "$@" .

if docker info >/dev/null 2>&1; then
  exec docker build "$@"
elif command -v buildah >/dev/null; then
  # the docker format keeps HEALTHCHECK, which OCI images do not have
  exec buildah bud --format docker --isolation "${BUILDAH_ISOLATION:-chroot}" "$@"
fi
echo "Neither a running docker nor buildah was found; install one of them" >&2
exit 2
