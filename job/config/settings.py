"""Read, merge and validate the variables, which are declared in `job.config.variables`.

Nothing else reads the environment. `load()` merges, in descending priority, the environment, the `.env` file
(`ENV_FILE`) and the preset (`PRESET`), and reports every mistake as one `BadInput` line that names the variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from job.config import names, quoting, surroundings
from job.config.paths import Paths
from job.config.presets import PRESETS, values
from job.config.variables import (
    GROUPS,
    SOURCE_VARIABLES,
    DataVariables,
    JobVariables,
    ModelVariables,
    PublishVariables,
    ScaleVariables,
    SynthesisVariables,
    TrainingVariables,
    VoiceVariables,
)
from job.core.console import set_format, warn
from job.core.errors import BadInput

#: Longest path component in bytes, on Linux and elsewhere.
LONGEST_NAME = 255
#: Characters of an invalid value that its error message repeats.
SHOWN = 200


class Settings(
    ModelVariables,
    DataVariables,
    VoiceVariables,
    TrainingVariables,
    PublishVariables,
    SynthesisVariables,
    ScaleVariables,
    JobVariables,
):
    """All variables, validated. Immutable, and passed explicitly to the code that needs them."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use arguments only: `load` has already merged environment, file and preset, and reported their errors."""
        return (init_settings,)

    @field_validator("speaker_name")
    @classmethod
    def _speaker_is_speakable(cls, value: str) -> str:
        """Lower the name's case, since `generate` looks speakers up by their lower-case name."""
        value = value.strip()
        if not value:
            raise ValueError("must not be empty")
        return value

    @field_validator("train_mode")
    @classmethod
    def _mode_is_known(cls, value: str) -> str:
        """Whatever is registered can be chosen."""
        from job.modes import known

        if value not in known():
            *others, last = (repr(name) for name in known())
            raise ValueError(f"input should be {', '.join(others)} or {last}")
        return value

    @field_validator("hf_repo_id", "hf_last_repo_id", "push_dataset")
    @classmethod
    def _repo_is_owner_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
            raise ValueError("must look like owner/name")
        return value

    @field_validator(
        *("init_model_path", "tokenizer_path", "resume", "work_dir", "output_dir", "console_log", "hf_token_file"),
        *("train_jsonl", "validation_jsonl", "data_dir", "ref_audio_path"),
    )
    @classmethod
    def _can_be_a_name(cls, value: Path | str | None) -> Path | str | None:
        """Reject data given instead of a file's path: the system raises an error for such a long file name."""
        if value is not None and any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(value).parts):
            raise ValueError("too long for a file name; give the file's path")
        return value

    @field_validator("console_log", "hf_token_file")
    @classmethod
    def _home_is_found(cls, value: Path | None) -> Path | None:
        """Expand `~`, which is still unexpanded in a value from a `.env` file."""
        try:
            return value and value.expanduser()
        except RuntimeError:
            raise ValueError("there is no such user; write the full path") from None

    @cached_property
    def paths(self) -> Paths:
        """The paths of this run's files."""
        work = self.work_dir.expanduser().absolute()
        output = self.output_dir.expanduser().absolute() if self.output_dir else work / "output"
        return Paths(work=work, output=output)

    @property
    def token(self) -> str | None:
        """The Hub token, from HF_TOKEN or HF_TOKEN_FILE.

        Raises:
            BadInput: HF_TOKEN_FILE cannot be read, or contains more than a token.
        """
        if self.hf_token is not None:
            return _token_alone(self.hf_token.get_secret_value(), "HF_TOKEN")
        if self.hf_token_file is None:
            return None
        name = f"HF_TOKEN_FILE={self.hf_token_file}"
        try:
            return _token_alone(self.hf_token_file.read_text(encoding="utf-8"), name)
        except OSError as error:
            raise BadInput(f"{name}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise BadInput(f"{name}: is not a text file") from None

    @property
    def secrets(self) -> list[str]:
        """The tokens and keys, which must never be printed; those in unreadable files are left out."""
        keys = [self.wandb_api_key.get_secret_value()] if self.wandb_api_key else []
        if self.notify_url:
            keys += self.notify_url.get_secret_value().split()
        keys += [os.environ[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN") if os.environ.get(name)]
        return [*keys, *([self.token] if self.token else [])]

    def public(self) -> dict[str, Any]:
        """All values by canonical name, JSON-ready, secrets masked."""
        return {key.upper(): value for key, value in self.model_dump(mode="json").items()}

    def fingerprint_values(self) -> dict[str, Any]:
        """The values that can change a result: neither secrets nor variables marked free."""
        dumped = self.model_dump(mode="json")
        return {v.name: dumped[v.field] for v in variables() if not v.free}


def _token_alone(text: str, name: str) -> str | None:
    """The token without surrounding text; a token that is invalid in an HTTP header would appear in the client's error.

    Raises:
        BadInput: it contains spaces, line ends or non-ASCII characters.
    """
    text = re.sub(r"""^(["'])(.*)\1$""", r"\2", text.strip()).strip()  # a secret file that was copied from a `.env`
    if text and not re.fullmatch(r"[\x21-\x7e]+", text):
        raise BadInput(f"{name} must hold the token alone, on one line without spaces")
    return text or None


@dataclass(frozen=True)
class Variable:
    """One row of the table that `python -m job settings` prints."""

    group: str
    field: str
    name: str
    aliases: tuple[str, ...]
    default: Any
    about: str
    free: bool


def names_of(field: str) -> tuple[str, ...]:
    """Canonical name first, then the aliases."""
    choices = Settings.model_fields[field.lower()].validation_alias
    return tuple(str(c) for c in choices.choices) if isinstance(choices, AliasChoices) else (field.upper(),)


def variables() -> Iterator[Variable]:
    """Every variable, in the order of the table."""
    for group in GROUPS:
        for field, info in group.model_fields.items():
            name, *aliases = names_of(field)
            extra = info.json_schema_extra
            free = bool(extra.get("free")) if isinstance(extra, dict) else False
            yield Variable(
                group=(group.__doc__ or "").rstrip("."),
                field=field,
                name=name,
                aliases=tuple(aliases),
                default=info.default,
                about=info.description or "",
                free=free,
            )


#: Variables any of which, if set, means that the user wants a run of their own, not the built-in demo.
_NAMED = {
    *(name.lower() for name in SOURCE_VARIABLES),
    "init_model_path",
    "tokenizer_path",
    "data_mode",
    "speaker_name",
    "ref_audio_path",
    "hf_repo_id",
    "hf_last_repo_id",
}


def load(environ: Mapping[str, str] | None = None, preset: str | None = None, *, quiet: bool = False) -> Settings:
    """Read and validate all variables. `preset` is the preset to use when PRESET is not set.

    Quotation marks and comments are handled by `job.config.quoting`, wherever a variable comes from. If `environ` is
    None, corrected values are written back to the process's environment, which libraries and child processes also read.
    `quiet` suppresses the log lines about corrections.

    Raises:
        BadInput: a value has the wrong type, a name is one typo away from a known one, two aliases disagree, a quote is
            not closed, the file of ENV_FILE is missing, or a library would fail on a variable of its own.
    """
    notes, groups = quoting.Notes(), [(v.name, *v.aliases) for v in variables()]
    env = quoting.mended(
        os.environ if environ is None else environ, (name for group in groups for name in group), notes
    )
    said = surroundings.settle(env)
    if environ is None:
        _write_back(env)
    env_file = Path(env.get("ENV_FILE") or ".env").expanduser()
    if env.get("ENV_FILE") and not env_file.is_file():
        raise BadInput(f"ENV_FILE={env_file}: no such file")
    from_file = quoting.read_env_file(env_file, notes) if env_file.is_file() else {}
    said += [*notes.lines(), *surroundings.drop_locale(env)]
    for source in (env, from_file):
        names.check(source, groups)
    merged = _merge(env, from_file, preset)
    set_format(str(merged.get("log_format", "")))
    for line in [] if quiet else said:
        warn("settings", line)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise BadInput("; ".join(_explain(e) for e in error.errors())) from None


def environment() -> dict[str, str]:
    """The process's environment, for checks of the variables that libraries read (`job.config.surroundings`)."""
    return dict(os.environ)


def _write_back(env: Mapping[str, str]) -> None:
    """Write corrected values into the process's environment, except those that parsing again would change."""
    for name in [name for name in os.environ if name not in env]:
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value and quoting.is_settled(name, value):
            os.environ[name] = value


def _merge(env: Mapping[str, str], from_file: Mapping[str, str], fallback: str | None) -> dict[str, Any]:
    """Field -> value for the variables that are set, including the preset's; a blank value counts as unset."""
    merged: dict[str, Any] = {}
    for variable in variables():
        for source in (env, from_file):
            value = next((source[n] for n in (variable.name, *variable.aliases) if source.get(n, "").strip()), None)
            if value is not None:
                merged[variable.field] = value.strip()
                break
    preset = merged.get("preset", fallback)
    if preset is None and not merged.keys() & _NAMED:
        preset = "demo"  # no data, model or repo is set: use the built-in demo
    if preset is None:
        return merged
    if preset not in PRESETS:
        raise BadInput(f"PRESET={preset!r} does not exist; choose one of {', '.join(sorted(PRESETS))}")
    return {**values(preset, merged), "preset": preset, **merged}


def _explain(error: Any) -> str:
    """One of pydantic's errors as a clause, without the value of a secret."""
    field, message = str(error["loc"][0]), str(error["msg"]).removeprefix("Value error, ")
    name = names_of(field)[0] if (known := Settings.model_fields.get(field.lower())) else field.upper()
    if known and error["type"] == "string_pattern_mismatch":  # a pattern says little to whoever made the mistake
        message = f"cannot be read; it is: {known.description}"
    value = repr(error.get("input"))
    shown = "" if name in ("HF_TOKEN", "WANDB_API_KEY") else f"={value[:SHOWN]}{'…' * (len(value) > SHOWN)}"
    return f"{name}{shown}: {message[:1].lower()}{message[1:]}"
