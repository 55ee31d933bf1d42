"""`make gpu-check` without a GPU: it says what is right, what is wrong and what was not done, whatever a case does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
BROKEN = Path(__file__).with_name("broken_cases.py")
RANKS = Path(__file__).with_name("rank_cases.py")


class Checked:
    """A run of the script: its exit code, its JSON lines by case, and what it said after them."""

    def __init__(self, out: Path, *arguments: str) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
        command = [
            sys.executable,
            str(TOP / "benchmarks/gpu_check.py"),
            "--device",
            "cpu",
            "--out",
            str(out),
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=out.parent, env=kept)
        self.code, self.err = done.returncode, done.stderr
        lines = done.stdout.splitlines()
        self.lines: dict[str, Any] = {}
        for line in lines:
            if line.startswith("{"):
                found = json.loads(line)
                self.lines[found["case"]] = found
        self.said = "\n".join(line for line in lines if not line.startswith("{"))
        self.kept = [json.loads(line) for line in (out / "cases.jsonl").read_text().splitlines()]
        self.log = (out / "log.txt").read_text()

    def results(self) -> dict[str, str]:
        return {name: line["result"] for name, line in self.lines.items()}


def test_the_variables_of_the_users_own_runs_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A `.env` in the checkout names a voice, which the check must neither train over nor publish."""
    import torch

    monkeypatch.syspath_prepend(str(TOP / "benchmarks"))
    from gpu.case import Context

    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"OUTPUT_DIR={tmp_path}/voice\nHF_REPO_ID=me/voice\nHF_TOKEN=hf_x\nTRACKERS=wandb\n")
    (tmp_path / "checked").mkdir()
    context = Context(torch.device("cpu"), True, tmp_path / "checked", 0.0)
    settings = context.settings({"PRESET": "demo", "WORK_DIR": str(tmp_path / "checked/work")})
    assert settings.paths.output.is_relative_to(tmp_path / "checked")
    assert settings.hf_repo_id is None and settings.token is None and settings.trackers == "jsonl"


@pytest.mark.slow
def test_a_case_that_breaks_fails_and_the_others_go_on(tmp_path: Path):
    """Raising, hanging, killed, or with a figure that is wrong or none: each by its own reason, and exit code 1."""
    found = Checked(tmp_path / "out", "--cases", str(BROKEN), "--only", "^broken|^sound|^kernels|^optimizers")
    assert found.code == 1, found.err
    assert found.results() == {
        "broken, raises, first half": "passed",
        "broken, raises": "failed",
        "broken, wrong number": "failed",
        "broken, not a number": "failed",
        "broken, hangs": "failed",
        "broken, dies": "failed",
        "broken, nothing": "failed",
        "sound, missing": "not done",
        "sound, GPUs": "not done",
        "sound, after all others": "passed",
        "sound, as rounded": "passed",
        # What a GPU is asked as well, by the same code.
        **dict.fromkeys(("kernels, norms", "kernels, adapters", "optimizers"), "passed"),
    }
    reasons = {name: line["reason"] for name, line in found.lines.items()}
    assert reasons["broken, raises"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert reasons["broken, wrong number"] == "off is 0.3, more than 0.02"
    assert "off is -1" in reasons["broken, not a number"]
    assert reasons["broken, hangs"] == "took longer than 1 s and was ended"
    assert "SIGKILL" in reasons["broken, dies"]
    assert reasons["sound, missing"] == "there is no such thing here"
    assert reasons["sound, GPUs"] == "takes 2 GPUs, and there is none"
    assert found.lines["broken, wrong number"]["rate"] == 12.0
    assert 0 < found.lines["sound, as rounded"]["off in the mean, fp32 from rounded weights"] < 0.1
    assert found.kept == list(found.lines.values())
    assert "and what that means" in found.log and "Traceback" in found.log
    *_, verdict = found.said.splitlines()
    assert verdict == "verdict: FAILED"
    assert "failed: 6\n" in found.said and "not done: 2\n" in found.said
    assert found.said.count("not judged: there is no GPU") == 6
    table = found.said[: found.said.index("aims:")]
    assert all(f"\n{name} " in table for name in found.lines)


@pytest.mark.slow
def test_what_there_is_no_time_for_is_listed(tmp_path: Path):
    """And with nothing done, nothing is proven."""
    found = Checked(tmp_path / "out", "--cases", str(BROKEN), "--minutes", "0", "--only", "^broken, d|^sound, a")
    assert set(found.results().values()) == {"not done"}
    assert found.lines["broken, dies"]["reason"] == "no time was left"
    assert found.code == 1 and "not done: 3" in found.said


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOP / "benchmarks"))
    from gpu import verdict

    return verdict


def test_an_aim_that_is_missed_fails_and_is_only_judged_where_it_is_meant(verdict: Any):
    """The best of what was measured counts for speed, the worst for what all have to keep."""

    def line(case: str, **figures: float) -> dict[str, Any]:
        return {"case": case, "result": "passed", "reason": "", "seconds": 1.0, **figures}

    full = [
        line("speed, full, 1.7B, 8192 positions", **{"MFU": 0.3, "times naive": 3.0}),
        line("speed, full, 1.7B, compiled, 8192 positions", **{"MFU": 0.47, "times naive": 4.4}),
        line("speed, full, 1.7B, 700 positions", **{"MFU": 0.9, "times naive": 9.0}),
    ]
    others = [
        line("speed, lora, 1.7B, selective checkpointing, 8192 positions", **{"reserved GB": 15.0}),
        line("speed, lora, 0.6B, selective checkpointing, 8192 positions", **{"reserved GB": 10.5}),
        line("speech, 1.7B, batch 8", **{"real-time factor": 0.4}),
        line("speech, 0.6B, batch 8", **{"real-time factor": 1.2}),
    ]
    lines = [*full, *others]
    met = [one.met for one in verdict.judge(lines, "NVIDIA H100 80GB HBM3", True)]
    assert met == [True, True, True, False, None, False]
    assert [one.met for one in verdict.judge(lines, "NVIDIA L4", True)] == [None, None, True, False, None, False]
    assert [one.met for one in verdict.judge(lines, "cpu, 1 threads", False)] == [None] * 6
    assert not verdict.passed(lines, verdict.judge(lines, "NVIDIA H100 80GB HBM3", True))
    assert verdict.passed(full, verdict.judge(full, "NVIDIA H100 80GB HBM3", True))
    assert not verdict.passed(full, verdict.judge(full[:1], "NVIDIA H100 80GB HBM3", True))


@pytest.mark.slow
def test_all_that_a_cpu_can_do_is_done(tmp_path: Path):
    """Every case that needs no GPU, and what needs two of them over gloo; and with all of it right, exit code 0."""
    (tmp_path / ".env").write_text("INIT_MODEL_PATH=nobody/nothing\nOUTPUT_DIR=/proc/theirs\n")  # the user's own
    found = Checked(tmp_path / "out", "--cases", str(RANKS), "--minutes", "9")
    assert found.code == 0, found.said + found.log[-3000:]
    undone = [line["case"] for line in found.kept if line["result"] == "not done"]
    assert undone == [
        "two processes, one killed",
        "two processes, one out of memory",
        "speed, full, built-in, bf16_with_fp32",
        "candidates, turned by halves, lora",
        "candidates, frames' attention by products, lora",
        "losses, fp32, against the CPU",
        "losses, full, compiled",
        "speed, full, built-in, compiled",
        "speed, lora, built-in, bf16_with_fp32",
        "speed, lora, built-in, compiled",
        "libraries, Liger Kernel",
    ]
    passed = [line["case"] for line in found.kept if line["result"] == "passed"]
    assert len(passed) + len(undone) == len(found.kept)
    assert {"losses, full, against fp32", "generation, built-in", "prepare", "job, whole", *undone[:2]} <= set(passed)
    assert "failed: none" in found.said and found.said.endswith("verdict: passed")
