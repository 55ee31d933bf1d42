"""What the host takes for a step of training, without a GPU: computing is next to nothing here, launching is all.

A model as deep as the released ones (28 and 5 layers) and 16 wide, one clip of four frames, one thread: nearly all of
the time goes into Python, autograd and the dispatch of operations, of which a GPU's host does as many. (With wider
layers a CPU without instructions for bf16 is busy with products.) Milliseconds are this machine's; what carries over
is how ways of computing compare. They take turns, and each is a JSON line: its CPU time, and that against the first
one's, the median over the turns.

The ways are the kinds of activation checkpointing; with `--adapters`, LoRA's products by the job and by peft.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import common
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from job import fast
from job.config.settings import Settings
from job.loss.objective import Objective
from job.train import adapt, setup
from tests.support import memory

SHAPE: dict[str, Any] = {
    "width": 16, "text_width": 16, "layers": 28, "heads": 2, "groups": 2, "head": 8, "inner": 16, "sub_width": 16,
    "sub_layers": 5,
}  # fmt: skip
FRAMES = 4
KINDS: dict[str, bool | Literal["selective"]] = {"false": False, "selective": "selective", "true": True}


def objective_of(config: Any, settings: Settings, pefts: bool = False) -> Objective:
    """The job's objective over a model with random weights, adapted and made fast as the settings say.

    Args:
        pefts: adapted layers compute by peft's own code.
    """
    from qwen_tts.core.models import Qwen3TTSForConditionalGeneration

    torch.manual_seed(0)
    model = Qwen3TTSForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    adapt.adapt(model, settings)
    lowered = settings.mixed_precision == "bf16" and settings.train_mode != "full"
    if lowered or settings.master_weights != "fp32":
        setup.lower_weights(model, settings.master_weights != "fp32")
    fast.apply(model, settings, torch.device("cpu"), settings.mixed_precision)
    for module in model.modules():
        if pefts and hasattr(module, "lora_A"):
            vars(module).pop("forward", None)
    return Objective(model).train()


def step(objective: Objective, batch: Any, bf16: bool) -> float:
    """Forward and backward pass; returns seconds of CPU time."""
    before = time.process_time()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        losses = objective(batch)
    (losses.talker / losses.talker_terms + losses.sub_talker / losses.sub_talker_terms).backward()
    taken = time.process_time() - before
    objective.zero_grad(set_to_none=True)
    return taken


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("full", "lora"), default="lora")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--master-weights", choices=("fp32", "bf16_with_fp32"), default="fp32")
    parser.add_argument("--adapters", action="store_true", help="of --mode lora, by the job and by peft")
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        config = memory.config_of(common.small_base(Path(work) / "base"), **SHAPE)
    batch, _ = memory.batch_of(config, [FRAMES])
    chosen = {"mixed_precision": options.precision, "master_weights": options.master_weights}
    if options.adapters:
        settings = Settings(train_mode="lora", **chosen)
        ways = {f"adapters by {who}": objective_of(config, settings, who == "peft") for who in ("the job", "peft")}
    else:
        ways = {
            f"GRADIENT_CHECKPOINTING={name}": objective_of(
                config, Settings(train_mode=options.mode, gradient_checkpointing=kind, **chosen)
            )
            for name, kind in KINDS.items()
        }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(options.runs + 1):
        for name, objective in ways.items():
            once = step(objective, batch, options.precision == "bf16")
            if run:  # the first one allocates
                seconds[name].append(once)
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(taken, first, strict=True))
        case = f"host, {options.mode}, {options.precision}, {name}"
        ms = round(1e3 * statistics.median(taken))
        print(json.dumps({"case": case, "device": "cpu", "ms": ms, "times the first": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    main()
