"""Correct environment variables that would make a library fail, or run very slowly, once it is imported.

`huggingface_hub`, `datasets`, OpenMP, oneDNN and CUDA read the environment themselves, partly while they are imported.
`job.environment_check` refuses other values that would make a run fail late.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from importlib.util import find_spec

from job.config import names
from job.core import cpus
from job.core.errors import BadInput

#: Numbers that huggingface_hub and datasets parse on import, which fails for any other text.
_NUMBERS = {
    "HF_HUB_ETAG_TIMEOUT": int,
    "HF_HUB_DOWNLOAD_TIMEOUT": int,
    "HF_HUB_LOCAL_DIR_AUTO_SYMLINK_THRESHOLD": int,
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": float,
}
#: Libraries take a blank value of these as a URL, a directory or a number; here it counts as unset, as everywhere.
_BLANK_IS_NONE = re.compile(r"(HF|HUGGINGFACE|TRANSFORMERS|WANDB)_\w+|XDG_CACHE_HOME|TMPDIR|\w+_CACHE_DIR")
#: Values that huggingface_hub and transformers read as true.
TRUE = ("1", "on", "yes", "true")
_FAST = "HF_HUB_ENABLE_HF_TRANSFER"
#: torch reads its allocator's settings from the first of these that is set, when a GPU is first used.
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
#: Number of threads that OpenMP, and so torch, uses.
_THREADS = "OMP_NUM_THREADS"
#: Spins of a waiting OpenMP thread. The default of 300,000 blocks the core for milliseconds: two small runs at once on
#: two cores took twenty times as long as one run; with 1,000, twice as long.
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPINS = "1000"
#: How many compiled operations oneDNN keeps, which computes convolutions on a CPU. It compiles each anew for each
#: length of a batch and by default keeps 1024 of them: a recogniser or a codec that hears recordings of all lengths
#: fills hundreds of MB with what is hardly used again. Compiling again takes less than the times of such runs vary.
_COMPILED = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")
COMPILED = "8"


def settle(env: MutableMapping[str, str]) -> list[str]:
    """Correct `env` where possible, and refuse values that make an import fail. Fast, since every command runs it.

    Returns:
        Log lines about the corrections.

    Raises:
        BadInput: naming the variable.
    """
    for name in [name for name, value in env.items() if not value.strip() and _BLANK_IS_NONE.fullmatch(name)]:
        del env[name]
    for name, kind in _NUMBERS.items():
        try:
            wrong = name in env and kind(env[name]) < 0
        except ValueError:
            wrong = True
        if wrong:
            raise BadInput(f"{name}={env[name][:100]}: must be a number, such as 30; set one, or unset it")
    if not any(name in env for name in _ALLOCATOR):
        # Batches differ in length; without this, free memory is fragmented and cannot be used.
        env[_ALLOCATOR[0]] = "expandable_segments:True"
    granted = cpus.limit()
    if granted and not env.get(_THREADS, "").strip():
        env[_THREADS] = str(granted)  # read when torch is imported
    if not any(env.get(name, "").strip() for name in _WAITING):
        env[_WAITING[0]] = SPINS  # likewise
    if not any(env.get(name, "").strip() for name in _COMPILED):
        env[_COMPILED[0]] = COMPILED  # read at the first convolution
    if is_true(env.get(_FAST)) and find_spec("hf_transfer") is None:
        given, env[_FAST] = env[_FAST], "0"
        return [f"{_FAST}={given} is ignored: the package hf_transfer is not installed (transfers work without it)"]
    return []


def is_true(value: str | None) -> bool:
    """Whether huggingface_hub and transformers read an environment variable's text as true."""
    return (value or "").strip().lower() in TRUE


def drop_locale(env: dict[str, str]) -> list[str]:
    """Remove the system's LANGUAGE (gettext's, such as `en_GB:en`) from `env`; warn when it could be either."""
    given = env.get("LANGUAGE", "")
    alone = re.fullmatch(r"[a-z]{2,3}_[A-Z]{2}", given)
    if names.is_locale(given, env):
        del env["LANGUAGE"]
        return [f"LANGUAGE={given} is ignored: it is the system's locale; write a language by name"] if alone else []
    return [f"LANGUAGE={given} is used as the language of the recordings"] if alone else []
