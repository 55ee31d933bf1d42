"""What is said in the end: a table of all cases, and how the aims were met."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: GPUs that the aims of speed are meant for, by a part of their names.
H100_CLASS = ("H100", "H200", "H800", "GH200", "B100", "B200", "GB200")
#: Figures that a line of the table has room for, and characters.
SHOWN, WIDTH = 6, 110


@dataclass(frozen=True)
class Aim:
    """A figure that some cases are to reach.

    Attributes:
        text: what is aimed at.
        cases: a pattern of the names of the parts that show it.
        figure: the figure's name.
        bound: to be reached.
        at_least: whether the figure is to be as large, or as small.
        best: whether one of the parts is enough, or all have to.
        of_h100: whether it is only meant for GPUs of that class.
    """

    text: str
    cases: str
    figure: str
    bound: float
    at_least: bool = True
    best: bool = False
    of_h100: bool = False


FULL = r"speed, full, 1\.7B(, compiled)?, 8192 positions"
AIMS = (
    Aim("full fine-tuning of 1.7B, 8192 positions: MFU of 45 %", FULL, "MFU", 0.45, best=True, of_h100=True),
    Aim("full fine-tuning of 1.7B, 8192 positions: 4 times naive", FULL, "times naive", 4, best=True, of_h100=True),
    Aim("LoRA of 1.7B, checkpointing: 16 GB", r"speed, lora, 1\.7B, .*checkpointing.*", "reserved GB", 16, False, True),
    Aim("LoRA of 0.6B, checkpointing: 10 GB", r"speed, lora, 0\.6B, .*checkpointing.*", "reserved GB", 10, False, True),
    Aim("prepare: 300 times real time", r"prepare", "times real time", 300),
    Aim("speech, batch 8: faster than it plays", r"speech, .*, batch 8", "real-time factor", 1, False),
)


@dataclass(frozen=True)
class Judged:
    """An aim and what became of it: `met`, `missed`, or None with the reason why it was not judged."""

    aim: Aim
    met: bool | None
    said: str


def judge(lines: Sequence[dict[str, Any]], device: str, on_gpu: bool) -> list[Judged]:
    """All aims, by the lines of the cases that were done."""
    found = []
    for aim in AIMS:
        parts = [line for line in lines if re.fullmatch(aim.cases, line["case"]) and aim.figure in line]
        if not on_gpu:
            found.append(Judged(aim, None, "not judged: there is no GPU"))
        elif aim.of_h100 and not any(name in device for name in H100_CLASS):
            found.append(Judged(aim, None, f"not judged: {device} is of another class than an H100"))
        elif not parts:
            found.append(Judged(aim, None, "not judged: it was not measured"))
        else:
            found.append(_judged(aim, parts))
    return found


def _judged(aim: Aim, parts: Sequence[dict[str, Any]]) -> Judged:
    largest = aim.at_least == aim.best
    part = (max if largest else min)(parts, key=lambda line: line[aim.figure])
    value = part[aim.figure]
    met = value >= aim.bound if aim.at_least else 0 <= value <= aim.bound
    return Judged(aim, met, f"{'met' if met else 'MISSED'}: {value:g} ({part['case']})")


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each part of a case."""
    width = max([len("case"), *(len(line["case"]) for line in lines)])
    yield f"{'case':<{width}}  {'result':<8}  {'s':>6}  what was found"
    yield "-" * (width + 30)
    for line in lines:
        seconds = f"{line['seconds']:.1f}" if line["result"] != "not done" else ""
        yield f"{line['case']:<{width}}  {line['result']:<8}  {seconds:>6}  {_about(line)}".rstrip()


def _about(line: dict[str, Any]) -> str:
    """The reason, or the first figures."""
    if line["reason"]:
        return str(line["reason"])
    figures = {k: v for k, v in line.items() if k not in ("case", "result", "reason", "seconds", "device", "top")}
    text = ", ".join(f"{name} {value}" for name, value in list(figures.items())[:SHOWN])
    return text if len(text) <= WIDTH else f"{text[:WIDTH]} ..."


def verdict(lines: Sequence[dict[str, Any]], judged: Sequence[Judged]) -> Iterator[str]:
    """What was met, what failed, and what was not done."""
    yield "aims:"
    for one in judged:
        yield f"  {one.aim.text}: {one.said}"
    for result in ("failed", "not done"):
        named = [line for line in lines if line["result"] == result]
        yield f"{result}: {len(named) or 'none'}"
        for line in named:
            yield f"  {line['case']}: {line['reason']}"
    yield f"verdict: {'passed' if passed(lines, judged) else 'FAILED'}"


def passed(lines: Sequence[dict[str, Any]], judged: Sequence[Judged]) -> bool:
    """Whether something was done, nothing of it failed, and no aim that was judged is missed."""
    done = [line for line in lines if line["result"] != "not done"]
    return bool(done) and all(line["result"] == "passed" for line in done) and all(j.met is not False for j in judged)
