"""Synthesis: frames a second of eight texts said together, against stock `generate` at the same batch.

    python benchmarks/synthesis.py [--runs 5] [--frames 40] [--device cpu]

Both loops speak from the same checkpoint (loaded once for each, since ours rearranges weights in memory) in one
process, taking turns, the end token out of reach, so that both say the same forced number of frames; the codec, which
is the same code for both, is left out. On a CPU: the built-in shape (where `generate`'s own work dominates) and 8
layers of width 512 (where reading the weights does), fp32. On a GPU: random weights of the released shapes in bf16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import torch

from job.core.cpus import available, limit
from job.generation.recorder import quiet_generation
from job.generation.talker import FastTalker, generating

BATCH, WIDTHS = 8, (4, 40)  # texts, and the fewest and most tokens of one


def models(work: Path, shape: str, device: torch.device) -> list[Any]:
    """The same model twice, as custom-voice checkpoints are loaded, without the codec."""
    from job.demo.base import build
    from job.model.loading import load_model

    if shape in common.RELEASED:
        base = common.small_base(work / "base") if not (work / "base").exists() else work / "base"
        return [common.released_model(shape, base, device).bfloat16().eval() for _ in range(2)]
    wide = shape == "8 layers of 512"
    base = work / ("wide" if wide else "demo")
    if not base.exists():
        (common.small_base if wide else build)(base)
    return [load_model(base, device, torch.float32).model for _ in range(2)]


def prompts(model: Any, batch: int = BATCH) -> dict[str, Any]:
    """Arguments of the model's `generate` for `batch` texts of different lengths."""
    made = torch.Generator().manual_seed(0)
    talker = model.config.talker_config
    talker.spk_id, talker.spk_is_dialect = {"one": talker.vocab_size - 1}, {"one": False}
    rows = min(1000, talker.text_vocab_size)
    lengths = torch.linspace(*WIDTHS, batch).round().int().tolist()
    ids = [torch.randint(0, rows, (1, 8 + n), generator=made).to(model.device) for n in lengths]
    return {"input_ids": ids, "languages": ["auto"] * batch, "speakers": ["one"] * batch, "non_streaming_mode": True}


def measure(work: Path, shape: str, options: argparse.Namespace, device: torch.device) -> None:
    """Print the cases of a shape, greedy and drawn."""
    stock, other = models(work, shape, device)
    for model in (stock, other):
        end = model.config.talker_config.codec_eos_token_id
        with torch.no_grad():
            model.talker.codec_head.weight[end] = 0  # of 3072 logits around zero it is hardly ever the largest
    fast = FastTalker(other.talker)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    for case, drawn in (("greedy", False), ("drawn", True)):
        said: dict[str, int] = {}

        def say(which: str, model: Any, by: FastTalker | None, sample: bool, said: dict[str, int]) -> Callable[[], Any]:
            def run() -> None:
                torch.manual_seed(0)
                with quiet_generation(), generating(SimpleNamespace(model=model), by):  # type: ignore[arg-type]
                    codes, _ = model.generate(
                        **prompts(model),
                        max_new_tokens=options.frames + 1,
                        do_sample=sample,
                        subtalker_dosample=sample,
                    )
                said[which] = sum(len(one) for one in codes)

            return run

        loops = {
            "ours": say("ours", other, fast, drawn, said),
            "naive": say("naive", stock, None, drawn, said),
        }
        seconds = common.compare(loops, options.runs, device)
        # A text that ended early is said to the end of the batch by both, so what counts is the batch's frames.
        frames = BATCH * options.frames
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        common.print_case(
            f"synthesis, {shape}, batch of {BATCH}, {case}", name,
            frames / seconds["ours"], frames / seconds["naive"],
            frames_said={"ours": said["ours"], "naive": said["naive"]}, peak_memory=peak,
        )  # fmt: skip


def main() -> None:
    """Print the cases as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--threads", type=int, default=min(2, limit() or available()), help="of a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    shapes = tuple(common.RELEASED) if device.type == "cuda" else ("built-in", "8 layers of 512")
    with tempfile.TemporaryDirectory() as work:
        for shape in shapes:
            measure(Path(work), shape, options, device)


if __name__ == "__main__":
    main()
