"""Check the environment variables of libraries and the system whose errors would otherwise appear late or obscurely.

`check` runs at the start of every run. Variables that must be right before a library is imported, in every command, are
corrected by `job.config.surroundings`.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from job.config.settings import Settings
from job.config.surroundings import TRUE, is_true
from job.core.errors import BadInput, first_line
from job.publish import targets
from job.train import trackers

#: Values they read as false; they also read every unknown value as false, silently.
_FALSE = ("0", "off", "no", "false", "")
_SWITCHES = re.compile(r"HF_HUB_(OFFLINE|DISABLE_\w+|ENABLE_\w+)|TRANSFORMERS_OFFLINE|HF_DATASETS_OFFLINE")
#: Directories that libraries write to; those of the Hub may be read-only where nothing is fetched from it.
_OF_THE_HUB = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "TRANSFORMERS_CACHE")
_DIRECTORIES = (
    *("HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "XDG_CACHE_HOME", "TORCH_HOME", "NUMBA_CACHE_DIR"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR", "TRACKIO_DIR"),
    *("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"),
)
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_NO_GPU = ("", "-1", "none", "void", "nodevfiles")


def check(env: Mapping[str, str], settings: Settings, stages: Collection[str] = ("doctor",)) -> list[str]:
    """Refuse what would make a later stage fail: switches, directories, URLs, certificates, GPUs, W&B.

    Runs at the start of every run, even when the doctor stage is already done: the machine may be a different one.

    Args:
        env: the environment (`job.config.settings.environment()`).
        settings: decide which variables matter.
        stages: names of the stages to run; doctor looks ahead to all.

    Returns:
        Warnings: values that are valid but possibly not intended.

    Raises:
        BadInput: naming the variable and the fix.
    """
    for name, value in env.items():
        if _SWITCHES.fullmatch(name) and value.strip().lower() not in (*TRUE, *_FALSE):
            raise BadInput(f"{name}={value[:100]}: must be 1 or 0; the library would read it as 0")
    offline = _offline(env)
    _directories(env, offline)
    _certificates(env)
    _endpoint(env)
    wanted = _needs_the_hub(settings, stages)
    if offline and wanted:
        raise BadInput(f"{offline}={env[offline]}: {wanted[0]} needs the Hub; unset {offline}, or {wanted[1]}")
    tracked = "wandb" in trackers.names(settings)
    if wanted or tracked or _downloads(settings):
        _proxies(env)
    if tracked:
        _wandb(env)
    return _gpus(env, settings)


def _offline(env: Mapping[str, str]) -> str | None:
    """The variable that puts the Hub's clients into offline mode; None when none does."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if env.get(name):  # the first one that is set decides, whatever its value
            return name if is_true(env[name]) else None
    return None


def _needs_the_hub(settings: Settings, stages: Collection[str]) -> tuple[str, str] | None:
    """A part of the run that needs the Hub, and the way to run without it; None when nothing needs the Hub."""
    if {"doctor", "push"} & set(stages) and not settings.prepare_only and targets.skipped(settings) is None:
        repos = ", ".join(target.repo for target in targets.targets(settings))
        return f"publishing to {repos}", "set UPLOAD_TO_HUB=false"
    from job import fetch

    fetched = settings.paths.manifest("train").is_file()  # a rerun assumes that the dataset is unchanged
    if {"doctor", "fetch"} & set(stages) and not fetched and (about := fetch.needs_the_hub(settings)):
        return about, "set TRAIN_JSONL or DATA_DIR to local data"
    return None


def _downloads(settings: Settings) -> bool:
    """Whether a model setting names something other than a local directory."""
    named = (
        settings.init_model_path,
        settings.tokenizer_path,
        settings.asr_model,
        settings.align_model,
        settings.mos_model,
        settings.similarity_model,
    )
    return any(name and name not in ("demo", "none") and not Path(name).expanduser().exists() for name in named)


def _directories(env: Mapping[str, str], offline: str | None) -> None:
    for name in (*_OF_THE_HUB, *_DIRECTORIES):
        if name not in env:
            continue
        directory = Path(os.path.expandvars(env[name])).expanduser()
        if offline and name in _OF_THE_HUB and directory.is_dir():
            continue
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{name}={directory} cannot be created: {error.strerror}; set another directory") from error
        _writable(name, directory)
    if "TMPDIR" in env:  # Python silently uses another directory, the shell fails
        _writable("TMPDIR", Path(env["TMPDIR"]))


def _writable(name: str, directory: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
    except OSError as error:
        raise BadInput(f"{name}={directory} is not writable: {error.strerror}; set another directory") from error


def _certificates(env: Mapping[str, str]) -> None:
    for name in _CERTIFICATES:
        if not env.get(name):
            continue
        path = Path(env[name])
        if path.is_dir() and name != "SSL_CERT_FILE":
            continue
        try:
            ssl.create_default_context(cafile=str(path))
        except ssl.SSLError:
            raise BadInput(f"{name}={path}: contains no PEM certificates; set a file that does, or unset it") from None
        except OSError as error:
            raise BadInput(f"{name}={path}: {error.strerror}; set a certificate file, or unset it") from None


def _endpoint(env: Mapping[str, str]) -> None:
    if "HF_ENDPOINT" in env and _host(env["HF_ENDPOINT"], ("http", "https")) is None:
        raise BadInput("HF_ENDPOINT: is not the URL of a Hub, such as https://huggingface.co; correct or unset it")
    if "@" in urlsplit(env.get("HF_ENDPOINT", "")).netloc:  # would be sent in place of the token, and published as well
        raise BadInput("HF_ENDPOINT: holds a user or a password; leave them out, the Hub gets HF_TOKEN")


def _proxies(env: Mapping[str, str]) -> None:
    for name in _PROXIES:
        if not env.get(name):
            continue
        # The value is not printed: it may contain a password.
        address = env[name] if "://" in env[name] else f"http://{env[name]}"
        scheme = _host(address, ("http", "https", "socks4", "socks4a", "socks5", "socks5h"))
        if scheme is None:
            raise BadInput(f"{name}: is not the URL of a proxy, such as http://proxy:3128; correct or unset it")
        if scheme.startswith("socks") and find_spec("socks") is None:
            raise BadInput(f"{name}: a SOCKS proxy needs the package PySocks; `pip install PySocks`, or use http://")


def _host(address: str, schemes: tuple[str, ...]) -> str | None:
    """The scheme of a URL, if it is one of `schemes` and the URL has a host and no invalid port; else None."""
    try:
        parts = urlsplit(address.strip())
        whole = parts.hostname and re.fullmatch(r"[\w.:-]+", parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts.scheme.lower() if whole and parts.scheme.lower() in schemes else None


def _wandb(env: Mapping[str, str]) -> None:
    """Have W&B validate its own variables now instead of when training starts."""
    from pydantic import ValidationError

    if find_spec("wandb") is None:
        return  # reported by the check of TRACKERS
    try:
        import wandb

        wandb.setup()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f"WANDB_{str(first['loc'][0]).upper()}" if first["loc"] else "WANDB_*"
        raise BadInput(f"{name}: W&B rejects it: {first['msg']}; correct or unset it") from None
    except Exception as error:
        text = first_line(error)
        name = next((n for n, value in env.items() if n.startswith("WANDB_") and value and value in text), "WANDB_*")
        raise BadInput(f"{name}: W&B cannot start with it ({text[:200]}); correct or unset it") from None


def _gpus(env: Mapping[str, str], settings: Settings) -> list[str]:
    """Check CUDA_VISIBLE_DEVICES and its like: CUDA silently ignores the list from the first entry it cannot read."""
    name = "CUDA_VISIBLE_DEVICES"
    given = env.get(name)
    if given is None or (settings.device != "auto" and not settings.device.startswith("cuda")):
        return []
    if given.strip().lower() in _NO_GPU:
        hidden = Path("/dev/nvidiactl").exists() and settings.device == "auto"
        return [f"{name}={given} hides this machine's GPUs, so the CPU is used; unset it to use them"] if hidden else []
    devices = [device.strip() for device in given.split(",")]
    wrong = [device for device in devices if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", device)]
    if wrong or len(set(devices)) < len(devices):
        raise BadInput(f"{name}={given[:100]}: must be GPU numbers separated by commas, each only once, such as 0,1")
    return []
