"""Listening to the model in training: at every evaluation it says a few sentences, and is heard to stop or not.

A lower loss does not mean that a voice stops, keeps off silence and does not go round in circles; saying something
does. The model in memory speaks through stock `generate`, from an x-vector as in cloning, so that no speaker row is
needed. The codec is not loaded in training: what is judged is the codes.

Speaking is sampled with the values that stock `generate` has by default, from a seed of its own that is the same at
every evaluation. Sampled, because that is how released checkpoints are spoken with: greedy speech goes round in
circles where sampled speech does not, and would mark good checkpoints down. Seeded, so that two checkpoints differ by
their weights and not by their luck alone, and so that a run can be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from job.console import say, warn
from job.errors import first_line
from job.train.layout import instruct_template, text_template

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

Codes = NDArray[np.integer[Any]]

#: Frames that all sentences of one evaluation may take together: 31 s of speech at 12.5 frames a second.
MOST_FRAMES = 384
#: A sentence may take so many times its recording's frames, and some more, before it counts as never stopping.
LIMIT_FACTOR = 2
LIMIT_SLACK = 10
#: Said in less than this share of the recording's frames, a sentence cannot be whole.
SHORTEST_SHARE = 1 / 3
#: Frames that a code must be held, or a cycle repeated, to count: 2 s at 12.5 frames a second, longer than a pause.
LEAST_REPEATED = 25
#: And a cycle must come so many times: a word said three times is no fault of the voice.
LEAST_CYCLES = 4
#: In ten frames of a repetition so many are the same as one cycle earlier: sampling slips in other codes, each of which
#: differs from the one before it and from the one after.
SAME_OF_TEN = 8
#: What a probe in which every sentence failed costs, in nats a code. See `rank`.
PENALTY_NATS = 0.5


@dataclass(frozen=True)
class Sentence:
    """A row that is said.

    Attributes:
        text: what is said.
        speaker: whose x-vector it is said from.
        language: a name or `auto`, as in the prepared row.
        instruct: style instruction, if the row has one.
        streaming: text layout.
        codes: (frames, books) of the recording.
    """

    text: str
    speaker: str
    language: str
    instruct: str | None
    streaming: bool
    codes: Codes

    @property
    def limit(self) -> int:
        """Frames after which it is cut off."""
        return limit(len(self.codes))


@dataclass(frozen=True)
class Finding:
    """What one sentence became.

    Attributes:
        text: the sentence.
        frames: frames that were said, at most its limit.
        recorded: frames of the recording.
        problems: in words; none for a sentence that passes.
    """

    text: str
    frames: int
    recorded: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Heard:
    """One evaluation's findings; none when nothing was said."""

    findings: tuple[Finding, ...] = ()

    @property
    def penalty(self) -> float:
        """Share of the sentences that failed, 0 to 1."""
        return sum(bool(f.problems) for f in self.findings) / len(self.findings) if self.findings else 0.0

    def record(self) -> dict[str, Any]:
        """For the validation log, JSON-ready; nothing when nothing was said."""
        if not self.findings:
            return {}
        said = [{"text": f.text, "frames": f.frames, "problems": list(f.problems)} for f in self.findings]
        return {"penalty": self.penalty, "said": said}

    def summary(self) -> str:
        """For the console; empty when nothing was said."""
        if not self.findings:
            return ""
        failed = [f"{f.text[:40]!r}: {', '.join(f.problems)}" for f in self.findings if f.problems]
        details = f" ({'; '.join(failed)})" if failed else ""
        return f"{len(failed)} of {len(self.findings)} sentences said wrong{details}"


def rank(loss: float, penalty: float = 0.0) -> tuple[float, float]:
    """What evaluations are compared by; the lowest is the best.

    A probe that failed is worth `PENALTY_NATS` x its share of failed sentences, added to the loss (nats a code, so
    the same trade at every level of loss): a checkpoint that says both of two sentences properly is preferred to one
    that says neither, unless that one's loss is lower by more than 0.5. Among equal penalties the loss alone decides.
    A loss that is not a number comes last.

    Example:
        >>> rank(4.30, penalty=0.0) < rank(4.25, penalty=0.5)
        True
        >>> rank(4.30, penalty=1.0) < rank(4.25, penalty=1.0)
        False
    """
    if not np.isfinite(loss):
        return np.inf, np.inf
    return loss + PENALTY_NATS * penalty, loss


def limit(frames: int) -> int:
    """Frames that a sentence may take whose recording has `frames`."""
    return LIMIT_FACTOR * frames + LIMIT_SLACK


def choose(frames: Sequence[int], count: int, seed: int, most_frames: int = MOST_FRAMES) -> list[int]:
    """Up to `count` rows, one from each stretch of lengths, the same for the same seed.

    Rows that would take more than their part of `most_frames` are not considered.

    Args:
        frames: of every row's recording.
    """
    if count < 1:
        return []
    short = [row for row, n in enumerate(frames) if n > 0 and limit(n) <= most_frames // count]
    short.sort(key=lambda row: (frames[row], row))
    generator = np.random.default_rng(seed)
    parts = np.array_split(np.asarray(short, dtype=np.int64), min(count, len(short))) if short else []
    return [int(generator.choice(part)) for part in parts]


def problems(said: Codes, stopped: bool, recorded: Codes) -> tuple[str, ...]:
    """What is wrong with the codes of one sentence, in words.

    Repetition is looked for in book 0, which says what is spoken; the books above it differ from frame to frame even
    in silence. What the recording itself does (a long pause, a laugh) is no fault.

    Args:
        said: (frames, books), without the end.
        stopped: whether the talker chose its end token within the limit.
        recorded: (frames, books) of the recording.
    """
    found = []
    if not stopped:
        found.append("never stops")
    if len(said) < SHORTEST_SHARE * len(recorded):
        found.append(f"{len(said)} frames instead of about {len(recorded)}")
    frames, period = repetition(said[:, 0])
    if frames > 2 * repetition(recorded[:, 0])[0]:
        what = "one code held" if period == 1 else f"a cycle of {period} frames repeated"
        found.append(f"{what} for {frames} frames")
    return tuple(found)


def repetition(book: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """The longest stretch that repeats itself.

    A stretch repeats with a period if `SAME_OF_TEN` of ten of its codes are the same as one period earlier. Its length
    is the number of those that are, and one period; it must be `LEAST_CYCLES` periods and `LEAST_REPEATED` frames.

    Args:
        book: (frames,) codes of one book.

    Returns:
        Its frames and its period (1: a single code), (0, 0) when there is none.
    """
    best, best_period = 0, 0
    for period in range(1, len(book) // LEAST_CYCLES + 1):
        # A window has a share of at least SAME_OF_TEN / 10 if 10 same - SAME_OF_TEN sums to >= 0 over it: for every end
        # the first start whose prefix sum is no larger, found in the running minimum.
        same = (book[period:] == book[:-period]).astype(np.int64)
        counts = np.concatenate([[0], np.cumsum(same)])
        sums = 10 * counts - SAME_OF_TEN * np.arange(len(counts))
        starts = np.searchsorted(-np.minimum.accumulate(sums), -sums, side="left")
        stretch = int((counts - counts[starts]).max()) + period
        if stretch >= max(LEAST_CYCLES * period, LEAST_REPEATED) and stretch > best:
            best, best_period = stretch, period
    return best, best_period


class Probe:
    """Says the same few sentences at every evaluation.

    Args:
        sentences: what to say.
        tokenize: texts -> lists of ids, the base model's own tokenizer.
        speakers: speaker -> (D,) x-vector.
        languages: name -> row of the codec embedding, new ones included; others are said as Auto, as in training.
        seed: of the sampling.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        tokenize: Callable[[list[str]], list[list[int]]],
        speakers: Mapping[str, torch.Tensor],
        languages: Mapping[str, int],
        seed: int = 0,
    ) -> None:
        self.sentences = tuple(sentences)
        self._seed = seed
        self._languages = {name.lower(): row for name, row in languages.items()}
        self._speakers = speakers
        self._texts = tokenize([text_template(s.text) for s in self.sentences]) if self.sentences else []
        self._instructs = [tokenize([instruct_template(s.instruct)])[0] if s.instruct else None for s in self.sentences]
        self._last = Heard()
        self._broken = False

    @classmethod
    def of(
        cls,
        table: pa.Table,
        tokenize: Callable[[list[str]], list[list[int]]],
        speakers: Mapping[str, torch.Tensor],
        languages: Mapping[str, int],
        *,
        count: int,
        text_layout: str,
        seed: int,
    ) -> Probe:
        """Choose sentences of a prepared split.

        Args:
            table: the validation rows, or the training rows where there are none.
            count: sentences; 0 for none.
            text_layout: TEXT_LAYOUT; `mixed` says every second sentence in the other layout.
        """
        import pyarrow.compute as pc

        frames = pc.list_value_length(table["codes"]).to_pylist()
        chosen = choose(frames, count, seed)
        sentences = []
        for number, row in enumerate(chosen):
            (values,) = table.slice(row, 1).to_pylist()
            streaming = number % 2 == 1 if text_layout == "mixed" else text_layout == "streaming"
            codes = np.asarray(values["codes"], dtype=np.int64)
            kept = {name: values[name] for name in ("text", "speaker", "language", "instruct")}
            sentences.append(Sentence(**kept, streaming=streaming, codes=codes))
        note = ""
        if count and not chosen:
            note = f"no sentence is said at evaluations: all rows take more than {MOST_FRAMES // count} frames"
        elif chosen and sentences[0].codes.shape[1] < 2:
            # Stock `generate` asks the sub-talker for `books - 1` codes, and cannot be asked for none.
            sentences, note = [], "no sentence is said at evaluations: stock `generate` does not say frames of one book"
        if note:
            say("train", note)
        return cls(sentences, tokenize, speakers, languages, seed)

    def run(self, model: Any, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Heard:
        """Say the sentences with the model as it is.

        Random states, train and eval modes are as before afterwards: training goes on to the same bits as without the
        probe. Call it only when the evaluation's loss is finite, since sampling from NaN ends a CUDA process.

        Args:
            model: a `Qwen3TTSForConditionalGeneration`, adapted or not, unwrapped and with whole (unsharded) weights.
            autocast: context of mixed precision, such as `accelerator.autocast`.
        """
        if not self.sentences or self._broken:
            return self._last
        findings: dict[int, Finding] = {}
        try:
            with undisturbed(model, self._seed, self._languages), autocast():
                for streaming in (False, True):
                    group = [i for i, s in enumerate(self.sentences) if s.streaming == streaming]
                    findings.update(zip(group, self._say(model, group, streaming), strict=True))
        except RuntimeError as error:  # out of memory, above all: the probe must not cost the run
            reason = first_line(error)
            warn("train", f"saying sentences at evaluations failed and is left out from now on: {reason}")
            self._broken = True  # checkpoints to come rank as the last one that was heard
            return self._last
        self._last = Heard(tuple(findings[i] for i in range(len(self.sentences))))
        return self._last

    def _say(self, model: Any, group: list[int], streaming: bool) -> list[Finding]:
        import torch

        from job.evaluate.recorder import GenerationRecorder, quiet_generation

        if not group:
            return []
        device = model.talker.device
        sentences = [self.sentences[i] for i in group]

        def row(ids: list[int] | None) -> torch.Tensor | None:
            return None if ids is None else torch.tensor([ids], device=device)

        with quiet_generation(), GenerationRecorder(cast(Any, SimpleNamespace(model=model))) as recorder:
            model.generate(
                input_ids=[row(self._texts[i]) for i in group],
                instruct_ids=[row(self._instructs[i]) for i in group],
                languages=[s.language.lower() if s.language.lower() in self._languages else "Auto" for s in sentences],
                voice_clone_prompt={
                    "ref_code": [None] * len(group),
                    "ref_spk_embedding": [self._speakers[s.speaker] for s in sentences],
                    "x_vector_only_mode": [True] * len(group),
                    "icl_mode": [False] * len(group),
                },
                non_streaming_mode=not streaming,
                max_new_tokens=max(s.limit for s in sentences),
            )
        return [
            self._finding(s, heard.codes.numpy(), heard.stopped_by_eos)
            for s, heard in zip(sentences, recorder.spoken, strict=True)
        ]

    @staticmethod
    def _finding(sentence: Sentence, said: Codes, stopped: bool) -> Finding:
        """Judge by the sentence's own limit: in a batch, it may have gone on to that of a longer one."""
        within = stopped and len(said) < sentence.limit
        said = said[: sentence.limit]
        found = problems(said, within, sentence.codes)
        return Finding(sentence.text, len(said), len(sentence.codes), found)


@contextmanager
def undisturbed(model: Any, seed: int, languages: Mapping[str, int]) -> Iterator[None]:
    """A model in eval mode that knows `languages`, and random generators seeded with `seed`; afterwards all as it was.

    Every module's own mode is put back, not the root's: some parts may be frozen in eval mode.
    """
    import torch

    device = model.talker.device
    modes = [(module, module.training) for module in model.modules()]
    offsets = model.talker.rope_deltas  # the only other state that generating leaves behind
    config = model.config.talker_config
    known = config.codec_language_id
    accelerator: Any = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    place = (device,) if device.type == "cuda" else ()
    of_accelerator = accelerator.get_rng_state(*place) if accelerator else None
    of_torch, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        model.eval()
        config.codec_language_id = dict(languages)
        torch.default_generator.manual_seed(seed)
        if accelerator:
            with torch.cuda.device(device) if place else nullcontext():
                accelerator.manual_seed(seed)
        yield
    finally:
        for module, training in modes:
            module.training = training
        model.talker.rope_deltas, config.codec_language_id = offsets, known
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)
        random.setstate(of_python)
        if accelerator:
            accelerator.set_rng_state(of_accelerator, *place)
