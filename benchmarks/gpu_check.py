"""The check of a GPU: whether the job computes right on it, and how fast, in under ten minutes on one H100 or H200.

    python benchmarks/gpu_check.py [--minutes 9.5] [--only PATTERN] [--out DIR] [--device cpu]

It needs the packages of requirements.lock and nothing from a network. Correctness comes first: kernels, attention and
optimizers against exact arithmetic, codes against stock `generate`'s, the job's own stages, a run that is resumed, a
hundred steps of training against fp32, and two processes where there are two GPUs. Then speed, on models of the
released shapes with random weights, each step of other shapes than the last: training, preparing, speech.

Each case is one JSON line or more, printed as it is found; a table and a verdict against the aims follow. A case that
raises, hangs or ends its process has failed, and the others go on. What there is no time for, or no GPU, is listed as
not done. Without a GPU the same code runs on tiny shapes on the CPU. The exit code is 0 if all that was done passed and
no aim that was judged is missed, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE), str(HERE.parent)) if path not in sys.path]

from gpu import driver, verdict  # noqa: E402  # neither imports torch

from job.config import surroundings  # noqa: E402


def main() -> int:
    """Check, or be the process that cases run in; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="for all cases; a process takes seconds to end")
    parser.add_argument("--only", default="", help="a pattern of the names of the cases to do")
    parser.add_argument("--out", type=Path, help="write cases.jsonl, verdict.txt and log.txt here")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: as if there were no GPU")
    parser.add_argument("--cases", type=Path, help="a Python file whose CASES are done too")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        from gpu import worker

        worker.serve(options)
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
        return check(options, Path(temporary))


def check(options: argparse.Namespace, work: Path) -> int:
    """Run the cases and say what was found; returns the exit code."""
    out: Path = options.out or work / "out"
    out.mkdir(parents=True, exist_ok=True)
    # As the job does at its start: libraries that look for models on the Hub would wait for a network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    surroundings.settle(os.environ)  # the allocator's settings among them, which torch reads when it is imported
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command = driver.command_of(Path(__file__).resolve(), work, options.device, options.cases)
    with (out / "cases.jsonl").open("w", encoding="utf-8") as file, (out / "log.txt").open("w") as log:

        def say(line: dict[str, Any]) -> None:
            print(json.dumps(line), flush=True)
            file.write(json.dumps(line) + "\n")
            file.flush()

        found = driver.Check(command, log, 60 * options.minutes, say)
        try:
            found.run(options.only)
        except RuntimeError as error:
            print((out / "log.txt").read_text(encoding="utf-8", errors="replace")[-4000:], file=sys.stderr)
            print(f"error: {error}", file=sys.stderr)
            return 1
    judged = verdict.judge(found.lines, found.about["device"], found.about["gpus"] > 0)
    text = [*verdict.table(found.lines), "", *verdict.verdict(found.lines, judged)]
    print("\n" + "\n".join(text), flush=True)
    (out / "verdict.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0 if verdict.passed(found.lines, judged) else 1


if __name__ == "__main__":
    sys.exit(main())
