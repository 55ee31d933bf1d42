"""Training: frames a second and peak memory, against `naive.py` in the same process, on the same data and model.

    python benchmarks/train.py [--runs 5] [--rows 24] [--device cuda]
    python benchmarks/train.py --flops

On a CPU: 8 layers of width 512, clips of log-normal lengths from 0.5 to 20 s, BATCH_SIZE and everything else at its
default, in fp32 and, where the CPU has instructions for it (AMX), in bf16 autocast, which is what MIXED_PRECISION=auto
takes on a GPU; both loops in the same. A step is what the training loop does: collate, forward, backward, clip, AdamW.
Medians over the runs (each over all rows), the loops taking turns; each has a model of its own, of the same weights.
With a CUDA device: the shapes of the 1.7B model (`--size`) with random weights in bf16 autocast, batches of 8192
positions (the naive loop's are halved until they fit), the model FLOP utilization (MFU), also with TORCH_COMPILE, rate
and peak of LoRA training for both released sizes with each GRADIENT_CHECKPOINTING, and beside every peak what `plan`
would have said.

Peak memory is taken in a process of its own for each figure. CPU: highest resident size of the process less its size
after the imports, so model, optimizer and activations. CUDA: `torch.cuda.max_memory_allocated`.

FLOPs of a step are counted as in `job/flops.py`, everything trained: three times the forward pass. `--flops` prints
them for the released shapes, a frame, and the seconds an H100 would take for an hour of speech if it did nothing else:
the floor.
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
import naive
import numpy as np
import torch

from job import activations
from job.activations import Load
from job.demo import clips_directory
from job.flops import Work
from job.models import resolve_precision
from job.optimizers import trained_bytes
from job.settings import Settings
from job.train import adapt, layout, optimizers, setup
from job.train.batch import Batch
from job.train.data import Rows, ahead, epoch_order
from job.train.objective import Objective
from job.train.update import Update

#: Dense bf16 FLOP/s of a GPU's data sheet, by a part of its name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
TOKENS_ON_GPU = 8192


class Bench:
    """One model, its rows, and a way to go through all rows once."""

    def __init__(
        self, base: Path, model: Any, rows: int, device: torch.device, settings: Settings, stock: Any = None
    ) -> None:
        """`stock` is what the naive loop trains: the same weights, its layers' code untouched by ours."""
        self.base, self.model, self.device = base, model, device
        self.bf16 = resolve_precision(settings, device) == "bf16"
        self.products = work_of(model)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.stock = model if stock is None else stock
        width = model.config.talker_config.hidden_size
        self.speaker = np.zeros(width, dtype=np.float32)
        self.rows = Rows(
            common.table_of(rows),
            layout.SpecialIds.from_config(model.config.to_dict()),
            common.tokenizer_of(base),
            {"one": self.speaker},
            text_layout="non_streaming",
        )
        self.frames = int(self.rows.frames.sum())
        self.settings = settings
        self.reference = max(clips_directory().glob("*.flac"), key=lambda path: path.stat().st_size)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def ours(self, fraction: float, mode: str = "full") -> Callable[[], float]:
        """Our loop over all rows; returns the last step's loss."""
        groups = self._adapted(mode)
        trained = [p for group in groups for _, p in group.parameters]
        objective = Objective(self.model)
        optimizer = optimizers.optimizer_of(self.settings, groups)
        update = Update(optimizer, self.settings.max_grad_norm)
        tokens = TOKENS_ON_GPU if self.device.type == "cuda" else None

        def epoch() -> float:
            objective.train()
            self._train_only(trained)
            batch_size = self.settings.batch_size
            order = epoch_order(self.rows, epoch=0, seed=0, batch_size=batch_size, tokens_per_batch=tokens)
            for _, batch in ahead(order, lambda numbers: self._built(numbers, fraction)):
                with self._autocast():
                    losses = objective(batch.to(self.device))
                    talker = losses.talker / losses.talker_terms
                    loss = talker + self.settings.sub_talker_loss_weight * losses.sub_talker / losses.sub_talker_terms
                loss.backward()
                update(trained, loss.detach())
                optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())

        return epoch

    def naive(self, batch_size: int) -> Callable[[], float]:
        """The naive loop over all rows."""
        objective = naive.NaiveObjective(self.stock)
        trained = list(self.stock.parameters())
        optimizer = torch.optim.AdamW(trained, lr=1e-5)

        def epoch() -> float:
            objective.train()
            for batch in naive.loader(self.rows, self.reference, batch_size, seed=0):
                with self._autocast():
                    talker, sub_talker = objective({k: v.to(self.device) for k, v in batch.items()})
                    loss = talker + self.settings.sub_talker_loss_weight * sub_talker
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, self.settings.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())

        return epoch

    def _built(self, numbers: list[int], fraction: float) -> Batch:
        """As `Stepper.build` makes it, in a thread of its own."""
        batch = self.rows.batch(numbers, 0, fraction)
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def naive_batch_size(self) -> int:
        """As many clips as our batches hold on average."""
        if self.device.type != "cuda":
            return self.settings.batch_size
        lengths = [self.rows.positions(row, 0) for row in range(len(self.rows))]
        return max(1, round(TOKENS_ON_GPU / float(np.mean(lengths))))

    def _adapted(self, mode: str) -> list[adapt.Group]:
        settings = self.settings.model_copy(update={"train_mode": mode})
        groups = adapt.adapt(self.model, settings)
        setup.arrange(self.model, settings, "bf16" if self.bf16 else "no", self.device, self._autocast)
        return groups

    def estimate(self, fraction: float, mode: str) -> int:
        """Bytes that `plan` would say for a loop that was made, without what CUDA takes for itself."""
        order = epoch_order(self.rows, epoch=0, seed=0, batch_size=1, tokens_per_batch=TOKENS_ON_GPU)
        batch = max((self.rows.batch(rows, 0) for rows in order), key=lambda batch: batch.text_index.numel())
        load = Load(batch.text_index.numel(), batch.target_frames, len(batch.lengths or ()), len(batch.text_rows))
        choices = {"train_mode": mode, "sub_talker_frame_fraction": fraction}
        settings = self.settings.model_copy(update=choices)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        gradients = sum(p.numel() * p.element_size() for p in trained)
        # `trained_bytes` counts the weight and its gradient too, which are of the same type.
        moments = sum(p.numel() for p in trained) * trained_bytes(settings) - 2 * gradients
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        working = activations.working(self.shapes, settings, load, gradients)
        return int(weights + moments) + working.peak + working.in_kernels

    def _train_only(self, trained: list[torch.nn.Parameter]) -> None:
        """The loops share the model and take turns: what the other one trains is frozen again."""
        mine = {id(parameter) for parameter in trained}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in mine)

    def flops(self, fraction: float) -> float:
        """FLOPs of going through all rows once with everything trained; see the module's docstring."""
        total = 0.0
        for row in range(len(self.rows)):
            frames = int(self.rows.frames[row])
            total += self.products.of_sample(self.rows.positions(row, 0), frames, fraction)
        return total

    def same_loss(self) -> None:
        """Both loops compute the same quantity, on the same samples.

        Raises:
            AssertionError: they do not.
        """
        numbers = list(range(min(4, len(self.rows))))
        samples = naive.Samples(self.rows, self.reference)
        batch = naive.collate([samples[row] for row in numbers])
        with torch.no_grad():
            vectors = self.stock.speaker_encoder(batch["mels"].to(self.device)).cpu().numpy()
            theirs = naive.NaiveObjective(self.stock)({k: v.to(self.device) for k, v in batch.items()})
        self.speaker[:] = vectors[0]  # the same reference stands for all
        with torch.no_grad():
            losses = Objective(self.model)(self.rows.batch(numbers, 0).to(self.device))
        ours = (losses.talker / losses.talker_terms, losses.sub_talker / losses.sub_talker_terms)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=0)


def work_of(model: Any) -> Work:
    """What a forward pass of the model multiplies."""
    return Work.of({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})


def make(
    work: Path, size: str, rows: int, settings: Settings, device: torch.device | None = None, *, both: bool = False
) -> Bench:
    """The model and data of a case, a model for each loop if `both`; `work` keeps the base directory."""
    from job.models import load_model

    device = device or torch.device("cpu")
    base = base_in(work)
    if device.type == "cuda":  # one loop after the other, each in a process of its own
        return Bench(base, common.released_model(size, base, device), rows, device, settings)
    models: list[Any] = [load_model(base, device, torch.float32).model for _ in range(2 if both else 1)]
    for model in models:
        model.speech_tokenizer = None
    return Bench(base, models[0], rows, device, settings, models[-1])


def base_in(work: Path) -> Path:
    """Any base directory, made in `work` if it is not there."""
    base = work / "base"
    return base if base.exists() else common.small_base(base)


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
        epoch = bench.ours(options.fraction, options.loop)
        epoch()
        if device.type == "cuda":
            found["estimate"] = bench.estimate(options.fraction, options.loop)
    found["bytes"] = peak_of.bytes()
    if options.runs:
        found["seconds"] = common.compare({"loop": epoch}, options.runs, device)["loop"]
        found["frames"], found["flops"] = bench.frames, bench.flops(options.fraction)
    print(json.dumps(found))


def settings_of(options: argparse.Namespace, precision: str) -> Settings:
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
    known = next((peak for part, peak in PEAK_FLOPS.items() if part in device), None)
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
    parser.add_argument("--master-weights", choices=("fp32", "bf16_stochastic"), default="fp32", help="of ours")
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
