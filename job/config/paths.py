"""Where everything lies in the work directory: the only place that spells these names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The files that pass between stages.

    `work` is `WORK_DIR`; `output` is `OUTPUT_DIR` (by default `WORK_DIR/output`).
    """

    work: Path
    output: Path

    @property
    def state(self) -> Path:
        """One JSON file a finished stage."""
        return self.work / "state"

    @property
    def raw(self) -> Path:
        """What fetch writes: `<split>.jsonl` and, for sources that hold bytes, `audio/`."""
        return self.work / "data" / "raw"

    def manifest(self, split: str) -> Path:
        """The raw manifest of a split (`train` or `validation`)."""
        return self.raw / f"{split}.jsonl"

    @property
    def prepared(self) -> Path:
        """What prepare writes and train reads."""
        return self.work / "data" / "prepared"

    @property
    def encoding(self) -> Path:
        """Shards of codes while prepare is under way; gone when the prepared dataset is in place."""
        return self.work / "data" / "encoding"

    @property
    def cache(self) -> Path:
        """The prepared splits once more, as Arrow files that are mapped into memory instead of read."""
        return self.work / "data" / "cache"

    @property
    def speakers(self) -> Path:
        """fp32 x-vectors, one tensor a speaker name."""
        return self.prepared / "speakers.safetensors"

    @property
    def quality(self) -> Path:
        """Figures about the data, for people and the report."""
        return self.work / "data" / "quality.json"

    @property
    def quality_page(self) -> Path:
        """The same figures as a page."""
        return self.work / "data" / "quality.html"

    @property
    def rejected(self) -> Path:
        """Rows that were left out, with the reason. Fetch writes it first; prepare adds its own."""
        return self.work / "data" / "rejected.jsonl"

    @property
    def fetch_rejected(self) -> Path:
        """The rows that fetch left out (prepare merges them into `rejected`)."""
        return self.raw / "rejected.jsonl"

    @property
    def best(self) -> Path:
        """The checkpoint to publish."""
        return self.output / "best"

    @property
    def last(self) -> Path:
        """The checkpoint after the last step."""
        return self.output / "last"

    @property
    def training_log(self) -> Path:
        """One JSON object a logged optimizer step."""
        return self.output / "training_log.jsonl"

    @property
    def validation_log(self) -> Path:
        """One JSON object an evaluation."""
        return self.output / "validation_log.jsonl"

    @property
    def samples(self) -> Path:
        """Synthesized WAVs and `stats.json`."""
        return self.work / "samples"

    @property
    def judged(self) -> Path:
        """What judges said about clips, so that a killed run need not ask them again."""
        return self.work / "judged.jsonl"

    @property
    def said(self) -> Path:
        """What `say` said last."""
        return self.work / "said.wav"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.work / "report" / "index.html"
