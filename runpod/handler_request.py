"""What a request may say, and what the job is started with because of it.

    {"variables": {"DATASET_NAME": "me/recordings", "TRAIN_MODE": "lora"},
     "credentials": {"hf_token": "hf_..."},
     "stages": {"from": "doctor", "until": "report"},
     "name": "my-voice"}

Everything is optional. Whatever is wrong is one `BadInput` line, in the job's own words where the job has some, and
never holds a credential.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.functional_validators import BeforeValidator
from pydantic_core import PydanticCustomError

from job.config import quoting
from job.config import settings as variables
from job.config.settings import Settings
from job.core.errors import BadInput
from job.core.redact import MASK, redact
from job.stages import NAMES, stage

#: Longest value of one variable. Linux refuses to start a program with a longer one (128 KiB).
LONGEST_VALUE = 100_000

#: Longest of all of them together: arguments and environment of a program have 2 MiB in all, 1/4 of its stack.
LONGEST_INPUT = 1_000_000
#: Mistakes that one refusal names.
MOST_SAID = 5

#: Variables that a request cannot set, and what to do instead.
RESERVED = {
    "HF_TOKEN": "send it as credentials.hf_token",
    "HF_TOKEN_FILE": "send the token itself as credentials.hf_token",
    "WANDB_API_KEY": "send it as credentials.wandb_api_key",
    "ENV_FILE": "send the variables themselves",
    "MIRROR_CHECKPOINTS": "the volume keeps the work",
    "CONSOLE_LOG": "it is console_log.txt in the work directory",
    **dict.fromkeys(("NUM_NODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"), "a worker is a cluster of one node"),
}
#: Text variables that may name a file or a directory. Those that the settings declare as paths are found by themselves.
MAY_BE_PATHS = (
    *("init_model_path", "tokenizer_path", "dataset_name", "datasets", "resume", "test_texts"),
    *("asr_model", "align_model", "mos_model", "similarity_model"),
)

#: What the job inherits from the worker besides its own variables. The worker's environment also holds RunPod's keys,
#: which are none of the job's business: so this lists what passes, not what does not.
INHERITED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|(?:https?|no|all)_proxy|(?:HTTPS?|NO|ALL)_PROXY"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|WANDB_(?:BASE_URL|MODE)|XDG_CACHE_HOME|PYTHONDONTWRITEBYTECODE"
    r"|(?:CUDA|NVIDIA|NCCL|TORCH|PYTORCH|TRITON|OMP|MKL|HF|NUMBA)_\w+|TORCHINDUCTOR_\w+|MPLCONFIGDIR"
)


def _secret(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]{8,512}", value):
        raise PydanticCustomError("secret", "must be 8 to 512 printable characters without spaces")
    return value


def _variable(value: Any) -> str:
    """A JSON value as the text of an environment variable."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str):
        raise PydanticCustomError("variable", "must be text, a number, true or false")
    if "\0" in value or len(value.encode("utf-8", "replace")) > LONGEST_VALUE:
        raise PydanticCustomError("variable", "must be at most 100000 bytes long and hold no NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PydanticCustomError("variable", "must be valid Unicode") from None
    return value


Secret = Annotated[SecretStr | None, BeforeValidator(_secret)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Credentials(_Part):
    """Secrets of this request only: they reach the job through files that are removed when it ends."""

    hf_token: Secret = None
    wandb_api_key: Secret = None


class Stages(_Part):
    """The part of the job to run."""

    first: str = Field(NAMES[0], alias="from")
    last: str = Field(NAMES[-1], alias="until")


class Input(_Part):
    """A request's `input`."""

    variables: dict[str, Annotated[str, BeforeValidator(_variable)]] = {}
    credentials: Credentials = Credentials()
    stages: Stages = Stages.model_validate({})
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


@dataclass(frozen=True)
class Request:
    """A request that makes sense.

    Attributes:
        name: of the work directory; the same input has the same one.
        settings: as the job will read them.
        variables: the job's variables, by name, as text; without credentials.
        first, last: stages to run.
        secrets: the credentials, by name.
    """

    name: str
    settings: Settings
    variables: dict[str, str]
    first: str
    last: str
    secrets: Credentials

    @property
    def log(self) -> Path:
        """The console log of the run."""
        return self.settings.console_log


def parse(given: Any, environ: Mapping[str, str], volume: Path, empty_file: Path) -> Request:
    """Check a request's input.

    Args:
        given: the request's `input`.
        environ: the worker's environment: the job's variables in it are the endpoint's defaults.
        volume: the directory that everything lies in; relative paths of variables start here.
        empty_file: an empty file, for ENV_FILE: a stray .env must not change what was checked here.

    Raises:
        BadInput: in one line, without any credential.
    """
    try:
        request = Input.model_validate(given, strict=False)
    except ValidationError as error:
        wrong = [_explain(e) for e in error.errors(include_input=False, include_url=False)]
        more = f"; and {len(wrong) - MOST_SAID} more" if len(wrong) > MOST_SAID else ""
        raise BadInput(_masked("; ".join(wrong[:MOST_SAID]) + more)) from None
    defaults = Credentials.model_construct(
        hf_token=_default(environ, "HF_TOKEN"), wandb_api_key=_default(environ, "WANDB_API_KEY")
    )
    secrets = Credentials.model_construct(
        hf_token=request.credentials.hf_token or defaults.hf_token,
        wandb_api_key=request.credentials.wandb_api_key or defaults.wandb_api_key,
    )
    try:
        return _resolve(request, secrets, environ, volume, empty_file)
    except BadInput as error:
        raise BadInput(_masked(" ".join(str(error).split()), plain(secrets))) from None


def _masked(line: str, secrets: Iterable[str] = ()) -> str:
    """`line` without secrets. What is refused may be a key in the wrong place: whatever has a W&B key's form goes."""
    return re.sub(r"\b[0-9a-f]{40}\b", MASK, redact(line, secrets))


def plain(secrets: Credentials) -> list[str]:
    """The credentials themselves, for redaction."""
    return [value.get_secret_value() for value in (secrets.hf_token, secrets.wandb_api_key) if value]


def child_environment(request: Request, environ: Mapping[str, str], volume: Path) -> dict[str, str]:
    """Everything the job is started with, except the names of the files that hold credentials."""
    names = {name for v in variables.variables() for name in (v.name, *v.aliases)}
    kept = {k: v for k, v in environ.items() if INHERITED.fullmatch(k) and k not in names | {"HF_TOKEN_PATH"}}
    return {**kept, "HF_HOME": str(volume / ".cache" / "huggingface"), **request.variables}


def _resolve(
    request: Input, secrets: Credentials, environ: Mapping[str, str], volume: Path, empty_file: Path
) -> Request:
    given = request.variables
    if sum(len(f"{name}={value}".encode()) for name, value in given.items()) > LONGEST_INPUT:
        raise BadInput(
            f"input.variables: must be at most {LONGEST_INPUT} bytes in all; put texts in a file on the volume"
        )
    known = {name: v for v in variables.variables() for name in (v.name, *v.aliases)}
    for name in given:
        canonical = known[name].name if name in known else name
        if canonical in RESERVED:
            raise BadInput(f"{name} cannot be set here: {RESERVED[canonical]}")
        if re.search(r"(TOKEN|API_?KEY|SECRET|PASSWORD)$", name, re.IGNORECASE):
            raise BadInput(f"{name} is not a variable of this job; credentials are hf_token and wandb_api_key")
    fields = {known[name].field for name in given if name in known}
    # The image sets WORK_DIR for those who run it by itself; here every input has a directory of its own.
    apart = fields | {"work_dir", "output_dir"}
    defaults = {n: environ[n] for n, v in known.items() if n in environ and v.name not in RESERVED}
    defaults = {n: value for n, value in defaults.items() if known[n].field not in apart}
    # JSON says exactly what is meant; in the environment a quotation mark or a # would not always be itself.
    exact = {name: quoting.quoted(name, value) for name, value in given.items()}
    merged = {**defaults, **exact, "ENV_FILE": str(empty_file)}
    settings = variables.load(merged)  # the job's own complaints come first
    unknown = [name for name in given if name not in known]
    if unknown:
        raise BadInput(f"{unknown[0][:64]} is not a variable of this job; docs/variables.md lists them")
    _confine(settings, fields, volume)
    first, last = stage(request.stages.first).name, stage(request.stages.last).name
    if NAMES.index(first) > NAMES.index(last):
        raise BadInput(f"stages: from {first} comes after until {last}")
    if request.name and "work_dir" in fields:
        raise BadInput("name and WORK_DIR both say where the work goes; send one of them")
    jobs = volume / "jobs"
    work = volume / settings.work_dir if "work_dir" in fields else jobs / (request.name or _digest(settings))
    output = volume / settings.output_dir if settings.output_dir else work / "output"
    for variable, path in (("WORK_DIR", work), ("OUTPUT_DIR", output)):
        if jobs.resolve() not in path.resolve().parents:
            raise BadInput(f"{variable}={path}: must be inside {jobs}; leave it out, or send a name instead")
    merged |= {"WORK_DIR": str(work), "OUTPUT_DIR": str(output), "CONSOLE_LOG": str(work / "console_log.txt")}
    name = str(work.resolve().relative_to(jobs.resolve()))
    return Request(name, variables.load(merged), merged, first, last, secrets)


def _confine(settings: Settings, fields: set[str], volume: Path) -> None:
    """Refuse paths that lead out of the volume: the rest of the file system is the worker's, not the request's.

    Raises:
        BadInput: naming the variable.
    """
    inside = volume.resolve()
    for field in sorted(fields - {"work_dir", "output_dir"}):
        value = getattr(settings, field)
        if not isinstance(value, Path) and (value is None or field not in MAY_BE_PATHS):
            continue
        for text in re.split(r"[\n|]+", str(value)) if field == "datasets" else [str(value)]:
            try:
                target = (volume / Path(text.strip()).expanduser()).resolve()
            except (OSError, RuntimeError, ValueError):
                continue  # too long for a file name, or a `~` that is no user's home: it is text
            if target != inside and inside not in target.parents:
                name = variables.names_of(field)[0]
                raise BadInput(f"{name}={text[:200]}: must be inside {volume}, where the network volume is mounted")


def _digest(settings: Settings) -> str:
    """A name that follows from what the job is to do, so that the same input finds its work again."""
    values = {k: v for k, v in settings.fingerprint_values().items() if k not in ("WORK_DIR", "OUTPUT_DIR")}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
    return f"job-{digest[:16]}"


def _default(environ: Mapping[str, str], name: str) -> SecretStr | None:
    """A credential of the endpoint itself, set as a RunPod secret."""
    value = quoting.plain(name, environ.get(name, ""))
    return SecretStr(value) if value else None


def _explain(error: Any) -> str:
    """One clause for one of pydantic's errors, without what was given."""
    place = ".".join(["input", *(str(part) for part in error["loc"])])
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        parts: dict[str, type[_Part]] = {"input.credentials": Credentials, "input.stages": Stages}
        model = parts.get(place.rpartition(".")[0], Input)
        fields = ", ".join(field.alias or name for name, field in model.model_fields.items())
        return f"{redact(place)[:200]} is not known; {place.rpartition('.')[0]} takes {fields}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place} must be an object"
    if kind == "string_type":
        return f"{place} must be text"
    if kind == "string_pattern_mismatch":
        return f"{place} must match {context.get('pattern')}"
    return f"{redact(place)[:200]}: {error['msg']}"
