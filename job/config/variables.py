"""Declarations of all variables: name, aliases, default, meaning and bounds. `job.config.settings` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings

from job.config.declaring import Switch, var
from job.config.publish_variables import PublishVariables as PublishVariables
from job.config.speech_variables import SynthesisVariables as SynthesisVariables
from job.config.training_variables import TrainingVariables as TrainingVariables


class ModelVariables(BaseSettings):
    """Model and machine."""

    init_model_path: str = var(
        "Qwen/Qwen3-TTS-12Hz-1.7B-Base",
        "Base model: a directory, a Hub repo, or `demo` for the tiny built-in one.",
        "INIT_MODEL_PATH",
        "MODEL_PATH",
    )
    tokenizer_path: str | None = var(None, "Speech tokenizer, if not the base model's `speech_tokenizer/`.")
    output_dir: Path | None = var(
        None, "Checkpoints and logs. Default: `WORK_DIR/output`.", "OUTPUT_DIR", "OUTPUT_MODEL_PATH"
    )
    work_dir: Path = var(Path("work"), "Directory for everything else: data, stage states, samples, report.")
    device: str = var(
        "auto", "`auto`, `cpu`, `cuda`, `cuda:0`, `mps`.", free=True, pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$"
    )
    mixed_precision: Literal["auto", "bf16", "fp16", "no"] = var(
        "auto", "`auto` is `bf16` on a GPU that supports it (Ampere or newer), else `no` (fp32). `fp16` is rejected."
    )
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = var(
        "auto", "Attention kernels; `auto` is sdpa.", free=True
    )
    seed: int = var(42, "Seed of all random choices.", ge=0, le=2**63 - 1)


class DataVariables(BaseSettings):
    """Where the recordings come from and what is done to them."""

    data_mode: Literal["jsonl", "direct", "none"] = var(
        "jsonl",
        "`jsonl` downloads the source and writes a manifest; `direct` streams a Hub dataset into one; `none` trains on "
        "the data already in `WORK_DIR/data/prepared`.",
    )
    dataset_name: str | None = var(None, "Hub dataset (`owner/name`), or an address as TRAIN_JSONL's.")
    dataset_config: str | None = var(None, "Its configuration.")
    dataset_revision: str | None = var(None, "Its branch, tag or commit.")
    datasets: str | None = var(
        None,
        "Several sources for one run, one a line or separated by `|`: `owner/name[:config][@revision][#split]`, or the "
        "path or address of a file or folder; after it `weight=2`, `hours=10`, `rows=500`.",
    )
    train_split: str = var("train", "Split to train on.")
    validation_split: str | None = var(None, "Split to validate on; if unset, some training rows are held out.")
    train_jsonl: Path | None = var(
        None,
        "Rows with `audio` and `text` (and `ref_audio`, `speaker`, `language` …): JSONL, CSV or Parquet, a tar, or "
        "shards (a folder or pattern of them), here or at `s3://`, `gs://` or `hf://datasets/owner/name/path`.",
    )
    validation_jsonl: Path | None = var(None, "The same, for validation.")
    data_dir: Path | None = var(
        None,
        "A folder, here or at an address as above: `metadata.jsonl` + `ref.wav` + `ref_text.txt`, or audio files with "
        "`.txt` files beside them.",
    )
    text_column: str | None = var(
        None, "Column with the transcript, if it is not detected; its number in a file without a header."
    )
    audio_column: str | None = var(
        None, "Column with the audio, if it is not detected; its number in a file without a header."
    )
    speaker_column: str | None = var(None, "Column with the speaker; each speaker becomes a voice.")
    language_column: str | None = var(None, "Column with the language.")
    instruct_column: str | None = var(None, "Column with the style instruction.")
    language: str = var("Auto", "Language of rows without one: a name or code; `new:NAME` adds a new language.")
    transcribe: Literal["auto", "never", "always"] = var(
        "auto",
        "`auto` transcribes recordings that have no text, with ASR_MODEL; `always` all, whatever texts they have; "
        "`never` leaves those without a text out.",
    )
    check_words: Literal["auto", "never", "always"] = var(
        "auto",
        "Whether a speech recogniser compares what each recording says with its text: `auto` if ASR_MODEL is set and "
        "there is a GPU or a quarter of an hour of recordings at most.",
    )
    align_model: str | None = var(
        None,
        "CTC model that finds the sentences of a text in a recording longer than MAX_SECONDS: a directory or a Hub "
        "repo. Default: MMS (1130 languages), from the Hub. `none` leaves such recordings out.",
    )
    text_normalizer: Literal["auto", "none"] = var(
        "none",
        "`auto` writes numbers, signs and abbreviations out in words, in data and test texts; wise where the base does "
        "not know the language.",
    )
    max_train_samples: int | None = var(None, "Use at most this many training rows.", ge=1)
    max_eval_samples: int | None = var(None, "Use at most this many validation rows.", ge=1)
    max_hours: float | None = var(None, "Use at most this many hours of audio.", "MAX_HOURS", "NPSC_HOURS", gt=0)
    min_seconds: float = var(0.3, "Shorter clips are rejected.", ge=0)
    max_seconds: float = var(30.0, "Longer clips are rejected.", gt=0)
    validation_fraction: float | None = var(
        None,
        "Share of training rows to hold out for validation. Default: 0.05 if there are at least 50 rows, else 0.",
        ge=0,
        lt=1,
    )
    dataset_trust_remote_code: bool = var(
        False, "Run the loading script of a Hub dataset: once, confined, without a token (docs/data.md)."
    )
    prepare_batch_size: int = var(16, "Clips encoded together.", ge=1, free=True)
    num_workers: int | None = var(
        None,
        "Threads that read audio; 0 reads in the main thread. Default: depends on the number of cores.",
        ge=0,
        free=True,
    )
    prepare_only: bool = var(False, "Stop after `prepare`.", free=True)
    quality_gate: Switch = var("fail", "What happens when a check of the data fails; `off` also keeps doubtful rows.")
    keep_speakers: Literal["all", "main", "split"] = var(
        "all",
        "Of recordings in which several people speak under one name, keep all clips, or with `main` only those of the "
        "one who speaks most (of the one in REF_AUDIO_PATH, if set); `split` makes each a speaker: NAME, NAME_2 ...",
    )
    augment_speed: bool = var(False, "Also train on copies at 0.9 and 1.1 times the speed.")
    augment_pitch: bool = var(False, "Also train on copies shifted by two semitones up and down.")
    augment_noise: bool = var(False, "Also train on copies with low background noise.")
    augment_volume: bool = var(False, "Also train on copies 6 dB softer.")


class VoiceVariables(BaseSettings):
    """The voice to be trained."""

    speaker_name: str = var("speaker", "Name of the voice; saved in lower case.")
    ref_audio_path: Path | None = var(None, "Reference recording of the speaker (3 to 10 s).")
    ref_text: str | None = var(None, "Its transcript.")
    ref_audio_strategy: Literal["file", "first", "same", "best"] | None = var(
        None,
        "A speaker's reference recording: `file` is REF_AUDIO_PATH, `same` the rows' `ref_audio`, `first` the first "
        "clip, `best` the cleanest clips. Default: the first available of file, same and best.",
    )
    text_layout: Literal["non_streaming", "streaming", "mixed"] = var(
        "non_streaming",
        "Text layout to train: `generate_custom_voice` uses non-streaming by default, cloning uses streaming; `mixed` "
        "alternates between both.",
    )
    language_init: str | None = var(
        None, "Language whose embedding a new language starts from. Default: the mean of all the base model has."
    )
    icl_fraction: float = var(0.0, "Share of samples trained as cloning from another clip of the speaker.", ge=0, le=1)


class ScaleVariables(BaseSettings):
    """Several GPUs and nodes."""

    num_gpus: str = var(
        "auto", "GPUs (processes) per node; `auto` uses all visible ones.", free=True, pattern=r"^(auto|\d+)$"
    )
    num_nodes: int = var(
        1,
        "Number of nodes; they share WORK_DIR, or have one each and MIRROR_CHECKPOINTS (docs/nodes.md).",
        ge=1,
        free=True,
    )
    shared_work_dir: Literal["auto", "true", "false"] = var(
        "auto",
        "NUM_NODES > 1: whether all nodes mount the same WORK_DIR. `auto` tries it, which takes a minute where they do "
        "not; with `true` nodes on other volumes are refused.",
        free=True,
    )
    node_rank: int = var(0, "This node's rank, starting at 0.", "NODE_RANK", "JOB_COMPLETION_INDEX", ge=0, free=True)
    master_addr: str = var("127.0.0.1", "Address of node 0.", free=True)
    master_port: int = var(29500, "Port on node 0.", ge=1, le=65535, free=True)
    distributed: Literal["ddp", "fsdp"] = var(
        "ddp",
        "How training is distributed: `ddp` replicates the model on every GPU and sums gradients in the last backward "
        "pass of a step (not torch's DDP); `fsdp` shards it (TRAIN_MODE=full only) and communicates about as much in "
        "every pass.",
        free=True,
    )
    rendezvous_timeout: int = var(1800, "Seconds that the nodes wait for each other at the start.", ge=1, free=True)
    max_restarts: int = var(
        3,
        "How often the processes of a run on several GPUs or nodes are started again in place when one of them was "
        "killed (out of memory, a crashed driver); training resumes from its newest checkpoint.",
        ge=0,
        free=True,
    )
    engine: Literal["local", "ray"] = var(
        "local", "What prepare encodes with: this machine (`local`), or the workers of a Ray cluster (docs/ray.md).",
        free=True,
    )  # fmt: skip
    ray_address: str | None = var(
        None, "ENGINE=ray: the cluster's address (`host:port`, `auto`). Default: a Ray that the job starts and ends.",
        free=True,
    )  # fmt: skip
    ray_encoders: int | None = var(
        None, "ENGINE=ray: workers that encode. Default: as many as the cluster has GPUs, or without any, CPUs.",
        ge=1, free=True,
    )  # fmt: skip
    ray_readers: bool | None = var(
        None,
        "ENGINE=ray: decode recordings in processes of their own on the cluster's CPUs. Default: if a GPU encodes.",
        free=True,
    )


class JobVariables(BaseSettings):
    """The run itself."""

    force: bool = var(False, "Run stages again that are already done.", free=True)
    env_file: Path | None = var(
        None, "File with variables; the environment takes precedence. Default: `.env`.", free=True
    )
    mirror_checkpoints: str | None = var(
        None,
        "Where checkpoints and prepared data are copied to while training continues, for a machine whose disk may "
        "vanish (docs/spot.md): `hf://owner/name`, `s3://bucket/path`, `gs://bucket/path`, or a directory.",
        free=True,
    )
    grace_seconds: float = var(
        25,
        "Seconds that a run has after SIGTERM or SIGINT to write a checkpoint and stop.",
        gt=0,
        allow_inf_nan=False,
        free=True,
    )
    log_format: Literal["text", "json"] = var(
        "text", "Form of the log's lines; `json` is an object a line, with time, level, stage and message.", free=True
    )
    metrics_port: int | None = var(
        None, "Port for Prometheus to ask for figures of the run (docs/monitoring.md).", ge=1, le=65535, free=True
    )
    console_log: Path = var(
        Path("/tmp/console_log.txt"), "Log of the run; the entrypoint empties it at the start.", free=True
    )


#: Variables that name training data; `job.fetch.sources` opens what they name.
SOURCE_VARIABLES = ("TRAIN_JSONL", "DATA_DIR", "DATASET_NAME", "DATASETS")

GROUPS: tuple[type[BaseSettings], ...] = (
    ModelVariables,
    DataVariables,
    VoiceVariables,
    TrainingVariables,
    PublishVariables,
    SynthesisVariables,
    ScaleVariables,
    JobVariables,
)
