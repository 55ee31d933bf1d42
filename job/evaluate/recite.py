"""Recitation test: a checkpoint that has learned reproduces a recording's codes when decoding its text greedily.

A falling loss does not prove that training inputs match generation; reciting does. The checkpoint is loaded and run by
stock `qwen_tts` alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.evaluate.spoken_texts import spoken_language
from job.model.loading import ModelConfig, load_model, read_config

if TYPE_CHECKING:
    import torch
    from qwen_tts import Qwen3TTSModel

#: Frames allowed beyond the recording's length before generation is cut off.
SLACK_FRAMES = 10
#: Maximum width of the table's text column.
TEXT_WIDTH = 44


@dataclass(frozen=True)
class Recital:
    """Result of reciting one training sentence.

    Attributes:
        text: the sentence.
        speaker: who said it.
        language: as passed to `generate_custom_voice`.
        layout: `non_streaming` or `streaming`.
        frames: number of frames of the recording.
        said_frames: number of generated frames, without the end token.
        matched: number of codes that agree, over all codebooks.
        compared: max(frames, said_frames) x codebooks: an extra or missing frame counts as wrong in every codebook.
        stopped_by_eos: whether the talker ended by itself.
    """

    text: str
    speaker: str
    language: str
    layout: str
    frames: int
    said_frames: int
    matched: int
    compared: int
    stopped_by_eos: bool

    @property
    def match(self) -> float:
        """Share of codes that agree, 0 to 1."""
        return self.matched / self.compared if self.compared else 0.0

    @property
    def right_stop(self) -> bool:
        """Whether it ended by itself at the recording's last frame."""
        return self.stopped_by_eos and self.said_frames == self.frames


def recite(
    directory: Path,
    rows: Sequence[dict[str, Any]],
    *,
    device: torch.device,
    layout: str = "non_streaming",
    batch_size: int = 8,
    dtype: torch.dtype | None = None,
    attention: str = "auto",
) -> list[Recital]:
    """Say `rows` greedily with the checkpoint in `directory` and compare the codes with the recordings'.

    Args:
        directory: a custom-voice checkpoint that stock `qwen_tts` loads.
        rows: dicts with `text`, `speaker`, `language` (a name or `auto`; ones that the checkpoint does not know are
            said as Auto, as in training), `codes` of shape (frames, codebooks), and optionally `instruct`.
        device: where to run.
        layout: `non_streaming` (the default of `generate_custom_voice`) or `streaming`.
        batch_size: number of sentences per batch.
        dtype: dtype of the weights; fp32 by default, since one rounding can change a greedy choice.
        attention: attention kernels, as ATTN_IMPLEMENTATION.

    Returns:
        One `Recital` per row, in the order of `rows`.

    Raises:
        ValueError: `layout` is not one of the two.

    Example:
        >>> recitals = recite(paths.best, rows, device=torch.device("cpu"))
        >>> total(recitals).match
        1.0
    """
    import torch

    if layout not in ("non_streaming", "streaming"):
        raise ValueError(f"layout {layout!r} is neither 'non_streaming' nor 'streaming'")
    model = load_model(directory, device, dtype or torch.float32, attention)
    config = read_config(directory)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["codes"]))
    done: dict[int, Recital] = {}
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        done.update(zip(group, _recite_batch(model, config, [rows[i] for i in group], layout), strict=True))
    return [done[index] for index in range(len(rows))]


def compare(said: NDArray[np.integer[Any]], recorded: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """Count the codes that agree position by position, and the codes compared.

    Args:
        said: shape (frames said, codebooks).
        recorded: shape (frames recorded, codebooks).

    Returns:
        (agreeing codes, max(frames) x codebooks).
    """
    shared = min(len(said), len(recorded))
    matched = int(np.count_nonzero(said[:shared] == recorded[:shared]))
    return matched, max(len(said), len(recorded)) * recorded.shape[1]


@dataclass(frozen=True)
class Total:
    """Totals over all recitals. `match` is over all codes of all rows; `right_stops` counts rows."""

    rows: int
    match: float
    right_stops: int


def total(recitals: Sequence[Recital]) -> Total:
    """Compute the totals; the match is weighted by length."""
    compared = sum(one.compared for one in recitals)
    matched = sum(one.matched for one in recitals)
    return Total(len(recitals), matched / compared if compared else 0.0, sum(one.right_stop for one in recitals))


def format_table(recitals: Sequence[Recital]) -> str:
    """Format the recitals as a table for a terminal, with the total last."""
    shown = [clipped(one.text, TEXT_WIDTH) for one in recitals]
    width = max([_columns(text) for text in shown] + [len("text")])
    lines = [f"{'text':<{width}}  {'frames':>6}  {'said':>5}  {'codes':>7}  stop"]
    for one, text in zip(recitals, shown, strict=True):
        stop = "right" if one.right_stop else ("wrong" if one.stopped_by_eos else "never")
        padded = text + " " * (width - _columns(text))
        lines.append(f"{padded}  {one.frames:>6}  {one.said_frames:>5}  {_percent(one.match):>7}  {stop}")
    summed = total(recitals)
    lines.append(
        f"{summed.rows} sentences: {_percent(summed.match)} of the codes over all codebooks recited, "
        f"{summed.right_stops} stopped at the right frame"
    )
    return "\n".join(lines)


def print_table(recitals: Sequence[Recital]) -> None:
    """Print `format_table` to stdout."""
    print(format_table(recitals), flush=True)


def _recite_batch(
    model: Qwen3TTSModel, config: ModelConfig, batch: Sequence[dict[str, Any]], layout: str
) -> list[Recital]:
    from job.generation.recorder import GenerationRecorder, quiet_generation

    recorded = [np.asarray(row["codes"]) for row in batch]
    languages = [spoken_language(config, row.get("language")) for row in batch]
    with quiet_generation(), GenerationRecorder(model) as recorder:
        model.generate_custom_voice(
            text=[row["text"] for row in batch],
            speaker=[row["speaker"] for row in batch],
            language=languages,
            instruct=[row.get("instruct") or "" for row in batch],
            non_streaming_mode=layout == "non_streaming",
            do_sample=False,
            subtalker_dosample=False,
            repetition_penalty=1.0,
            max_new_tokens=max(len(codes) for codes in recorded) + SLACK_FRAMES,
        )
    recitals = []
    for row, codes, language, spoken in zip(batch, recorded, languages, recorder.spoken, strict=True):
        matched, compared = compare(spoken.codes.numpy(), codes)
        recitals.append(
            Recital(
                text=row["text"],
                speaker=row["speaker"],
                language=language,
                layout=layout,
                frames=len(codes),
                said_frames=len(spoken.codes),
                matched=matched,
                compared=compared,
                stopped_by_eos=spoken.stopped_by_eos,
            )
        )
    return recitals


def _percent(share: float) -> str:
    """Format as per cent with one decimal, rounded down: 99.96 % is not shown as 100 %."""
    return f"{int(share * 1000 + 1e-9) / 10:.1f} %"


def _columns(text: str) -> int:
    """Count the terminal columns of a text: wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def clipped(text: str, width: int) -> str:
    """Truncate a text to `width` columns."""
    if _columns(text) <= width:
        return text
    kept = ""
    for character in text:
        if _columns(kept + character) > width - 1:
            break
        kept += character
    return kept + "…"
