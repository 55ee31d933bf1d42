"""Training: frames a second and peak memory, against `naive.py` in the same process, on the same data and model.

    python benchmarks/train.py [--runs 5] [--rows 24] [--device cuda]
    python benchmarks/train.py --flops

On a CPU: 8 layers of width 512, clips of log-normal lengths from 0.5 to 20 s, BATCH_SIZE and everything else at its
default, in fp32 and, where the CPU has instructions for it (AMX), in bf16 autocast, which is what MIXED_PRECISION=auto
takes on a GPU; both loops in the same. A step is what the training loop does: collate, forward, backward, clip, AdamW.
Medians over the runs (each over all rows), the loops taking turns; each has a model of its own, of the same weights.
Each run is another epoch, so that its batches have other shapes: the same ones again would hide what kernels take that
are planned for a shape.
With a CUDA device: the shapes of the 1.7B model (`--size`) with random weights in bf16 autocast, batches of 8192
positions (the naive loop's are halved until they fit), the model FLOP utilization (MFU), also with TORCH_COMPILE, rate
and peak of LoRA training for both released sizes with each GRADIENT_CHECKPOINTING, and beside every peak what `plan`
would have said.

Peak memory is taken in a process of its own for each figure. CPU: highest resident size of the process less its size
after the imports, so model, optimizer and activations. CUDA: `torch.cuda.max_memory_allocated`.

FLOPs of a step are counted as in `job/estimate/flops.py`, everything trained: three times the forward pass. `--flops`
prints them for the released shapes, a frame, and the seconds an H100 would take for an hour of speech if it did nothing
else: the floor.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from loops import PEAK_FLOPS, TOKENS_ON_GPU, base_in, make, peak_flops, work_of

from job.config.settings import Settings
from job.loss import layout


def alone(work: Path, options: argparse.Namespace) -> None:
    """Measure one loop and print a JSON line; run in a process of its own."""
    import qwen_tts  # noqa: F401  # what it takes is no part of the figure

    device = torch.device(options.device)
    peak_of = common.Peak(device)
    bench = make(work, options.size, options.rows, settings_of(options, options.precision), device)
    found: dict[str, Any] = {}
    if options.loop == "naive":
        found["batch"] = bench.naive_batch_size()
        epoch = bench.naive(found["batch"])
        while not _fits(epoch) and found["batch"] > 1:
            found["batch"] //= 2
            epoch = bench.naive(found["batch"])
    else:
        epoch = ours = bench.ours(options.fraction, options.loop)
        ours()
        if device.type == "cuda":
            found["estimate"] = ours.estimate()
    found["bytes"] = peak_of.bytes()
    if options.runs:
        found["seconds"] = common.compare({"loop": epoch}, options.runs, device)["loop"]
        found["frames"], found["flops"] = bench.frames, bench.flops(options.fraction)
    print(json.dumps(found))


def settings_of(options: argparse.Namespace, precision: Any) -> Settings:
    """Default settings but for what the command line says."""
    return Settings(
        optimizer=options.optimizer,
        master_weights=options.master_weights,
        mixed_precision=precision,
        gradient_checkpointing=options.checkpointing,
        torch_compile=options.compile,
    )


def precisions(options: argparse.Namespace) -> list[str]:
    """MIXED_PRECISION of the cases on a CPU: what was asked for, else fp32, and bf16 where the CPU has AMX."""
    if options.precision != "auto":
        return [options.precision]
    return ["no", "bf16"] if torch.cpu._is_amx_tile_supported() else ["no"]  # type: ignore[attr-defined]  # no public one


def _fits(epoch: Callable[[], Any]) -> bool:
    try:
        epoch()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # the peak is to be of what fits
        return False
    return True


def measured(
    work: Path,
    loop: str,
    fraction: float,
    options: argparse.Namespace,
    *,
    precision: str = "auto",
    checkpointing: str | None = None,
    compiled: bool = False,
    runs: int = 0,
    size: str | None = None,
) -> dict[str, Any]:
    """What `alone` found for `naive`, or for ours in mode `full` or `lora`: bytes, and seconds if there are runs."""
    arguments = ["--loop", loop, "--fraction", str(fraction), "--rows", str(options.rows), "--runs", str(runs)]
    arguments += ["--work", str(work), "--optimizer", options.optimizer, "--device", options.device]
    arguments += ["--precision", precision, "--master-weights", options.master_weights]
    arguments += ["--checkpointing", checkpointing or options.checkpointing]
    arguments += ["--compile"] if compiled or options.compile else []
    return common.in_a_process(__file__, *arguments, "--size", size or options.size)


def cases(options: argparse.Namespace) -> dict[str, float]:
    """Name of a case -> share of the frames."""
    default = Settings().sub_talker_frame_fraction
    named = "" if options.optimizer == Settings().optimizer else f", OPTIMIZER={options.optimizer}"
    found = {f"train, default settings{named}": default}
    others = [fraction for fraction in (1.0, 0.25) if fraction != default]
    return found | {f"train, SUB_TALKER_FRAME_FRACTION={fraction:g}{named}": fraction for fraction in others}


def on_cpu(work: Path, options: argparse.Namespace, precision: str) -> None:
    """Rates of all loops, which take turns, and their peaks."""
    fractions = cases(options)
    sizes = {
        name: measured(work, "full", fraction, options, precision=precision)["bytes"]
        for name, fraction in fractions.items()
    }
    sizes["naive"] = measured(work, "naive", 1.0, options, precision=precision)["bytes"]
    device = torch.device("cpu")
    bench = make(work, options.size, options.rows, settings_of(options, precision), device, both=True)
    bench.same_loss()
    loops: dict[str, Callable[[], Any]] = {name: bench.ours(fraction) for name, fraction in fractions.items()}
    loops["naive"] = bench.naive(bench.naive_batch_size())
    seconds = common.compare(loops, options.runs, device)
    for name, fraction in fractions.items():
        common.print_case(
            f"{name}, {'bf16' if bench.bf16 else 'fp32'}", f"cpu, {torch.get_num_threads()} threads",
            bench.frames / seconds[name], bench.frames / seconds["naive"],
            flops_per_frame=round(bench.flops(fraction) / bench.frames),
            peak_memory={"ours": sizes[name], "naive": sizes["naive"]},
        )  # fmt: skip


def on_gpu(work: Path, options: argparse.Namespace) -> None:
    """Rates, model FLOP utilization and peaks; one loop at a time has the GPU for itself."""
    device = torch.cuda.get_device_name()
    known = peak_flops(device)
    theirs = measured(work, "naive", 1.0, options, runs=options.runs)
    todo = [(name, fraction, options.compile) for name, fraction in cases(options).items()]
    if not options.compile:
        todo.insert(1, (f"{todo[0][0]}, TORCH_COMPILE=true", todo[0][1], True))
    for name, fraction, compiled in todo:
        ours = measured(work, "full", fraction, options, compiled=compiled, runs=options.runs)
        common.print_case(
            f"{name}, {options.size}", device,
            ours["frames"] / ours["seconds"], theirs["frames"] / theirs["seconds"],
            flops_per_frame=round(ours["flops"] / ours["frames"]),
            mfu=round(ours["flops"] / ours["seconds"] / known, 4) if known else None,
            naive_batch=theirs["batch"],
            peak_memory={"ours": ours["bytes"], "naive": theirs["bytes"], "estimate": ours["estimate"]},
        )  # fmt: skip
    default = Settings().sub_talker_frame_fraction
    for size in common.RELEASED:
        for checkpointing in ("false", "selective", "true"):
            found = measured(work, "lora", default, options, checkpointing=checkpointing, runs=1, size=size)
            case = f"{size} LoRA, {TOKENS_ON_GPU} tokens, GRADIENT_CHECKPOINTING={checkpointing}"
            memory = {"ours": found["bytes"], "estimate": found["estimate"]}
            rate = round(found["frames"] / found["seconds"], 2)
            print(json.dumps({"case": case, "device": device, "ours": rate, "peak_memory": memory}), flush=True)


def floor(work: Path, options: argparse.Namespace) -> None:
    """FLOPs a frame of the released shapes on the benchmark's lengths, and what an H100 needs for them at the least."""
    peak = PEAK_FLOPS["H100"]
    base = base_in(work)
    for size in common.RELEASED:
        of_model = work_of(common.released_model(size, base, torch.device("meta")))
        for fraction in sorted({1.0, 0.25, Settings().sub_talker_frame_fraction}):
            total = frames = 0.0
            for seconds in common.seconds_of_clips(options.rows):
                own = int(np.ceil(seconds * common.FRAME_RATE))
                text = max(2, round(4 * seconds))  # as `table_of` makes them
                positions = own + layout.positions_around(text + 8, streaming=False, named_language=False)
                total, frames = total + of_model.of_sample(positions, own, fraction), frames + own
            a_frame = total / frames
            hour = 3600 * common.FRAME_RATE * a_frame / peak
            print(json.dumps({
                "case": f"flops, {size}, full fine-tuning, SUB_TALKER_FRAME_FRACTION={fraction:g}",
                "flops_per_frame": round(a_frame), "h100_seconds_per_hour_of_speech": round(hour, 2),
            }))  # fmt: skip


def main() -> None:
    """Print the cases as JSON lines."""
    on_a_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=512 if on_a_gpu else 24)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if on_a_gpu else "cpu")
    parser.add_argument("--size", choices=sorted(common.RELEASED), default="1.7B", help="shapes on a GPU")
    kinds = ("adamw", "adamw_fused", "adamw_8bit")
    parser.add_argument("--optimizer", choices=kinds, default=Settings().optimizer, help="of ours")
    parser.add_argument("--precision", choices=("auto", "no", "bf16"), default="auto", help="MIXED_PRECISION of both")
    parser.add_argument("--checkpointing", choices=("false", "selective", "true"), default="false", help="of ours")
    kept = ("fp32", "bf16_with_fp32", "bf16_stochastic")
    parser.add_argument("--master-weights", choices=kept, default="fp32", help="of ours")
    parser.add_argument(
        "--compile", action="store_true", help="TORCH_COMPILE of ours; on a GPU the default has it as a case"
    )
    parser.add_argument("--work", type=Path, help="keep the base directory here")
    parser.add_argument("--flops", action="store_true", help="only count, for the released shapes")
    parser.add_argument("--loop", choices=("full", "lora", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--fraction", type=float, default=1.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(min(2, os.cpu_count() or 1))
    if options.loop:
        alone(options.work, options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        if options.flops or options.device == "cuda":
            (floor if options.flops else on_gpu)(work, options)
            return
        for precision in precisions(options):
            on_cpu(work, options, precision)


if __name__ == "__main__":
    main()
