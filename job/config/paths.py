"""The paths of all files in the work directory; no other module spells these names."""

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
        """Directory with one JSON file per finished stage."""
        return self.work / "state"

    @property
    def raw(self) -> Path:
        """The output of fetch: `<split>.jsonl` and, for sources that embed audio, `audio/`."""
        return self.work / "data" / "raw"

    def manifest(self, split: str) -> Path:
        """The raw manifest of a split (`train` or `validation`)."""
        return self.raw / f"{split}.jsonl"

    @property
    def scripted(self) -> Path:
        """Hub datasets with a loading script as Parquet files, and the environment in which their scripts ran."""
        return self.work / "data" / "scripted"

    @property
    def transcripts(self) -> Path:
        """The rows that a recogniser made of recordings without texts, for people to correct."""
        return self.work / "data" / "transcripts.jsonl"

    @property
    def heard(self) -> Path:
        """Log of what the recogniser heard, so that no clip is transcribed twice."""
        return self.work / "data" / "heard.jsonl"

    @property
    def heard_words(self) -> Path:
        """Logs of what a recogniser heard in the rows, to check their texts; one file per process."""
        return self.work / "data" / "heard_words"

    @property
    def clip_voices(self) -> Path:
        """X-vectors of the clips, by which people are told apart (KEEP_SPEAKERS); a file per shard."""
        return self.work / "data" / "clip_voices"

    @property
    def alignment(self) -> Path:
        """What the model of ALIGN_MODEL heard in the recording that is being aligned; deleted when that is done."""
        return self.work / "data" / "alignment"

    @property
    def prepared(self) -> Path:
        """The prepared dataset, which prepare writes and train reads."""
        return self.work / "data" / "prepared"

    @property
    def encoding(self) -> Path:
        """Shards of codes; kept, so that a rerun with other edits or limits encodes only what changed."""
        return self.work / "data" / "encoding"

    @property
    def people(self) -> Path:
        """Which clips each of the people under one name has, so that names stay (KEEP_SPEAKERS=split)."""
        return self.prepared / "people.json"

    @property
    def cache(self) -> Path:
        """A copy of the prepared splits as Arrow files, which are memory-mapped."""
        return self.work / "data" / "cache"

    @property
    def speakers(self) -> Path:
        """Speaker embeddings (x-vectors) in fp32, one tensor per speaker name."""
        return self.prepared / "speakers.safetensors"

    @property
    def quality(self) -> Path:
        """Statistics of the data, for people and for the report."""
        return self.work / "data" / "quality.json"

    @property
    def quality_page(self) -> Path:
        """The same statistics as an HTML page."""
        return self.work / "data" / "quality.html"

    @property
    def edits(self) -> Path:
        """What people decided about single rows, saved from the page; read by prepare."""
        return self.work / "data" / "edits.jsonl"

    @property
    def rejected(self) -> Path:
        """Rejected rows with the reason; fetch writes the file and prepare adds to it."""
        return self.work / "data" / "rejected.jsonl"

    @property
    def fetch_rejected(self) -> Path:
        """The rows that fetch rejected (prepare merges them into `rejected`)."""
        return self.raw / "rejected.jsonl"

    @property
    def best(self) -> Path:
        """The best checkpoint, which is published."""
        return self.output / "best"

    @property
    def candidates(self) -> Path:
        """Checkpoints of the last validations, `step-<step>`, until the best is chosen (BEST_BY=judges)."""
        return self.output / "candidates"

    @property
    def earlier(self) -> Path:
        """The run that another one has taken the place of, until that one has finished (`job.train.earlier_run`)."""
        return self.output / "earlier"

    @property
    def to_push(self) -> Path:
        """Models in the middle of training, `step-<step>`, until they have been uploaded (PUSH_STEPS)."""
        return self.output / "to_push"

    @property
    def to_share(self) -> Path:
        """The prepared dataset as it is published, until it has been uploaded (PUSH_DATASET)."""
        return self.work / "data" / "to_share"

    @property
    def published_voices(self) -> Path:
        """X-vectors that came with a dataset of codes, one tensor per speaker name (PUSH_DATASET has published it)."""
        return self.raw / "speakers.safetensors"

    @property
    def last(self) -> Path:
        """The checkpoint after the last step."""
        return self.output / "last"

    @property
    def training_log(self) -> Path:
        """One JSON object per logged optimizer step."""
        return self.output / "training_log.jsonl"

    @property
    def validation_log(self) -> Path:
        """One JSON object per validation."""
        return self.output / "validation_log.jsonl"

    @property
    def logs(self) -> tuple[Path, Path]:
        """Both logs of training."""
        return self.training_log, self.validation_log

    @property
    def samples(self) -> Path:
        """Synthesized WAVs and `stats.json`."""
        return self.work / "samples"

    @property
    def judged(self) -> Path:
        """What judges said about clips, so that a killed run need not ask them again."""
        return self.work / "judged.jsonl"

    @property
    def choosing(self) -> Path:
        """What was judged of each candidate, so that a killed run need not say and judge it again."""
        return self.work / "choosing"

    @property
    def kept(self) -> Path:
        """What was said and judged to see what the base model can do besides the voice (KEPT_ABILITIES)."""
        return self.work / "kept"

    @property
    def said(self) -> Path:
        """The WAV that `say` wrote last."""
        return self.work / "said.wav"

    @property
    def narrated(self) -> Path:
        """WAVs of the files that `say --file` has read aloud."""
        return self.work / "said"

    @property
    def created_repos(self) -> Path:
        """The Hub repos that runs in this work directory have created."""
        return self.work / "created_repos.json"

    @property
    def report(self) -> Path:
        """The HTML report about the run."""
        return self.work / "report" / "index.html"


#: What a run writes into a work directory, and into `data` in it.
_WRITTEN = {"state", "output", "samples", "report", "choosing", "kept", "said", "said.wav", "judged.jsonl"}
_WRITTEN_DATA = {"raw", "prepared", "encoding", "cache", "scripted", "to_share", "alignment", "clip_voices"}
_WRITTEN_DATA |= {"heard_words", "heard.jsonl", "transcripts.jsonl", "rejected.jsonl", "edits.jsonl"}
_WRITTEN_DATA |= {"quality.json", "quality.html"}
_MARKS = ("run.lock", "doctor.json", "fetch.json")


def written_by_a_run(path: Path) -> bool:
    """Whether runs write this file or folder, in this work directory or another: what a voice said is no recording."""
    if path.name in _WRITTEN:
        work = path.parent
    elif path.name in _WRITTEN_DATA and path.parent.name == "data":
        work = path.parent.parent
    else:
        return False
    try:
        return any((work / "state" / mark).exists() for mark in _MARKS)
    except OSError:  # it may not be asked: nobody's work directory
        return False
