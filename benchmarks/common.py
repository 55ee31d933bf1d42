"""What the benchmarks share: a model, data, timing and memory."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from job.config import surroundings  # noqa: E402

surroundings.settle(os.environ)  # as in the job, before torch is imported

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402

#: Shapes of the released models: talker, sub-talker, text channel.
RELEASED = {
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072},
}
#: The same architecture for a CPU, with talker and sub-talker in the proportion of the 1.7B model.
SMALL = {
    "hidden_size": 512,
    "text_hidden_size": 768,
    "layers": 8,
    "heads": 8,
    "key_value_heads": 4,
    "head_dim": 64,
    "sub_talker_hidden_size": 256,
    "sub_talker_layers": 2,
}
FRAME_RATE = 12.5


def small_base(directory: Path) -> Path:
    """A base directory of the `SMALL` shape."""
    from job.demo.base import build

    return build(directory, **SMALL, size="benchmark")  # type: ignore[arg-type]


def released_config(name: str, directory: Path) -> Any:
    """The configuration of a released shape. `directory` holds any base."""
    from qwen_tts.core.models import Qwen3TTSConfig

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    common = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    talker = config["talker_config"]
    talker.update(common, **RELEASED[name], num_hidden_layers=28, text_vocab_size=151936, text_hidden_size=2048)
    talker["rope_scaling"]["mrope_section"] = [24, 20, 20]
    talker["code_predictor_config"].update(
        common, hidden_size=1024, intermediate_size=3072, num_hidden_layers=5, layer_types=["full_attention"] * 5
    )
    config["speaker_encoder_config"].update(
        enc_dim=talker["hidden_size"],
        enc_channels=[512, 512, 512, 512, 1536],
        enc_attention_channels=128,
        enc_se_channels=128,
    )
    return Qwen3TTSConfig(**config)


def released_model(name: str, directory: Path, device: torch.device) -> Any:
    """A model of a released shape with random weights in fp32, made on `device`. `directory` holds any base."""
    from qwen_tts.core.models import Qwen3TTSForConditionalGeneration

    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3TTSForConditionalGeneration._from_config(
            released_config(name, directory), attn_implementation="sdpa", dtype=torch.float32
        )


def seconds_of_clips(count: int, seed: int = 0) -> np.ndarray:
    """Lengths of speech clips: log-normal around 4 s, cut to 0.5 to 20 s."""
    random = np.random.default_rng(seed)
    return np.clip(random.lognormal(np.log(4.0), 0.7, count), 0.5, 20.0)


def table_of(count: int, *, codebooks: int = 16, seed: int = 0) -> pa.Table:
    """Prepared rows with random codes; about four text tokens a second, as English has in the released tokenizer."""
    random = np.random.default_rng([seed, 1])
    rows = []
    for seconds in seconds_of_clips(count, seed):
        letters = random.integers(ord("a"), ord("z") + 1, max(2, round(4 * seconds)))
        codes = random.integers(0, 2048, (int(np.ceil(seconds * FRAME_RATE)), codebooks))
        text = bytes(letters.tolist()).decode()
        rows.append({"text": text, "speaker": "one", "language": "auto", "instruct": None, "codes": codes.tolist()})
    kinds = [pa.field(name, pa.string()) for name in ("text", "speaker", "language", "instruct")]
    schema = pa.schema([*kinds, pa.field("codes", pa.list_(pa.list_(pa.int16(), codebooks)))])
    return pa.Table.from_pylist(rows, schema=schema)


def tokenizer_of(directory: Path) -> Callable[[list[str]], Any]:
    """The base directory's tokenizer as `job.loss.rows.Rows` takes it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    return lambda texts: tokenizer(texts)["input_ids"] if texts else []


def synchronize(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_in(function: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock seconds of one call."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def compare(functions: dict[str, Callable[[], Any]], runs: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each function over `runs`, after one that does not count; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(runs + 1):
        for name, function in functions.items():
            seconds = seconds_in(function, device)
            if run:
                taken[name].append(seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


class Peak:
    """Peak memory above what was in use when this was made: of the GPU's tensors, else of the whole process.

    A process's peak cannot be taken back, so each measurement needs a process of its own (`in_a_process`).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = resident()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return highest() - self._before


def highest() -> int:
    """Bytes of this process that were in memory at its highest.

    On Linux `ru_maxrss` would not do: a process begins with its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def in_a_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder; returns the JSON object on its last line of output."""
    command = [sys.executable, str(Path(script).resolve()), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def print_case(case: str, device: str, ours: float, naive: float, **more: Any) -> None:
    """One JSON line. `ours` and `naive` are rates: more is better."""
    line = {"case": case, "device": device, "ours": round(ours, 2), "naive": round(naive, 2)}
    print(json.dumps({**line, "ratio": round(ours / naive, 3), **more}), flush=True)
