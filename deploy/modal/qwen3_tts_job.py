"""One unattended run on Modal: modal run --detach deploy/modal/qwen3_tts_job.py [--command "run --until prepare"].

The job's variables are in the file JOB_ENV, the Hub token in a Secret of Modal's. When Modal takes the machine away, it
starts the function again with the same input, on a new disk: MIRROR_CHECKPOINTS is what the run resumes from.
docs/modal.md
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import modal

ENTRYPOINT = "/opt/job/entrypoint.sh"
#: 0: done. 2 settings, 3 data, 4 training, 6 speech: another try would only end the same way.
FINAL = {0, 2, 3, 4, 6}

app = modal.App("qwen3-tts-job")
# Modal starts its own process in the image: with a Python of its own, and not through the image's entrypoint.
image = modal.Image.from_registry(
    os.environ.get("JOB_IMAGE", "ghcr.io/YOU/qwen3-tts-job:latest"),
    setup_dockerfile_commands=["ENV PATH=/usr/local/bin:/usr/bin:/bin"],  # not the job's Python
    add_python="3.12",
).entrypoint([])


@app.function(
    image=image,
    gpu=os.environ.get("JOB_GPU", "L40S"),
    cpu=8,
    memory=32 * 1024,
    timeout=24 * 3600,  # the most that there is; then, as after any other failure, the next try resumes
    retries=modal.Retries(max_retries=5, initial_delay=60, max_delay=60, backoff_coefficient=1),
    secrets=[modal.Secret.from_name("huggingface", required_keys=["HF_TOKEN"])],
    single_use_containers=True,
)
def run(variables: str, arguments: list[str]) -> int:
    """Run the job with the text of a file of variables. Returns its exit code where another try is of no use.

    Raises:
        RuntimeError: another try may mend it, which Modal makes of any exception.
    """
    file = Path("/tmp/job.env")
    file.write_text(variables)
    # Modal's own packages would come before the job's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MODAL_"))}
    process = subprocess.Popen(
        [ENTRYPOINT, *arguments], env={**environment, "ENV_FILE": str(file)}, start_new_session=True
    )
    try:
        code = process.wait()
    except BaseException:  # the machine is being taken away: half a minute for a checkpoint
        process.terminate()
        process.wait()
        raise
    if code not in FINAL:
        raise RuntimeError(f"the job ended with exit code {code}")
    return code


@app.local_entrypoint()
def main(command: str = "run") -> None:
    """Start the run with the variables of JOB_ENV, and end with its exit code."""
    file = Path(os.environ.get("JOB_ENV", "~/qwen3-tts.env")).expanduser()
    raise SystemExit(run.remote(file.read_text(), shlex.split(command)))
