"""Declarations of the variables of test speech; `job.config.variables` has the others."""

from __future__ import annotations

from pydantic_settings import BaseSettings

from job.config.declaring import Switch, var


class SynthesisVariables(BaseSettings):
    """Test speech."""

    test_texts: str | None = var(
        None,
        "Texts to speak: a file with one per line, or a list separated by `|`. Default: texts in the language of the "
        "data that come with the job, and some of the data (docs/judging.md).",
    )
    greedy: bool = var(False, "Always take the most likely code instead of sampling.")
    temperature: float = var(0.9, "Sampling temperature.", gt=0, allow_inf_nan=False)
    top_p: float = var(1.0, "Nucleus sampling: keep the most likely codes up to this total probability.", gt=0, le=1)
    top_k: int = var(50, "Sample only among this many most likely codes.", ge=1)
    max_new_tokens: int | None = var(
        None, "Longest speech in frames. Default: three times the expected length of the text.", ge=2
    )
    lora_scale: float = var(1.0, "Scale of the LoRA adapter when speaking.", ge=0)
    tune_speech: bool = var(
        False,
        "After training, try lower temperatures, and for an adapter lower scales, and keep what judges of speech "
        "prefer (docs/judging.md).",
    )
    asr_model: str | None = var(
        None,
        "Speech recogniser (`demo`: the demo's own) for WER and CER, to check texts against recordings (CHECK_WORDS), "
        "and for those without texts (by default whisper-large-v3-turbo on a GPU, whisper-small on a CPU).",
    )
    mos_model: str | None = var(
        None, "Model for MOS, instead of the one that is installed with the job; `none` turns MOS off."
    )
    similarity_model: str | None = var(
        None, "Speaker verification model, for a speaker similarity that does not depend on the base model."
    )
    baselines: bool | None = var(
        None,
        "Also have the base model clone the voice and speak the same texts, to compare. Default: true on a GPU.",
    )
    kept_abilities: bool | None = var(
        None,
        "Also see whether what the base model can do besides is kept: cloning other people, its preset speakers, "
        "following instructions (docs/judging.md). Default: true on a GPU.",
    )
    synth_gate: Switch = var(
        "warn",
        "What happens when the test speech fails its checks: `off` nothing, `warn` a line says so; with `fail` the run "
        "ends with exit code 6, and a repo's `main` gets the model only once the speech has passed (until then it is "
        "on a branch `candidate-…`).",
    )
    synth_gate_share: float = var(
        0.25, "Share of the samples that must fail for `SYNTH_GATE` to fail the run.", gt=0, le=1
    )
