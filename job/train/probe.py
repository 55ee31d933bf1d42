"""Generation probe: at every evaluation the model says a few sentences, which are checked for failures.

A lower loss does not prove that a voice stops, avoids silence and does not loop; generating speech does. The model in
memory speaks through stock `generate`, from an x-vector as in cloning, so that no speaker row is needed; frames are
sampled by `job.generation` if it supports the model, in a fraction of the time. The codec is not loaded in training:
the codes themselves are judged.

Speech is sampled with stock `generate`'s default values, from a separate seed that is the same at every evaluation.
Sampled, because that is how released checkpoints are used: greedy speech loops where sampled speech does not, and would
penalise good checkpoints. Seeded, so that checkpoints differ by their weights and not by luck alone, and so that a run
is reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from job.core.console import say, warn
from job.core.errors import first_line
from job.loss.layout import instruct_template, text_template
from job.train.probe_rules import MOST_FRAMES, Codes, Finding, Heard, choose, limit, problems

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from job.train.saying import Voice


@dataclass(frozen=True)
class Sentence:
    """A row that the probe says.

    Attributes:
        text: the text to say.
        speaker: whose x-vector is used.
        language: a name or `auto`, as in the prepared row.
        instruct: style instruction, if the row has one.
        streaming: text layout.
        codes: (frames, codebooks) codes of the recording.
    """

    text: str
    speaker: str
    language: str
    instruct: str | None
    streaming: bool
    codes: Codes

    @property
    def limit(self) -> int:
        """Number of frames after which it is cut off."""
        return limit(len(self.codes))


class Probe:
    """Says the same few sentences at every evaluation; a language without a row is said as Auto, as in training."""

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
        self._fast = True
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
        """Choose sentences from a prepared split; with TEXT_LAYOUT=mixed the two layouts alternate."""
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
            # Stock `generate` asks the sub-talker for `codebooks - 1` codes, and cannot be asked for none.
            sentences, note = [], "no sentence is said at evaluations: stock `generate` does not say frames of one book"
        if note:
            say("train", note)
        return cls(sentences, tokenize, speakers, languages, seed)

    def run(self, model: Any, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Heard:
        """Say the sentences with the current model.

        Random states and train/eval modes are restored afterwards: training continues bit-identical to a run without
        the probe. Call it only when the evaluation's loss is finite, since sampling from NaN kills a CUDA process.

        Args:
            model: a `Qwen3TTSForConditionalGeneration`, adapted or not, unwrapped and unsharded.
            autocast: mixed-precision context, such as `accelerator.autocast`.
        """
        if not self.sentences or self._broken:
            return self._last
        try:
            with undisturbed(model, self._seed, self._languages), autocast():
                findings = self._say_all(model)
        except RuntimeError as error:  # mainly out of memory: the probe must not end the run
            reason = first_line(error)
            warn("train", f"saying sentences at evaluations failed and is left out from now on: {reason}")
            self._broken = True  # later checkpoints get the last findings
            return self._last
        self._last = Heard(tuple(findings[i] for i in range(len(self.sentences))))
        return self._last

    def _say_all(self, model: Any) -> dict[int, Finding]:
        """Say all sentences, by the fast loop if possible; returns findings by sentence number."""
        from job.generation.stack import Unknown
        from job.train.saying import Voice

        if self._fast:
            try:
                return self._say_by(model, Voice(model))
            except (Unknown, AttributeError, RuntimeError) as reason:  # RuntimeError: mainly no memory for a copy
                self._fast = False
                said = (
                    f"sentences at evaluations are said by stock `generate`, which takes longer: {first_line(reason)}"
                )
                warn("train", said)
        return self._say_by(model, None)

    def _say_by(self, model: Any, voice: Voice | None) -> dict[int, Finding]:
        import torch

        torch.manual_seed(self._seed)  # independent of earlier draws
        findings: dict[int, Finding] = {}
        for streaming in (False, True):
            group = [i for i, s in enumerate(self.sentences) if s.streaming == streaming]
            findings.update(zip(group, self._say(model, voice, group, streaming), strict=True))
        return findings

    def _say(
        self, model: Any, voice: Voice | None, group: list[int], streaming: bool, **arguments: Any
    ) -> list[Finding]:
        import torch

        from job.generation.recorder import GenerationRecorder, quiet_generation
        from job.generation.talker import generating

        if not group:
            return []
        stock = cast(Any, SimpleNamespace(model=model))
        device = model.talker.device
        sentences = [self.sentences[i] for i in group]

        def row(ids: list[int] | None) -> torch.Tensor | None:
            return None if ids is None else torch.tensor([ids], device=device)

        with quiet_generation(), generating(stock, voice), GenerationRecorder(stock) as recorder:
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
                **arguments,
            )
        return [
            self._finding(s, heard.codes.numpy(), heard.stopped_by_eos)
            for s, heard in zip(sentences, recorder.spoken, strict=True)
        ]

    @staticmethod
    def _finding(sentence: Sentence, said: Codes, stopped: bool) -> Finding:
        """Judge a sentence by its own limit: in a batch, it may have continued up to the limit of a longer one."""
        within = stopped and len(said) < sentence.limit
        said = said[: sentence.limit]
        found = problems(said, within, sentence.codes)
        return Finding(sentence.text, len(said), len(sentence.codes), found)


@contextmanager
def undisturbed(model: Any, seed: int, languages: Mapping[str, int]) -> Iterator[None]:
    """Put the model in eval mode with `languages` known and random generators seeded; restore everything afterwards.

    Every module's own mode is restored, not just the root's: some parts may be frozen in eval mode.
    """
    import torch

    from job.train import random_state

    modes = [(module, module.training) for module in model.modules()]
    offsets = model.talker.rope_deltas  # the only other state that generation modifies
    config = model.config.talker_config
    known, random = config.codec_language_id, random_state.current()
    try:
        model.eval()
        config.codec_language_id = dict(languages)
        torch.manual_seed(seed)
        yield
    finally:
        for module, training in modes:
            module.training = training
        model.talker.rope_deltas, config.codec_language_id = offsets, known
        random_state.restore(random)
