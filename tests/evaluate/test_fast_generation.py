"""Our loop over frames against stock `generate`: the same codes, the same draws, the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from transformers import GenerationConfig

from job.demo.base import build
from job.evaluate import speaking
from job.generation import recorded, talker
from job.generation.recorder import GenerationRecorder, Spoken, quiet_generation
from job.generation.sampling import Choice
from job.generation.stack import Unknown
from job.generation.talker import FastTalker, generating
from job.model.loading import load_model
from tests.evaluate.conftest import custom_voice

CPU = torch.device("cpu")
TEXTS = ("Hello there.", "A longer sentence is this one, you know.", "Nine.", "What? No!", "Hi")
GREEDY: dict[str, Any] = {"do_sample": False, "subtalker_dosample": False}
Models = tuple[Any, Any, FastTalker]


def pair(directory: Path) -> Models:
    """A checkpoint for stock `generate`, and once more for ours (which rearranges weights)."""
    stock, other = (load_model(directory, CPU, torch.float32) for _ in range(2))
    return stock, other, FastTalker(other.model.talker)


@pytest.fixture(scope="module")
def demo(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The built-in shape: as many query heads as two for each key head, no projection before the sub-talker."""
    return pair(custom_voice(tiny_base, tmp_path_factory.mktemp("demo") / "best", end_scale=-4))


@pytest.fixture(scope="module")
def other_shape(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A sub-talker of another width (as in the 1.7B model), three layers, four codebooks, every head its own keys."""
    base = build(
        tmp_path_factory.mktemp("other") / "base",
        hidden_size=48, text_hidden_size=40, layers=3, heads=2, key_value_heads=2, head_dim=12,
        sub_talker_hidden_size=32, sub_talker_layers=1, codebooks=4,
    )  # fmt: skip
    return pair(custom_voice(base, base.parent / "best", end_scale=-4))


def spoken(model: Any, fast: FastTalker | None, seed: int = 3, **arguments: Any) -> list[Spoken]:
    torch.manual_seed(seed)
    languages = ["English", "Auto", "German", "Auto", "English"]
    instructs = ["", "Speak as if you were tired.", "", "Loud!", ""]
    with quiet_generation(), generating(model, fast), GenerationRecorder(model) as recorder:
        model.generate_custom_voice(
            list(TEXTS),
            speaker=["my_voice", "other", "my_voice", "my_voice", "other"],
            language=languages,
            instruct=instructs,
            **{"max_new_tokens": 30, **arguments},
        )
    return recorder.spoken


def assert_same(models: Models, **arguments: Any) -> list[Spoken]:
    stock, other, fast = models
    theirs, ours = spoken(stock, None, **arguments), spoken(other, fast, **arguments)
    for one, our in zip(theirs, ours, strict=True):
        assert torch.equal(one.codes, our.codes)
        assert one.stopped_by_eos == our.stopped_by_eos
    return ours


@pytest.mark.parametrize(
    ("shape", "non_streaming_mode"),
    [
        ("demo", False),
        ("other_shape", True),
        pytest.param("demo", True, marks=pytest.mark.slow),
        pytest.param("other_shape", False, marks=pytest.mark.slow),
    ],
)
def test_greedy_codes_and_ends_are_those_of_stock_generate(
    shape: str, non_streaming_mode: bool, request: pytest.FixtureRequest
):
    """Texts of different lengths, with and without instruct, in one batch: padding, languages, ends at other times."""
    models = request.getfixturevalue(shape)
    said = assert_same(models, non_streaming_mode=non_streaming_mode, max_new_tokens=45, **GREEDY)
    assert len({len(one.codes) for one in said}) > 1, "nothing ended at another time than the rest"
    assert all(one.codes.shape[1] == models[2].codebooks for one in said)


def drawn_by_sums(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
    """`torch.multinomial`, taking its random numbers as `Choice` does: one of each row, the likeliest tokens first."""
    assert num_samples == 1
    falling, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    reached = falling.cumsum(dim=-1)
    wanted = (1 - torch.rand(len(falling), 1)) * reached[:, -1:]
    return tokens.gather(1, (reached < wanted).sum(dim=-1, keepdim=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"top_k": 0, "subtalker_top_k": 5, "top_p": 0.7, "subtalker_top_p": 0.8, "repetition_penalty": 1.3},
        {"temperature": 1.0, "subtalker_temperature": 0.6, "repetition_penalty": 1.0, "subtalker_dosample": False},
    ],
    ids=["defaults", "top-p", "mixed"],
)
def test_the_same_random_numbers_draw_the_same_codes(
    demo: Models, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Same logits, same processing: stock `generate`, made to use random numbers in our way, says what ours says."""
    monkeypatch.setattr(torch, "multinomial", drawn_by_sums)
    first = assert_same(demo, max_new_tokens=16, **arguments)
    second = spoken(demo[1], demo[2], seed=4, max_new_tokens=16, **arguments)
    assert any(not torch.equal(a.codes, b.codes) for a, b in zip(first, second, strict=True))


def test_memory_for_keys_grows_block_by_block(demo: Models, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(talker, "BLOCK", 8)
    assert_same(demo, **GREEDY)


@pytest.mark.parametrize("top_k", [0, 1, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.6])
@pytest.mark.parametrize("drawn", [0, 1, 2, 7])
def test_scores_are_those_of_transformers_processors(demo: Models, top_k: int, top_p: float, drawn: int):
    """Every processor that stock arguments bring in, in its order, on logits that are ties in part."""
    stock = demo[0].model.talker
    made = torch.Generator().manual_seed(drawn)
    size, end, suppressed = 300, 250, [i for i in range(200, 300) if i != 250]
    logits = (4 * torch.randn(3, size, generator=made)).round(decimals=1)
    ids = torch.randint(0, size, (3, drawn), generator=made)
    config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=top_k, top_p=top_p, repetition_penalty=1.2, min_new_tokens=2,
        suppress_tokens=suppressed, eos_token_id=end,
    )  # fmt: skip
    stock._prepare_special_tokens(config, device=CPU)
    processors = stock._get_logits_processor(config, input_ids_seq_length=0, logits_processor=[], device="cpu")
    mask = torch.zeros(size, dtype=torch.bool).index_fill(0, torch.tensor(suppressed), True)
    seen = torch.zeros(3, size, dtype=torch.bool).scatter(1, ids, True)
    choice = Choice(True, 0.7, top_k, top_p, 1.2, mask, end, 2)
    kept, tokens = choice.likeliest(choice.scores(logits, drawn, seen))
    assert bool((kept[:, :-1] >= kept[:, 1:]).all())
    ours = torch.full_like(logits, -torch.inf).scatter(1, tokens, kept)
    torch.testing.assert_close(ours, processors(ids, logits.clone()))


@given(st.lists(st.lists(st.integers(0, 3), min_size=40, max_size=40), min_size=1, max_size=4))
def test_the_first_of_the_likeliest_is_taken(logits: list[list[int]]):
    """Where several are, as `argmax` does in stock code."""
    rows = torch.tensor(logits, dtype=torch.float32)
    assert torch.equal(Choice(False, 1.0, 0, 1.0)(rows), rows.argmax(dim=-1))


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (12, 1.0), (0, 0.8)])
def test_tokens_are_drawn_as_often_as_they_are_likely(top_k: int, top_p: float):
    """Pearson's test over many draws, at a level of one in ten thousand; excluded tokens never come."""
    choice = Choice(True, 0.8, top_k, top_p)
    logits = 2 * torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    kept, tokens = choice.likeliest(choice.scores(logits, 0, None))
    expected = torch.zeros(1, 40).scatter(1, tokens, kept.softmax(-1))[0].double()
    torch.manual_seed(1)
    draws = 200_000
    found = choice(logits.expand(draws, -1)).bincount(minlength=40).double()
    assert found[expected == 0].sum() == 0
    often = expected > 1e-4
    off = (found - draws * expected)[often].square() / (draws * expected[often])
    assert chi2.sf(float(off.sum()), int(often.sum()) - 1) > 1e-4


@given(st.integers(0, 2**31), st.integers(0, 9), st.floats(0.05, 1.0))
def test_what_is_excluded_is_never_drawn(seed: int, top_k: int, top_p: float):
    """Ties, scores far apart, whole rows at minus infinity but for one."""
    made = torch.Generator().manual_seed(seed)
    logits = (60 * torch.randn(50, 30, generator=made)).round(decimals=-1)
    suppressed = torch.rand(30, generator=made) < 0.9
    suppressed[int(seed % 30)] = False
    torch.manual_seed(seed)
    drawn = Choice(True, 1.0, top_k, top_p, suppressed=suppressed)(logits)
    assert not bool(suppressed[drawn].any())


def test_frames_that_cannot_be_recorded_are_drawn_one_by_one(
    demo: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A CUDA graph on a machine without a GPU fails for real: one line, no other codes, no second attempt."""
    stock, other, _ = demo
    monkeypatch.setattr(torch, "multinomial", drawn_by_sums)
    monkeypatch.setattr(recorded, "recordable", lambda tensor: True)
    fast = FastTalker(other.model.talker)
    for seed in (3, 4):
        theirs, ours = (spoken(m, f, seed=seed, max_new_tokens=5) for m, f in ((stock, None), (other, fast)))
        assert all(torch.equal(a.codes, b.codes) for a, b in zip(theirs, ours, strict=True))
    assert capsys.readouterr().err.count("without a CUDA graph") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("drawn", [False, True])
def test_recorded_frames_are_those_drawn_one_by_one(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: bool
):
    """Batches one after the other, of one size and of another, with the same seeds: the same codes."""
    directory = custom_voice(tiny_base, tmp_path / "best", end_scale=-4)
    found = []
    for recordable in (True, False):
        monkeypatch.setattr(recorded, "recordable", lambda tensor, answer=recordable: answer)
        model = load_model(directory, torch.device("cuda"), torch.float32)
        fast = FastTalker(model.model.talker)
        arguments = {"max_new_tokens": 20, **({} if drawn else GREEDY)}
        said = [one.codes.cpu() for seed in (3, 4) for one in spoken(model, fast, seed=seed, **arguments)]
        with quiet_generation(), generating(model, fast), GenerationRecorder(model) as recorder:
            torch.manual_seed(5)
            model.generate_custom_voice("Hello there.", speaker="my_voice", language="English", **arguments)
        assert (fast._recorded is not None) == recordable
        found.append([*said, *(one.codes.cpu() for one in recorder.spoken)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("only_then", [False, True])
def test_a_recording_that_fails_leaves_the_gpu_as_it_was(only_then: bool):
    """Work that waits for a value, always or only while it is recorded: the same draws as without the attempt."""

    def work(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        drawn = torch.rand(4, device=x.device)
        if not only_then or torch.cuda.is_current_stream_capturing():
            drawn.sum().item()
        return (x + drawn,)

    x, stream = torch.zeros(4, device="cuda"), torch.cuda.current_stream()
    torch.manual_seed(1)
    with pytest.raises(RuntimeError):
        recorded.Recorded(work, x)
    found = torch.rand(8, device="cuda")
    torch.manual_seed(1)
    assert torch.equal(found, torch.rand(8, device="cuda"))
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0


def test_a_rearranged_model_still_speaks_by_stock_generate(demo: Models):
    """The weights are moved, not changed: the model can be used and saved as before."""
    stock, other, _ = demo
    for (name, one), (_, our) in zip(stock.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(one, our), name
    theirs, ours = (spoken(model, None, max_new_tokens=6, **GREEDY) for model in (stock, other))
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(theirs, ours, strict=True))


def test_models_of_another_kind_are_left_to_stock_generate(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One line says why; layers that compute something else are found by comparing, whatever they are."""
    model = load_model(custom_voice(tiny_base, tmp_path / "best"), CPU, torch.float32)
    assert speaking.fast_talker(model) is not None
    attention = model.model.talker.model.layers[0].self_attn
    attention.scaling *= 2  # of one layer only
    with pytest.raises(Unknown, match="differ"):
        FastTalker(model.model.talker)
    attention.scaling /= 2
    attention.sliding_window = 8
    assert speaking.fast_talker(model) is None
    assert "sliding window" in capsys.readouterr().err
    attention.sliding_window = None
    model.model.talker.generation_config.num_beams = 2
    with pytest.raises(Unknown, match="num_beams"):
        FastTalker(model.model.talker)
