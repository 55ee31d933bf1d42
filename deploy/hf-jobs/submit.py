"""One unattended run on Hugging Face Jobs, watched and submitted again when another try may mend it.

    .venv/bin/python deploy/hf-jobs/submit.py [arguments of `python -m job`; none means run]

The job's variables are in the file JOB_ENV; tokens and keys among them are sent as secrets of the Job. Nothing remains
of a Job's disk: with MIRROR_CHECKPOINTS the next Job resumes where the last one ended, and only then is there a next
one. docs/hf-jobs.md
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

sys.path.append(str(Path(__file__).resolve().parents[2]))

from job.config.quoting import Notes, read_env_file
from job.config.settings import Settings, load, names_of
from job.core import errors

#: The image's own; Jobs ask for the whole command.
ENTRYPOINT = ["tini", "-s", "--", "/opt/job/entrypoint.sh"]
#: Names of the variables that the job itself treats as secrets.
SECRETS = {
    name
    for field, info in Settings.model_fields.items()
    if "SecretStr" in str(info.annotation)
    for name in names_of(field)
}
#: Exit codes after which another try would only end the same way.
FINAL = {errors.BAD_INPUT, errors.DATA_REFUSED, errors.TRAINING_STOPPED, errors.SPEECH_FAILED}
#: Seconds between two looks at the Job, and how many of them in a row may find no answer.
PAUSE, UNANSWERED = 30.0, 20


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Submit the run, and watch it until it is done or another try is of no use. Returns the job's exit code."""
    image = environ.get("JOB_IMAGE")
    if not image:
        raise errors.BadInput("JOB_IMAGE is not set: name the image that you have pushed (docs/image.md)")
    variables, secrets = read(Path(environ.get("JOB_ENV") or "~/qwen3-tts.env").expanduser())
    tries, limit = environ.get("JOB_TRIES") or "5", environ.get("JOB_TIMEOUT") or "12h"
    if not re.fullmatch(r"[1-9]\d*", tries):
        raise errors.BadInput(f"JOB_TRIES={tries}: must be a number from 1")
    if not re.fullmatch(r"\d+(\.\d+)?[smhd]?", limit):
        raise errors.BadInput(f"JOB_TIMEOUT={limit}: must be a time like 12h or 1.5d")
    if not variables.get("MIRROR_CHECKPOINTS"):
        print("MIRROR_CHECKPOINTS is not set: nothing would be left of a Job that is cut short", flush=True)
        tries = "1"
    api, code = HfApi(), 1
    for number in range(1, int(tries) + 1):
        job = api.run_job(
            image=image,
            command=[*ENTRYPOINT, *arguments],
            env=variables,
            secrets=secrets,
            flavor=environ.get("JOB_FLAVOR") or "a10g-large",  # type: ignore[arg-type]
            timeout=limit,  # half an hour, were it not given
            namespace=environ.get("JOB_NAMESPACE") or None,
        )
        print(f"try {number} of {tries}: {job.url}\nits log: hf jobs logs {job.id}", flush=True)
        stage, message = watch(api, job.id, job.owner.name)
        print(f"{stage} {message}".strip(), flush=True)
        code = exit_code(stage, message)
        if code == 0 or code in FINAL or stage in ("CANCELED", "DELETED"):
            break
    return code


def read(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The variables and the secrets of the Job, checked before a machine is paid for.

    Raises:
        BadInput: a setting is wrong, or names files that a Job cannot see.
    """
    if not file.is_file():
        raise errors.BadInput(f"JOB_ENV={file}: no such file; write the job's variables into it (docs/hf-jobs.md)")
    settings = load({"ENV_FILE": str(file)}, quiet=True)
    for name in ("train_jsonl", "data_dir"):
        if value := getattr(settings, name):
            raise errors.BadInput(
                f"{name.upper()}={value}: a Job sees no folder of yours; upload the recordings as a private dataset "
                "and set DATASET_NAME (docs/hf-jobs.md)"
            )
    given = read_env_file(file, Notes())
    secrets = {name: value for name, value in given.items() if name in SECRETS}
    token = get_token()
    if token is None:
        raise errors.BadInput("there is no Hub token to pay with; log in with `hf auth login`, or set HF_TOKEN")
    secrets.setdefault("HF_TOKEN", token)
    return {name: value for name, value in given.items() if name not in secrets}, secrets


def watch(api: HfApi, job: str, namespace: str) -> tuple[str, str]:
    """Wait for the Job's end. Returns its stage and its message."""
    silent = 0
    while True:
        try:
            status = api.inspect_job(job_id=job, namespace=namespace).status
        except (HfHubHTTPError, OSError):
            silent += 1
            if silent == UNANSWERED:
                raise
        else:
            silent = 0
            if status.stage in ("COMPLETED", "CANCELED", "ERROR", "DELETED"):
                return str(getattr(status.stage, "value", status.stage)), status.message or ""
        time.sleep(PAUSE)


def exit_code(stage: str, message: str) -> int:
    """The job's exit code, which the Hub tells in a message; 143 where the Job was stopped."""
    if stage == "COMPLETED":
        return 0
    if found := re.search(r"exit code:? *(\d+)", message):
        return int(found[1])
    stopped = stage in ("CANCELED", "DELETED") or "timeout" in message.lower()
    return errors.STOPPED_BY_SIGNAL if stopped else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:] or ["run"], os.environ))
    except errors.BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(errors.BAD_INPUT)
    except (HfHubHTTPError, OSError) as error:
        print(f"error: the Hub did not answer as expected: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nno longer watched; the Job itself goes on (hf jobs ps, hf jobs cancel)", file=sys.stderr)
        sys.exit(130)
