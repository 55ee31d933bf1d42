"""Listening to the model in training: at every evaluation it says a few sentences, and is heard to stop or not.

A lower loss does not mean that a voice stops, keeps off silence and does not go round in circles; saying something
does. The model in memory speaks through stock `generate`, from an x-vector as in cloning, so that no speaker row is
needed; its frames are drawn by `job.generation` where that knows the model, in a fraction of the time. The codec is not
loaded in training: what is judged is the codes.

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

from job.core.console import say, warn
from job.core.errors import first_line
from job.train.layout import instruct_template, text_template
from job.train.probe_rules import MOST_FRAMES, Codes, Finding, Heard, choose, limit, problems

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from job.train.saying import Voice


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


class Probe:
    """Says the same few sentences at every evaluation; in a language without a row as Auto, as in training."""

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
        """Choose sentences of a prepared split; under TEXT_LAYOUT=mixed every second one in the other layout."""
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
        try:
            with undisturbed(model, self._seed, self._languages), autocast():
                findings = self._say_all(model)
        except RuntimeError as error:  # out of memory, above all: the probe must not cost the run
            reason = first_line(error)
            warn("train", f"saying sentences at evaluations failed and is left out from now on: {reason}")
            self._broken = True  # checkpoints to come rank as the last one that was heard
            return self._last
        self._last = Heard(tuple(findings[i] for i in range(len(self.sentences))))
        return self._last

    def _say_all(self, model: Any) -> dict[int, Finding]:
        """Findings by the sentence's number; fast if possible."""
        from job.generation.stack import Unknown
        from job.train.saying import Voice

        if self._fast:
            try:
                return self._say_by(model, Voice(model))
            except (Unknown, AttributeError, RuntimeError) as reason:  # the last, above all: no memory for a copy
                self._fast = False
                said = (
                    f"sentences at evaluations are said by stock `generate`, which takes longer: {first_line(reason)}"
                )
                warn("train", said)
        return self._say_by(model, None)

    def _say_by(self, model: Any, voice: Voice | None) -> dict[int, Finding]:
        import torch

        torch.manual_seed(self._seed)  # whatever was drawn before
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
