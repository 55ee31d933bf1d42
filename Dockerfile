# The whole job in one image. torch's wheels bring the CUDA libraries, so the base needs only the driver that the
# runtime mounts. Any Debian or Ubuntu with Python 3.11 or newer, installed or in its archive, can be BASE_IMAGE.
ARG BASE_IMAGE=python:3.12.14-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

FROM ${BASE_IMAGE} AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# tini reaps what the job leaves and passes signals on. Python comes from the archive only where the base has none.
RUN export DEBIAN_FRONTEND=noninteractive \
    && apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tini \
    && if ! python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
         apt-get install -y --no-install-recommends python3 python3-venv; \
       fi \
    && python3 -c 'import sys; assert sys.version_info >= (3, 11), "BASE_IMAGE has no Python 3.11 or newer"' \
    && rm -rf /var/lib/apt/lists/*

FROM base AS packages
WORKDIR /build
COPY requirements.lock ./
COPY scripts/install-locked.sh scripts/bake-weights.sh scripts/
# A mirror, a proxy or a certificate of your own is a secret of the build (docs/image.md): it stays out of the image.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf,required=false \
    python3 -m venv /opt/venv \
    && PIP_NO_CACHE_DIR=1 sh scripts/install-locked.sh /opt/venv/bin/python requirements.lock
# ENGINE=ray needs Ray; other jobs are spared it (docs/ray.md).
ARG WITH_RAY=0
COPY requirements-ray.lock ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf,required=false \
    if [ "$WITH_RAY" != 0 ]; then \
         PIP_NO_CACHE_DIR=1 sh scripts/install-locked.sh /opt/venv/bin/python requirements-ray.lock; \
       fi
# Weights are left to the volume, unless BAKE_MODEL names a repo of the Hub: then they are in /opt/weights/OWNER/NAME.
ARG BAKE_MODEL=
ARG BAKE_REVISION=main
RUN --mount=type=secret,id=hf_token,required=false \
    sh scripts/bake-weights.sh /opt/venv/bin/hf /opt/weights "$BAKE_MODEL" "$BAKE_REVISION"
COPY job/ /opt/job/job/
COPY entrypoint.sh LICENSE /opt/job/
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/job/job

FROM base
# TORCH_COMPILE needs a compiler and Python's headers where it runs; other jobs are spared them (docs/image.md).
ARG WITH_COMPILER=0
RUN if [ "$WITH_COMPILER" != 0 ]; then \
         export DEBIAN_FRONTEND=noninteractive \
         && headers=$(python3 -c 'import sysconfig; print(sysconfig.get_config_var("INCLUDEPY"))')/Python.h \
         && apt-get update \
         && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
         && if [ ! -e "$headers" ]; then apt-get install -y --no-install-recommends python3-dev; fi \
         && test -e "$headers" \
         && rm -rf /var/lib/apt/lists/*; \
       fi
ARG REVISION=unknown
ARG VERSION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="qwen3-tts-job" \
      org.opencontainers.image.description="Turns recordings into a published, fine-tuned Qwen3-TTS voice, unattended" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
# A name for the fixed uid: libraries ask who they run as. Everything written goes to /work or /tmp, so the root file
# system can be read-only.
RUN groupadd --gid 10001 job \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /work --shell /usr/sbin/nologin job \
    && install -d -o 10001 -g 10001 /work
COPY --from=packages /opt/venv /opt/venv
COPY --from=packages /opt/weights /opt/weights
COPY --from=packages /opt/job /opt/job
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8 \
    HOME=/work \
    USER=job \
    WORK_DIR=/work \
    XDG_CACHE_HOME=/work/.cache \
    HF_HOME=/work/.cache/huggingface \
    NUMBA_CACHE_DIR=/tmp/numba \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/work/.cache/torchinductor \
    TRITON_CACHE_DIR=/work/.cache/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
VOLUME /work
USER 10001:10001
# The job says something at least every few seconds or minutes, whatever it does: half an hour of silence is a hang.
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s \
    CMD ["sh", "-c", "test -n \"$(find \"${CONSOLE_LOG:-/tmp/console_log.txt}\" -mmin -30)\""]
ENTRYPOINT ["tini", "-s", "--", "/opt/job/entrypoint.sh"]
