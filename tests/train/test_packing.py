"""Packing changes where the time goes, never the loss: samples in one row do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from job.fast import attention
from job.fast.attention import block_diagonal
from job.loss.batch import collate
from job.loss.chunked import summed
from job.loss.layout import SpecialIds, build
from job.loss.packing import pack, pack_in_windows
from tests.train import adapters
from tests.train.test_contract import CASES, TEXTS, TOLERANCE, log_probabilities, one_case, spread
from tests.train.trained import objective_of, sub_talker_pass, talker_pass


@pytest.fixture(scope="module")
def tts(tiny_base):
    return spread(tiny_base)


def losses_and_gradients(model, batch):
    """Loss sums and the gradient of everything but the frozen text embedding."""
    model.requires_grad_(False)
    model.talker.requires_grad_(True)
    model.talker.model.text_embedding.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    losses = objective_of(model)(batch)
    ((losses.talker + losses.sub_talker) / losses.talker_terms).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return losses, gradients


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_packed_is_unpacked(tts, case):
    """Every layout: samples in one row give the loss of padded rows to 1e-5 in fp32, talker and sub-talker."""
    samples = [one_case(tts, number, **case) for number in range(len(TEXTS))]
    arguments = ([s[0] for s in samples], [s[1] for s in samples])
    padded, packed = collate(*arguments), collate(*arguments, packed=True)
    assert packed.text_index.shape == (1, sum(len(s) for s in arguments[0]))
    assert padded.text_index.numel() > packed.text_index.numel()
    with torch.no_grad():
        one, other = objective_of(tts.model)(padded), objective_of(tts.model)(packed)
    for part in ("talker", "sub_talker"):
        torch.testing.assert_close(getattr(other, part), getattr(one, part), rtol=1e-5, atol=0)
        assert getattr(other, f"{part}_terms") == getattr(one, f"{part}_terms")


def test_mixed_layouts_in_one_row(tts):
    """A row of cloning, streaming and instructed samples: what stock generation samples from, sample by sample."""
    cases = [
        {"streaming": True, "language": "Auto", "speaker": True, "instruct": False, "icl": 25},
        {"streaming": False, "language": "English", "speaker": False, "instruct": True, "icl": 0},
        {"streaming": True, "language": "English", "speaker": True, "instruct": True, "icl": 0},
    ]
    samples = [one_case(tts, number, **case) for number, case in enumerate(cases)]
    batch = collate([s[0] for s in samples], [s[1] for s in samples], packed=True)
    objective = objective_of(tts.model)
    with torch.no_grad():
        logits, hidden, codebooks = talker_pass(objective, batch)
        heads = sub_talker_pass(objective, hidden[batch.hidden_positions], codebooks[batch.frame_rows])
    talker = logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
    codes = batch.frames[batch.frame_rows]
    sub = torch.stack(heads, 1).log_softmax(-1).gather(2, codes[:, 1:, None])[:, :, 0]
    expected = [log_probabilities(tts.model, frames, **arguments) for _, _, frames, arguments in samples]
    torch.testing.assert_close(talker, torch.cat([t for t, _ in expected]), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(sub, torch.cat([s for _, s in expected]), atol=TOLERANCE, rtol=0)


def three(tts):
    case = {"streaming": False, "language": "Auto", "speaker": True, "instruct": False, "icl": 0}
    samples = [one_case(tts, number, **case) for number in range(len(TEXTS))]
    return [s[0] for s in samples], [s[1] for s in samples]


def test_packed_trains_as_unpacked(tts):
    """The gradients are the same too."""
    sequences, vectors = three(tts)
    _, padded = losses_and_gradients(tts.model, collate(sequences, vectors))
    _, packed = losses_and_gradients(tts.model, collate(sequences, vectors, packed=True))
    assert padded.keys() == packed.keys()
    for name, gradient in padded.items():
        assert (packed[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_other_attention_implementations_stay_within_samples(tts, implementation):
    """ATTN_IMPLEMENTATION=eager, and SDPA with the block-diagonal mask, give what per-sample attention gives."""
    sequences, vectors = three(tts)
    batch, objective = collate(sequences, vectors, packed=True), objective_of(tts.model)
    config = tts.model.talker.model.config
    assert config._attn_implementation == attention.NAME
    with torch.no_grad():
        expected = objective(batch)
        config._attn_implementation = {"": implementation}
        try:
            found = objective(batch)
        finally:
            config._attn_implementation = {"": attention.NAME}
    torch.testing.assert_close(found.talker, expected.talker, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.sub_talker, expected.sub_talker, rtol=1e-5, atol=0)


def heads(seed, total, dtype=torch.float32, device="cpu"):
    """Query, key and value of a row: 4 heads over 2 of key and value."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, 4, total, 32), (1, 2, total, 32), (1, 2, total, 32)]
    return [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]


LENGTHS = [5, 1, 17, 64, 2]


def attention_and_gradients(function, tensors):
    output = function(*tensors)
    weights = torch.arange(output.numel(), device=output.device).reshape(output.shape).cos().to(output.dtype)
    return [output, *torch.autograd.grad((output * weights).sum(), tensors)]


def masked(bounds, total):
    def function(query, key, value):
        mask = block_diagonal(bounds, total)
        key, value = (t.repeat_interleave(2, dim=1) for t in (key, value))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)

    return function


def test_attention_of_a_row_is_attention_under_a_mask():
    """Per-sample attention over (1, heads, T, d) equals SDPA under the block-diagonal mask, gradients too."""
    bounds, total = torch.tensor(np.cumsum([0, *LENGTHS]), dtype=torch.int32), sum(LENGTHS)

    def row(q, k, v):
        return attention.attend(None, q, k, v, None, samples=attention.Samples(bounds, LENGTHS))[0]

    tensors = heads(0, total)
    for found, expected in zip(
        attention_and_gradients(row, tensors), attention_and_gradients(masked(bounds, total), tensors), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="varlen_attn runs on CUDA only")
def test_varlen_attention_is_attention_under_a_mask():
    """On a GPU in bf16 the row goes through `varlen_attn`, and equals SDPA under the block-diagonal mask."""
    bounds = torch.tensor(np.cumsum([0, *LENGTHS]), dtype=torch.int32, device="cuda")

    def row(q, k, v):
        return attention.attend(None, q, k, v, None, samples=attention.Samples(bounds, LENGTHS))[0]

    tensors = heads(0, sum(LENGTHS), torch.bfloat16, "cuda")
    expected = attention_and_gradients(masked(bounds, sum(LENGTHS)), tensors)
    for found, wanted in zip(attention_and_gradients(row, tensors), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("repeats", [1, 2])
def test_varlen_is_given_the_samples(monkeypatch, repeats):
    """What `varlen_attn` is called with, by its documented meaning: (T, H, d) rows, bounds, longest, causal window."""
    from torch.nn.attention import varlen

    def by_its_documentation(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        assert all(t.is_contiguous() for t in (query, key, value))
        assert query.shape == (sum(LENGTHS), 4, 32) and key.shape == value.shape == (sum(LENGTHS), 2 * repeats, 32)
        assert cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k) and max_q == max_k == max(LENGTHS)
        assert window_size == (-1, 0)
        parts = []
        for start, end in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
            q, k, v = (t[start:end].transpose(0, 1) for t in (query, key, value))
            attend = torch.nn.functional.scaled_dot_product_attention
            whole = attend(q[None], k[None], v[None], is_causal=True, scale=scale, enable_gqa=repeats == 1)[0]
            parts.append(whole.transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr(varlen, "varlen_attn", by_its_documentation)
    bounds, total = torch.tensor(np.cumsum([0, *LENGTHS]), dtype=torch.int32), sum(LENGTHS)
    tensors = heads(0, total)
    found = attention._varlen(*tensors, bounds, max(LENGTHS), None, repeats)
    torch.testing.assert_close(found, masked(bounds, total)(*tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("visit", [0, 7])
def test_the_frames_that_have_their_turn_expect_the_whole_loss(tts, visit):
    """SUB_TALKER_FRAME_FRACTION: the mean over all phases that can be drawn is the loss over all frames."""
    sequences, vectors = three(tts)
    objective, drawn = objective_of(tts.model), []
    with torch.no_grad():
        whole = objective(collate(sequences, vectors, packed=True)).sub_talker
        for phase in np.linspace(0, 1, 40, endpoint=False) + 0.003:
            batch = collate(sequences, vectors, packed=True, phases=[phase] * len(sequences))
            drawn.append(objective(batch.turn(0.3, visit)).sub_talker)
    assert torch.stack(drawn).std() > 1e-3 * whole, "shares must differ"
    torch.testing.assert_close(torch.stack(drawn).mean(), whole, rtol=1e-4, atol=0)


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.125])
def test_the_visits_of_a_round_are_the_whole_loss(tts, fraction):
    """Every frame has its turn once in 1 / fraction visits: their mean is the loss over all frames, gradients too."""
    sequences, vectors = three(tts)
    batch, objective = collate(sequences, vectors, packed=True, phases=[0.1, 0.7, 0.34]), objective_of(tts.model)
    heads = list(tts.model.talker.code_predictor.lm_head.parameters())
    visits = [objective(batch.turn(fraction, visit)).sub_talker for visit in range(8, 8 + round(1 / fraction))]
    mean, whole = torch.stack(visits).mean(), objective(batch).sub_talker
    torch.testing.assert_close(mean, whole, rtol=1e-5, atol=0)
    for one, other in zip(torch.autograd.grad(mean, heads), torch.autograd.grad(whole, heads), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.3, 0.75, 0.9])
@pytest.mark.parametrize("period", [1, 2, 4])
def test_no_frame_is_kept_to_one_layout(tts, fraction, period):
    """Layout and language of a clip change with every other visit: each frame has its turns in all of them."""
    sequences, vectors = three(tts)
    batch = collate(sequences, vectors, packed=True, phases=[0.1, 0.7, 0.34])
    visits = 16 * period
    taken = np.zeros((period, batch.target_frames))
    for visit in range(visits):
        taken[visit % period, batch.turn(fraction, visit).chosen.numpy()] += 1
    fair = visits / period * fraction
    if (1 / fraction).is_integer():
        assert (taken == fair).all()
    assert np.abs(taken - fair).max() <= 3


@given(
    lengths=st.lists(st.integers(7, 250), min_size=1, max_size=4),
    fraction=st.floats(0.25, 1.0),
    seed=st.integers(0, 1000),
    visit=st.integers(0, 10_000),
)
def test_every_clip_has_a_share_of_its_frames_at_every_visit(tts, lengths, fraction, seed, visit):
    """From half a second to 20 on, at any share from a quarter on: within three frames of it, and never none."""
    phases = np.random.default_rng(seed).random(len(lengths)).tolist()
    ids = SpecialIds.from_config(tts.model.config.to_dict())
    sequences = [
        build(ids, np.arange(9), np.zeros((n, ids.codebooks), dtype=np.int16), streaming=False, language=None)
        for n in lengths
    ]
    chosen = collate(sequences, [np.zeros(4, dtype=np.float32)] * len(lengths), phases=phases).turn(fraction, visit)
    ends = np.cumsum(lengths)
    counts = np.bincount(np.searchsorted(ends, chosen.chosen.numpy(), "right"), minlength=len(lengths))
    for count, frames in zip(counts, lengths, strict=True):
        assert count >= 1 and abs(count - fraction * frames) <= 3


@pytest.mark.parametrize("trained", ["head and states", "head", "states"])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_a_loss_in_chunks_is_the_loss(trained, chunk):
    """Loss and gradients taken chunk by chunk equal those of all rows at once."""
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(8, 40).requires_grad_(trained != "states")
    states = torch.randn(100, 8, generator=generator).requires_grad_(trained != "head")
    labels = torch.randint(40, (len(states),), generator=generator)

    def loss_of(rows, targets):
        return torch.nn.functional.cross_entropy(head(rows), targets, reduction="sum")

    wanted = [t for t in (states, *head.parameters()) if t.requires_grad]
    plain = loss_of(states, labels)
    expected = torch.autograd.grad(plain / 7, wanted)
    found = summed(loss_of, states, labels, head.parameters(), chunk)
    torch.testing.assert_close(found, plain)
    for gradient, whole in zip(torch.autograd.grad(found / 7, wanted), expected, strict=True):
        torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(summed(loss_of, states, labels, head.parameters(), chunk), plain)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_every_trained_weight_gets_the_gradient_of_the_plain_loss(tiny_base, mode, monkeypatch):
    """The chunked objective's gradients equal plain autograd's, for every trained tensor of talker and sub-talker."""
    from job.config.settings import Settings
    from job.loss import objective as module
    from job.train.adapt import adapt

    tts = spread(tiny_base)
    adapt(tts.model, Settings(train_mode=mode))
    adapters.move(tts.model)
    batch = collate(*three(tts), packed=True)
    objective = objective_of(tts.model)
    trained = {name: p for name, p in tts.model.named_parameters() if p.requires_grad}
    monkeypatch.setattr(module, "FRAMES_AT_ONCE", {"cpu": 4, "cuda": 4})
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 5)
    found = objective(batch)
    found = torch.autograd.grad(found.talker + 0.3 * found.sub_talker, list(trained.values()), allow_unused=True)

    logits, hidden, codebooks = talker_pass(objective, batch)
    heads = sub_talker_pass(objective, hidden[batch.hidden_positions], codebooks[batch.frame_rows])
    codes = batch.frames[batch.frame_rows]
    entropy = torch.nn.functional.cross_entropy
    loss = entropy(logits, batch.labels, reduction="sum")
    loss = loss + 0.3 * sum(entropy(head, codes[:, i], reduction="sum") for i, head in enumerate(heads, start=1))
    expected = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    for name, one, other in zip(trained, found, expected, strict=True):
        assert other is not None and other.norm() > 0, name
        assert one is not None and (one - other).norm() <= 1e-4 * other.norm(), name


lengths = st.lists(st.integers(1, 400), min_size=1, max_size=300)


@settings(deadline=None)
@given(lengths, st.integers(50, 900))
def test_every_sample_is_in_one_row(samples, capacity):
    """Packing loses nothing, and no row but a single long sample's is over its capacity."""
    samples = np.asarray(samples)
    for rows in (pack(samples, capacity), list(pack_in_windows(range(len(samples)), samples, capacity))):
        assert sorted(i for row in rows for i in row) == list(range(len(samples)))
        assert all(len(row) == 1 or samples[row].sum() <= capacity for row in rows)


@pytest.mark.parametrize("capacity", [1024, 2048, 8192])
def test_rows_are_full(capacity):
    """At least 97 % of the positions of packed rows hold something, for clips of 0.5 to 20 s."""
    random = np.random.default_rng(0)
    seconds = np.clip(random.lognormal(np.log(4), 0.7, 5000), 0.5, 20)
    samples = np.ceil(seconds * 12.5).astype(int) + np.ceil(seconds * 4).astype(int) + 12
    rows = list(pack_in_windows(random.permutation(5000).tolist(), samples, capacity))
    assert samples.sum() / (len(rows) * capacity) >= 0.97


def test_a_kernel_that_cannot_run_or_is_wrong_costs_speed_and_not_the_voice(monkeypatch, capsys):
    """The fused kernel is tried against SDPA before it is used, first with key heads that it shares itself: one that
    fails or differs in both ways is warned of and left out."""
    arguments = (4, 2, 16, torch.float32, torch.device("cpu"))

    def right(query, key, value, bounds, longest, scaling, repeats):
        return attention._sample_by_sample(query, key, value, bounds.diff().tolist(), scaling)

    def right_if_repeated(*others):
        if others[-1] == 1:
            raise RuntimeError("expected as many key heads as query heads")
        return right(*others)

    def broken(*others):
        raise RuntimeError("no kernel image is available")

    def found(kernel):
        monkeypatch.setattr(attention, "_varlen", kernel)
        attention._repeats.cache_clear()
        try:
            return attention._repeats(*arguments), capsys.readouterr().err
        finally:
            attention._repeats.cache_clear()

    assert found(right) == (1, "")
    assert found(right_if_repeated) == (2, "")
    repeats, said = found(lambda q, *others: right(q * 1.1, *others))
    assert repeats == 0 and "its results differ" in said
    repeats, said = found(broken)
    assert repeats == 0 and said.count("no kernel image") == 1
