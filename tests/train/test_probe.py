"""The promises of the probe on real models: it hears what they say, changes nothing and costs little."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import torch

from job.config.settings import Settings
from job.dataset.prepared import schema
from job.loss import layout
from job.loss.batch import collate
from job.train import probe, saying
from job.train.adapt import adapt
from job.train.probe import Probe
from job.train.probe_rules import MOST_FRAMES, limit
from tests.train.trained import objective_of, talker_pass

TEXTS = ("Hello there.", "A longer sentence is this.")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def table_of(codebooks, rows):
    return pa.Table.from_pylist(
        [
            {
                "id": str(number),
                "text": text,
                "speaker": "one",
                "language": language,
                "instruct": instruct,
                "seconds": 1.0,
                "codes": np.random.default_rng(number).integers(0, 2048, (frames, codebooks)).tolist(),
            }
            for number, (text, language, instruct, frames) in enumerate(rows)
        ],
        schema=schema(codebooks),
    )


ROWS = [(TEXTS[0], "english", None, 6), (TEXTS[1], "auto", None, 9)]


class Voice:
    """A tiny real model, its tokenizer, and rows to train it on."""

    def __init__(self, base, rows=ROWS, **values):
        from qwen_tts import Qwen3TTSModel

        tts = Qwen3TTSModel.from_pretrained(str(base), dtype=torch.float32)
        self.model = tts.model
        self.model.speech_tokenizer = None
        self.tokenize = lambda texts: tts.processor.tokenizer(texts)["input_ids"] if texts else []
        config = self.model.config.to_dict()
        self.ids = layout.SpecialIds.from_config(config)
        generator = torch.Generator().manual_seed(1)
        self.speakers = {"one": torch.randn(config["talker_config"]["hidden_size"], generator=generator)}
        self.rows = rows
        self.table = table_of(self.ids.codebooks, rows)
        torch.manual_seed(0)  # adapters are drawn
        adapt(self.model, Settings(**values))
        self.objective = objective_of(self.model)

    def probe(self, **values):
        arguments = {"count": 2, "text_layout": "non_streaming", "seed": 3, **values}
        return Probe.of(self.table, self.tokenize, self.speakers, self.ids.languages, **arguments)

    def batch(self, streaming=False):
        sequences = []
        for row in self.table.to_pylist():
            (text,) = self.tokenize([layout.text_template(row["text"])])
            instruct = self.tokenize([layout.instruct_template(row["instruct"])])[0] if row["instruct"] else None
            sequences.append(
                layout.build(
                    self.ids,
                    np.asarray(text),
                    np.asarray(row["codes"], dtype=np.int16),
                    streaming=streaming,
                    language=self.ids.language_row(row["language"]),
                    instruct_ids=None if instruct is None else np.asarray(instruct),
                )
            )
        return collate(sequences, [self.speakers["one"].numpy()] * len(sequences))

    def train(self, steps, rate, at=None, fraction=1.0):
        """Plain training; `at(step)` is called after each step."""
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        batch, drawn = self.batch(), []
        self.objective.train()
        for step in range(1, steps + 1):
            losses = self.objective(batch.turn(fraction, step))
            loss = losses.talker / losses.talker_terms + losses.sub_talker / losses.sub_talker_terms
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            drawn.append((float(loss.detach()), float(np.random.rand()), random.random(), float(torch.rand(()))))
            if at is not None:
                at(step)
        return drawn


@pytest.fixture(scope="module")
def by_heart(tiny_base):
    """A model that has learned two sentences by heart, and what was heard before."""
    voice = Voice(tiny_base, train_mode="full")
    before = voice.probe().run(voice.model)
    voice.train(160, 5e-3)
    return voice, before


@pytest.mark.slow
def test_a_model_that_has_learned_its_sentences_is_heard_to_say_them(by_heart, monkeypatch):
    """Same inputs as in training: what is said are the recording's codes, and nothing is found wrong."""
    voice, _ = by_heart
    heard_codes = {}
    judge = probe.problems

    def spy(said, stopped, recorded):
        heard_codes[len(recorded)] = (said.tolist(), stopped, recorded.tolist())
        return judge(said, stopped, recorded)

    monkeypatch.setattr(probe, "problems", spy)
    heard = voice.probe().run(voice.model)
    assert heard.penalty == 0.0 and [f.problems for f in heard.findings] == [(), ()]
    assert {f.text for f in heard.findings} == set(TEXTS)
    for said, stopped, recorded in heard_codes.values():
        assert stopped and said == recorded
    assert heard.record() == {
        "penalty": 0.0,
        "said": [{"text": f.text, "frames": f.recorded, "problems": []} for f in heard.findings],
    }


@pytest.mark.slow
def test_an_untrained_model_is_heard_not_to(by_heart):
    _, before = by_heart
    assert before.penalty == 1.0
    assert "2 of 2 sentences said wrong" in before.summary() and "never stops" in before.summary()


@pytest.mark.slow
def test_the_other_text_layout_is_heard_to_be_wrong(by_heart):
    """The probe speaks in the layout that is trained: in the other one this model cannot."""
    voice, _ = by_heart
    other = voice.probe(text_layout="streaming")
    assert all(s.streaming for s in other.sentences)
    heard = other.run(voice.model)
    assert [f.frames for f in heard.findings] != [f.recorded for f in heard.findings]
    assert [s.streaming for s in voice.probe(text_layout="mixed").sentences] == [False, True]


def test_the_same_weights_say_the_same(tiny_base, monkeypatch):
    """Whatever was drawn before; another seed says something else."""
    voice = Voice(tiny_base, train_mode="full")
    said = []
    monkeypatch.setattr(probe, "problems", lambda codes, stopped, recorded: said.append(codes.tolist()) or ())
    one, other = voice.probe(), Probe(voice.probe().sentences, voice.tokenize, voice.speakers, {}, seed=4)
    for which, drawn in ((one, 1), (one, 2), (other, 1)):
        torch.manual_seed(drawn)
        which.run(voice.model)
    assert said[:2] == said[2:4] != said[4:]


def test_training_is_the_same_to_the_bit_with_and_without_the_probe(tiny_base):
    """Dropout, the sub-talker's random frames and everybody's random numbers come out as if nothing had been said."""

    def run(with_probe):
        voice = Voice(tiny_base, train_mode="lora", lora_dropout=0.2, lora_r=4)
        said, heard = voice.probe(text_layout="mixed"), []
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)

        def at(step):
            if with_probe and step in (1, 3):
                heard.append(said.run(voice.model))

        drawn = voice.train(5, 1e-2, at, fraction=0.5)
        return drawn, {n: p.detach().clone() for n, p in voice.model.named_parameters() if p.requires_grad}, heard

    drawn, weights, _ = run(False)
    drawn_with, weights_with, heard = run(True)
    assert drawn == drawn_with
    assert len({values[0] for values in drawn}) == 5
    assert all(torch.equal(weights[name], weights_with[name]) for name in weights)
    assert len(heard) == 2 and all(one.findings for one in heard)


def test_the_model_is_left_as_it_was(tiny_base):
    """Modes module by module, the rope offsets, the languages: also when saying fails half-way."""
    voice = Voice(tiny_base, train_mode="full")
    voice.model.train()
    voice.model.talker.code_predictor.eval()
    voice.model.talker.rope_deltas = "as before"
    languages = voice.model.config.talker_config.codec_language_id
    modes = [module.training for module in voice.model.modules()]
    assert len(set(modes)) == 2

    def unchanged():
        return (
            [module.training for module in voice.model.modules()] == modes
            and voice.model.talker.rope_deltas == "as before"
            and voice.model.config.talker_config.codec_language_id is languages
            and "generate" not in vars(voice.model)
        )

    voice.probe().run(voice.model)
    assert unchanged()
    with pytest.raises(ZeroDivisionError), probe.undisturbed(voice.model, 0, {}):
        assert not any(module.training for module in voice.model.modules())
        raise ZeroDivisionError
    assert unchanged()


def test_a_model_that_cannot_be_sampled_from_ends_the_probe_and_not_the_run(tiny_base, capsys):
    voice = Voice(tiny_base, train_mode="full")
    said = voice.probe()
    first = said.run(voice.model)
    with torch.no_grad():
        voice.model.talker.codec_head.weight.fill_(float("nan"))
    assert said.run(voice.model) == first, "what comes ranks as what was heard last"
    assert said.run(None) == first, "no model is asked any more"
    assert capsys.readouterr().err.count("left out from now on") == 1


def test_a_model_that_never_stops_costs_a_bounded_number_of_frames(tiny_base, monkeypatch):
    rows = [(f"{text} {number}", "english", None, 8 * number) for number in range(1, 8) for text in TEXTS]
    voice = Voice(tiny_base, rows, train_mode="full")
    with torch.no_grad():
        voice.model.talker.codec_head.weight[voice.model.config.talker_config.codec_eos_token_id] = 0.0
        voice.model.talker.codec_head.weight[voice.model.config.talker_config.codec_eos_token_id, 0] = -1e4
    frames, generate = [], saying.Voice.generate

    def counted(self, **arguments):
        result = generate(self, **arguments)
        frames.append(result.sequences.numel())
        return result

    monkeypatch.setattr(saying.Voice, "generate", counted)
    heard = voice.probe(count=4, text_layout="mixed").run(voice.model)
    assert heard.penalty > 0 and len(heard.findings) == 4
    assert 0 < sum(frames) <= MOST_FRAMES


def test_every_kind_of_row_is_said_in_mixed_precision(tiny_base):
    """Frozen weights in bf16, trained ones in fp32, under autocast, as LoRA training on a GPU has them."""
    rows = [
        (TEXTS[0], "english", "Speak slowly.", 5),
        (TEXTS[1], "auto", None, 6),
        ("Nein.", "german", None, 7),
        ("Sannu.", "hausa", "Softly.", 8),
    ]
    voice = Voice(tiny_base, rows, train_mode="lora")
    for parameter in voice.model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    voice.ids.languages["hausa"] = 2080
    autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
    heard = voice.probe(count=4, text_layout="mixed").run(voice.model, autocast)
    assert len(heard.findings) == 4 and all(f.frames <= limit(f.recorded) for f in heard.findings)


def test_rows_are_said_as_they_are_trained(tiny_base, monkeypatch):
    """Language, instruction and text: generation starts from the very embeddings that training feeds."""
    rows = [(TEXTS[0], "hausa", "Speak slowly.", 5)]
    voice = Voice(tiny_base, rows, train_mode="full")
    voice.ids.languages["hausa"] = 2080
    voice.model.eval()
    fed, generate = [], saying.Voice.generate

    def noted(self, **arguments):
        fed.append(arguments["inputs_embeds"])
        return generate(self, **arguments)

    monkeypatch.setattr(saying.Voice, "generate", noted)
    handle = voice.model.talker.model.register_forward_pre_hook(
        lambda _, args, kwargs: fed.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    for streaming in (False, True):
        fed.clear()
        voice.probe(count=1, text_layout="streaming" if streaming else "non_streaming").run(voice.model)
        start = fed[0]
        fed.clear()
        with torch.no_grad():
            talker_pass(voice.objective, voice.batch(streaming))
        (sequence,) = fed
        torch.testing.assert_close(start, sequence[:, :-5])  # the five frames come after
    handle.remove()


def test_no_row_that_is_short_enough_is_said_once(tiny_base, capsys):
    voice = Voice(tiny_base, [(TEXTS[0], "english", None, 200)], train_mode="full")
    said = voice.probe()
    assert "all rows take more than 192 frames" in capsys.readouterr().out
    heard = said.run(voice.model)
    assert (heard.penalty, heard.record(), heard.summary()) == (0.0, {}, "")


def test_no_probe_is_wanted(tiny_base, capsys):
    voice = Voice(tiny_base, train_mode="full")
    assert voice.probe(count=0).run(voice.model).findings == ()
    assert capsys.readouterr().out == ""


def test_a_model_of_one_book_is_not_said(tiny_base, capsys):
    """Stock generation cannot say it; that is noticed without trying."""
    said = Probe.of(table_of(1, ROWS), lambda texts: [], {}, {}, count=2, text_layout="non_streaming", seed=0)
    assert said.sentences == ()
    assert "one book" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"train_mode": "full"},
        {"train_mode": "lora", "lora_dropout": 0.2, "lora_sub_talker": True, "lora_heads": True},
        {"train_mode": "lora", "lora_mlp": True},
        {"train_mode": "layers", "replace_last_n_layers": 1, "add_new_layers": 1},
    ],
    ids=["full", "lora", "plain-lora", "layers"],
)
def test_the_codes_are_those_of_stock_generate(tiny_base, monkeypatch, values):
    """Greedily, of a model that has been trained a little and whose layers are as training has them."""
    voice = Voice(tiny_base, **values)
    voice.train(6, 5e-3)
    said = voice.probe(text_layout="mixed")
    found = []
    monkeypatch.setattr(
        probe, "problems", lambda codes, stopped, recorded: found.append((codes.tolist(), stopped)) or ()
    )
    greedy = {"do_sample": False, "subtalker_dosample": False}
    state = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in voice.model.named_parameters()}
    with probe.undisturbed(voice.model, 3, voice.ids.languages):
        fast = saying.Voice(voice.model)
        for speaker in (fast, None):
            for number, streaming in enumerate((False, True)):
                said._say(voice.model, speaker, [number], streaming, **greedy)
    assert found[:2] == found[2:] and all(codes for codes, _ in found)
    assert any(codebook != found[0][0][0][0] for codebook in found[0][0][0])
    for name, p in voice.model.named_parameters():
        before, place, weights = state[name]
        assert p is before and p.data_ptr() == place and torch.equal(p, weights), name
