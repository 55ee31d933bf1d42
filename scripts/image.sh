#!/bin/sh
# image.sh TAG [BUILD OPTION...]: build the image with docker, or with buildah where docker is not running.
# BUILDER=docker or buildah takes that one.
set -eu

tag=$1
shift
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
set -- --build-arg "REVISION=$revision" --build-arg "VERSION=$version" --tag "$tag" "$@" .

if [ -z "${BUILDER:-}" ]; then
  if docker info >/dev/null 2>&1; then
    BUILDER=docker
  elif command -v buildah >/dev/null; then
    BUILDER=buildah
  fi
fi
case ${BUILDER:-} in
docker) DOCKER_BUILDKIT=1 exec docker build "$@" ;;
# the docker format keeps HEALTHCHECK, which OCI images do not have
buildah) exec buildah bud --format docker --isolation "${BUILDAH_ISOLATION:-chroot}" "$@" ;;
"") echo "Neither a running docker nor buildah was found; install one of them" >&2 ;;
*) echo "BUILDER=$BUILDER: is neither docker nor buildah" >&2 ;;
esac
exit 2
