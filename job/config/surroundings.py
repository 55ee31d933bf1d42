"""Variables of libraries that are mended before the library is imported, which would fail at them or crawl.

`huggingface_hub`, `datasets`, OpenMP and CUDA read the environment by themselves, some of it while they are imported.
What else of the environment would end a run late is refused by `job.environment_check`.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

from job.core import cpus
from job.core.errors import BadInput

#: Read while huggingface_hub or datasets is imported, which fails at any other text.
_NUMBERS = {
    "HF_HUB_ETAG_TIMEOUT": int,
    "HF_HUB_DOWNLOAD_TIMEOUT": int,
    "HF_HUB_LOCAL_DIR_AUTO_SYMLINK_THRESHOLD": int,
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": float,
}
#: A blank one of these is taken for an address, a directory or a number; here it is the same as none, as elsewhere.
_BLANK_IS_NONE = re.compile(r"(HF|HUGGINGFACE|TRANSFORMERS|WANDB)_\w+|XDG_CACHE_HOME|TMPDIR|\w+_CACHE_DIR")
#: What huggingface_hub and transformers take for true.
TRUE = ("1", "on", "yes", "true")
_FAST = "HF_HUB_ENABLE_HF_TRANSFER"
#: Torch reads the settings of its allocator from the first of these that is set, when a GPU is first used.
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
#: How many threads OpenMP, and so torch, computes with.
_THREADS = "OMP_NUM_THREADS"
#: How its threads wait for one another. OpenMP's own 300,000 turns take milliseconds in which nobody else has the core:
#: two small runs at once on two cores took twenty times as long as one, with 1,000 twice as long.
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPINS = "1000"


def settle(env: dict[str, str]) -> list[str]:
    """Mend in `env` what can be, and refuse what a library fails at while it is imported. Fast: every command does it.

    Returns:
        Lines that say what was mended.

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
        # Batches differ in length: without it, memory in pieces of other sizes is there and cannot be used.
        env[_ALLOCATOR[0]] = "expandable_segments:True"
    granted = cpus.limit()
    if granted and not env.get(_THREADS, "").strip():
        env[_THREADS] = str(granted)  # read when torch is imported
    if not any(env.get(name, "").strip() for name in _WAITING):
        env[_WAITING[0]] = SPINS  # likewise
    if is_true(env.get(_FAST)) and find_spec("hf_transfer") is None:
        given, env[_FAST] = env[_FAST], "0"
        return [f"{_FAST}={given} is left aside: the package hf_transfer is not installed (transfers work without it)"]
    return []


def is_true(value: str | None) -> bool:
    """Whether huggingface_hub and transformers take an environment variable's text for true."""
    return (value or "").strip().lower() in TRUE
