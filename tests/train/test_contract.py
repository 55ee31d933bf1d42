"""The promise of the project: training predicts exactly what generation samples, in every layout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from job.loss import layout
from job.loss.batch import collate
from job.loss.layout import Reference, SpecialIds, build
from tests.train.forced import log_probabilities
from tests.train.trained import objective_of, sub_talker_pass, talker_pass

TEXTS = ["Hello.", "A rather longer sentence, to be read beside the frames.", "Ja?"]
FRAMES = [2, 3, 6]
TOLERANCE = 1e-4


def spread(base):
    """Load a base and spread its weights, so that log-probabilities are far from uniform."""
    from qwen_tts import Qwen3TTSModel

    tts = Qwen3TTSModel.from_pretrained(str(base), dtype=torch.float32)
    with torch.no_grad():
        for parameter in tts.model.talker.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    tts.model.eval()
    return tts


@pytest.fixture(scope="module")
def tts(tiny_base):
    return spread(tiny_base)


def tokenized(tts, string):
    return tts.processor(text=string, return_tensors="pt")["input_ids"]


def random_frames(tts, count, seed):
    codebooks = tts.model.config.talker_config.num_code_groups
    return np.random.default_rng(seed).integers(0, 2048, (count, codebooks)).astype(np.int16)


def one_case(tts, number, *, streaming, language, speaker, instruct, icl):
    """One sample as a training sequence, its speaker vector, and the arguments that make stock generate say it."""
    ids = SpecialIds.from_config(tts.model.config.to_dict())
    text = tokenized(tts, layout.text_template(TEXTS[number]))
    frames = random_frames(tts, FRAMES[number], number)
    vector = torch.randn(tts.model.config.talker_config.hidden_size, generator=torch.Generator().manual_seed(number))
    arguments = {"input_ids": [text], "languages": [language], "non_streaming_mode": not streaming}
    reference = instruct_ids = None
    if instruct:
        instruct_ids = tokenized(tts, layout.instruct_template("Speak slowly."))
        arguments["instruct_ids"] = [instruct_ids]
    if icl:
        reference_text = tokenized(tts, layout.reference_template("What was said before."))
        reference = Reference(reference_text[0].numpy(), random_frames(tts, icl, 99))
        arguments["ref_ids"] = [reference_text]
    if speaker:
        arguments["voice_clone_prompt"] = {
            "ref_code": [torch.as_tensor(reference.frames, dtype=torch.long) if reference else None],
            "ref_spk_embedding": [vector],
            "x_vector_only_mode": [not icl],
            "icl_mode": [bool(icl)],
        }
    sequence = build(
        ids,
        text[0].numpy(),
        frames,
        streaming=streaming,
        language=ids.language_row(language),
        speaker=speaker,
        instruct_ids=None if instruct_ids is None else instruct_ids[0].numpy(),
        reference=reference,
    )
    return sequence, vector.numpy(), frames, arguments


def ours(tts, sequences, vectors):
    """Per-token log-probabilities of a batch from the training objective's own passes."""
    objective = objective_of(tts.model)
    batch = collate(sequences, vectors)
    with torch.no_grad():
        logits, hidden, codebooks = talker_pass(objective, batch)
        heads = sub_talker_pass(objective, hidden[batch.hidden_positions], codebooks[batch.frame_rows])
        losses = objective(batch)
    talker = logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
    codes = batch.frames[batch.frame_rows]
    sub = torch.stack(heads, 1).log_softmax(-1).gather(2, codes[:, 1:, None])[:, :, 0]
    return talker, sub, losses


CASES = [
    {"streaming": streaming, "language": language, "speaker": speaker, "instruct": instruct, "icl": icl}
    for streaming, language, speaker, instruct, icl in itertools.product(
        (False, True), ("Auto", "English"), (True, False), (False, True), (0, 3, 25)
    )
    if speaker or not icl
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_training_predicts_what_generation_samples(tts, case):
    """Every layout, a batch of samples of different lengths: equal to stock generate to 1e-4, talker and sub-talker."""
    samples = [one_case(tts, number, **case) for number in range(len(TEXTS))]
    talker, sub, losses = ours(tts, [s[0] for s in samples], [s[1] for s in samples])
    expected = [log_probabilities(tts.model, frames, **arguments) for _, _, frames, arguments in samples]
    expected_talker = torch.cat([t for t, _ in expected])
    expected_sub = torch.cat([s for _, s in expected])
    assert expected_talker.std() > 0.1, "the reference must tell right from wrong"
    torch.testing.assert_close(talker, expected_talker, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(sub, expected_sub, atol=TOLERANCE, rtol=0)
    assert losses.talker_terms == len(expected_talker)
    assert losses.sub_talker_terms == expected_sub.numel()
    torch.testing.assert_close(losses.talker, -expected_talker.sum(), atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(losses.sub_talker, -expected_sub.sum(), atol=1e-1, rtol=1e-5)


WIDTHS_DIFFER = [c for c in CASES if c["icl"] != 3 and c["language"] == "English" and not c["instruct"]]


@pytest.fixture(scope="module")
def projected_tts(tmp_path_factory):
    """A base whose text, talker and sub-talker widths all differ, as the released sizes' do."""
    from job.demo.base import build as build_base

    sizes = {"hidden_size": 48, "sub_talker_hidden_size": 32, "text_hidden_size": 80}
    return spread(build_base(tmp_path_factory.mktemp("projected"), **sizes))


@pytest.mark.slow
@pytest.mark.parametrize("case", WIDTHS_DIFFER, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_training_predicts_what_generation_samples_when_all_widths_differ(projected_tts, case):
    """The same with projections between text, talker and sub-talker."""
    test_training_predicts_what_generation_samples(projected_tts, case)


def _aligned(tts):
    case = {"streaming": False, "language": "Auto", "speaker": True, "instruct": False, "icl": 0}
    samples = [one_case(tts, number, **case) for number in range(len(TEXTS))]
    expected = [log_probabilities(tts.model, frames, **arguments) for _, _, frames, arguments in samples]
    batch = collate([s[0] for s in samples], [s[1] for s in samples])
    return batch, torch.cat([t for t, _ in expected]), torch.cat([s for _, s in expected])


def _talker_differs(batch, objective, expected):
    with torch.no_grad():
        logits, _, _ = talker_pass(objective, batch)
    talker = logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
    return (talker - expected).abs().max().item()


def test_the_comparison_catches_a_label_shifted_twice(tts):
    """Misalignment 1 (talker learns frame j + 2): logits taken one position early must not pass."""
    batch, expected, _ = _aligned(tts)
    assert _talker_differs(batch, objective_of(tts.model), expected) < TOLERANCE
    batch.label_positions = batch.label_positions - 1
    assert _talker_differs(batch, objective_of(tts.model), expected) > 100 * TOLERANCE


def test_the_comparison_catches_a_leaked_hidden_state(tts):
    """Misalignment 2: the hidden state at the frame's own position, which has consumed its codes, must not pass."""
    batch, _, expected = _aligned(tts)
    objective = objective_of(tts.model)
    codes = batch.frames[batch.frame_rows]
    differences = []
    for late in (0, 1):
        with torch.no_grad():
            _, hidden, codebooks = talker_pass(objective, batch)
            heads = sub_talker_pass(objective, hidden[batch.hidden_positions + late], codebooks[batch.frame_rows])
        sub = torch.stack(heads, 1).log_softmax(-1).gather(2, codes[:, 1:, None])[:, :, 0]
        differences.append((sub - expected).abs().max().item())
    assert differences[0] < TOLERANCE
    assert differences[1] > 100 * TOLERANCE


def test_the_comparison_catches_shifted_sub_talker_labels(tts):
    """Misalignment 3: the library's own sub-talker loss trains head i on codebook i + 2 and must not agree."""
    batch, _, expected = _aligned(tts)
    objective = objective_of(tts.model)
    codes = batch.frames[batch.frame_rows]
    with torch.no_grad():
        _, hidden, _ = talker_pass(objective, batch)
        own = hidden[batch.hidden_positions]
        logits, library_loss = tts.model.talker.forward_sub_talker_finetune(codes, own)
        ours_loss = objective(batch).sub_talker / expected.numel()
    # The library's logits are right; it is its loss that shifts the labels again.
    right = logits.log_softmax(-1).gather(2, codes[:, 1:, None])[:, :, 0]
    assert (right - expected).abs().max() < TOLERANCE
    torch.testing.assert_close(ours_loss, -expected.mean(), atol=TOLERANCE, rtol=0)
    assert (library_loss - ours_loss).abs() > 100 * TOLERANCE


def test_vendor_structure_disagrees_with_generation(tts):
    """The talker loss as the public scripts compute it (shift by hand, then again in the library) is another loss."""
    batch, expected, _ = _aligned(tts)
    objective = objective_of(tts.model)
    with torch.no_grad():
        total = objective(batch).talker / len(expected)
        inner = tts.model.talker.model
        flat = torch.full(batch.attention_mask.shape, layout.IGNORED).reshape(-1)
        flat[batch.label_positions] = batch.labels
        labels = flat.reshape(batch.attention_mask.shape)
        text = tts.model.talker.text_projection(inner.text_embedding(batch.text_rows))
        tables = [inner.codec_embedding, *tts.model.talker.code_predictor.get_input_embeddings()]
        codebooks = torch.stack([t(batch.frames[:, b]) for b, t in enumerate(tables)], dim=1).sum(1)
        special = inner.codec_embedding(batch.codec_rows)
        table = torch.cat([torch.zeros(1, special.shape[1]), special, codebooks, batch.speakers])
        inputs = F.pad(text[batch.text_index] + table[batch.codec_index], (0, 0, 0, 1))
        mask, labels = (
            F.pad(batch.attention_mask, (0, 1)),
            F.pad(labels, (1, 0), value=layout.IGNORED),
        )  # at the token's own place
        vendor = tts.model.talker(inputs_embeds=inputs[:, :-1], attention_mask=mask[:, :-1], labels=labels[:, 1:]).loss
        once = tts.model.talker(inputs_embeds=inputs, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(once, total, atol=TOLERANCE, rtol=0)  # shifted once, by the library: right
    assert (vendor - total).abs() > 100 * TOLERANCE
