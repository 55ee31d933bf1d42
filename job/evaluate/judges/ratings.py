"""Rating of clips by all judges: each clip once, cached across restarts, and tolerating judges that fail."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.core import console, files
from job.core.errors import first_line
from job.evaluate.judges.judge import Clip, Judge


@dataclass
class Account:
    """Statistics of one judge: clips rated, time taken, and clips that were cached or failed."""

    by: str
    rated: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for stats.json."""
        told: dict[str, Any] = {"by": self.by, "rated": self.rated, "kept": self.kept, "failed": self.failed}
        return {**told, "seconds": round(self.seconds, 3), **({"reason": self.reason} if self.reason else {})}


@dataclass
class Ratings:
    """Ratings of clips by `judges`, cached in `path` after every clip.

    Attributes:
        judges: the judges, in the order they are asked.
        path: JSON Lines with each judge's rating of each sound, keyed by a digest of everything it depends on.
        accounts: statistics by judge name.
    """

    judges: Sequence[Judge]
    path: Path
    accounts: dict[str, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the cached ratings; a line truncated by a kill is ignored."""
        self._known: dict[str, dict[str, Any]] = {}
        self._used: set[str] = set()
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                one = json.loads(line)
                self._known[str(one["key"])] = dict(one["said"])
            except (ValueError, KeyError, TypeError):
                continue

    def of(self, recordings: Sequence[Clip], clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """Return all judges' figures for each clip, in the clips' order.

        Args:
            recordings: the voices' own recordings, with which some judges compare.
            clips: the clips to rate.
        """
        told: list[dict[str, Any]] = [{} for _ in clips]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        work = [(judge, number) for judge in self.judges for number in range(len(clips))]
        ready: dict[str, bool] = {}
        with open(self.path, "a", encoding="utf-8") as kept:
            kept.write("\n")  # terminate a truncated last line
            for judge, number in console.progress(work, stage="synthesize", total=len(work), unit="ratings"):
                if judge.name not in ready:
                    ready[judge.name] = self._prepared(judge, recordings)
                if ready[judge.name]:
                    told[number] |= self._ask(judge, clips[number], kept)
        files.write_jsonl(self.path, ({"key": key, "said": self._known[key]} for key in sorted(self._used)))
        for judge in self.judges:
            account = self.accounts[judge.name]
            if account.reason:
                count = "nothing" if account.rated + account.kept == 0 else f"{account.failed} clips not"
                console.warn("synthesize", f"{judge.name}: {count} judged: {account.reason}")
        return told

    def _prepared(self, judge: Judge, recordings: Sequence[Clip]) -> bool:
        account = self.accounts[judge.name] = Account(judge.by)
        started = time.perf_counter()
        try:
            judge.know(recordings)
        except Exception as error:  # a judge may raise anything, and none should end the run
            account.reason = first_line(error)
        account.by = judge.by
        account.seconds += time.perf_counter() - started
        return not account.reason

    def _ask(self, judge: Judge, clip: Clip, kept: Any) -> dict[str, Any]:
        account = self.accounts[judge.name]
        key = _key(judge, clip)
        if key in self._known:
            account.kept += key not in self._used
        else:
            started = time.perf_counter()
            try:
                said = judge(clip)
                account.rated += 1
            except Exception as error:  # see above
                account.failed += 1
                account.reason = account.reason or first_line(error)
                return {}
            finally:
                account.seconds += time.perf_counter() - started
            self._known[key] = {name: _plain(value) for name, value in said.items()}
            kept.write(json.dumps({"key": key, "said": self._known[key]}, ensure_ascii=False) + "\n")
            kept.flush()
        self._used.add(key)
        return self._known[key]


def _key(judge: Judge, clip: Clip) -> str:
    """Compute a digest of everything a rating depends on."""
    about = (judge.name, judge.by, clip.sample_rate, clip.text, clip.speaker, clip.language)
    return files.digest_bytes(repr(about).encode() + clip.waveform.tobytes())


def _plain(value: Any) -> Any:
    """Make a value JSON-serializable: numbers to six digits, None if JSON cannot represent it, text unchanged."""
    if value is None or isinstance(value, str):
        return value
    return round(float(value), 6) if math.isfinite(value) else None
