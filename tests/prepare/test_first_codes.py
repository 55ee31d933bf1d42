"""The first clip's codes are those of every other time: on any load, after a fault, on any number of threads."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from job import prepare
from job.audio.clip import load, pad_to_frames
from job.config.settings import Settings
from job.core import files
from job.core.errors import MachineFault
from job.core.threads import one_torch_thread, reproducible
from job.dataset.prepared import read_split, row_codes
from job.demo import manifest
from job.model import loading
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare import encode, row_encoder, shards, work
from job.prepare.codec import Codec, load_codec
from job.prepare.encode import Item, encode_items, encode_singly
from job.prepare.stage import merge
from job.prepare.work import COPIES, Work
from tests.prepare.conftest import Make, complete, voice
from tests.prepare.test_shards import everything, leftovers, notes


def tokenizer(base: Path) -> Any:
    return loading.load_speech_tokenizer(base / "speech_tokenizer", torch.device("cpu"))


def codebooks(codec: Codec) -> list[Any]:
    """The encoder's codebooks, as the codes' columns."""
    quantizer: Any = codec.tokenizer.model.encoder.quantizer
    parts = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
    return [layer.codebook for part in parts for layer in part.layers]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch has; what they were before comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- fresh processes on a busy machine


def prepare_afresh(work_dir: str, base: str, count: int) -> None:
    """What a new process does: the stage, with `count` threads."""
    torch.set_num_threads(count)
    prepare.run(Settings(work_dir=work_dir, init_model_path=base, device="cpu", num_workers=count))


def stock_codes(base: str, target: str, rows: list[dict[str, Any]]) -> None:
    """Save what stock `qwen_tts` gives for the rows' clips in a new process, clip by clip, on one thread."""
    torch.set_num_threads(1)
    stock = tokenizer(Path(base))
    clips = [pad_to_frames(load(Path(row["audio"]), 24_000).samples, 1920) for row in rows]
    np.savez(target, *[stock.encode(clip, sr=24_000).audio_codes[0].numpy() for clip in clips])


def check_fresh_processes(
    base: Path, directory: Path, rows: list[dict[str, Any]], processes: int, together: int
) -> None:
    """Prepare the rows in new processes, some at once, and compare all codes to stock's.

    The processes are forked from one that has imported the libraries and has computed nothing: what the libraries set
    up at their first use is as in a process of its own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.prepare.test_first_codes", "qwen_tts", "librosa", "job.prepare.stage"])
    reference = context.Process(target=stock_codes, args=(str(base), str(directory / "stock.npz"), rows))
    reference.start()
    reference.join(300)
    assert reference.exitcode == 0
    with np.load(directory / "stock.npz") as saved:
        wanted = [saved[name] for name in saved.files]
    running: list[Any] = []
    for number in range(processes):
        settings = Settings(work_dir=str(directory / str(number)))
        files.write_jsonl(settings.paths.manifest("train"), complete(rows, "train"))
        child = context.Process(
            target=prepare_afresh, args=(str(directory / str(number)), str(base), 2 + number % 3), name=str(number)
        )
        child.start()
        running.append(child)
        if number >= together:
            running[number - together].join(300)
    for child in running:
        child.join(300)
        assert child.exitcode == 0, f"process {child.name}"
    for number in range(processes):
        settings = Settings(work_dir=str(directory / str(number)))
        table = {split: read_split(settings.paths, split) for split in ("train", "validation")}
        codes = {
            row_id: row_codes(part, index)
            for part in table.values()
            for index, row_id in enumerate(part["id"].to_pylist())
        }
        assert len(codes) == len(wanted)
        for line, expected in enumerate(wanted, start=1):
            np.testing.assert_array_equal(codes[f"train-{line}"], expected, err_msg=f"process {number}, clip {line}")


@pytest.mark.slow
def test_new_processes_on_a_busy_machine_all_give_the_stock_codes(tiny_base: Path, tmp_path: Path) -> None:
    """Eight first runs with two to four threads, four at once; nine clips of up to 1.5 seconds."""
    rows = manifest()
    check_fresh_processes(tiny_base, tmp_path, [*rows[:5], *rows[7:11]], 8, 4)


@pytest.mark.thorough
def test_many_new_processes_on_a_busy_machine_all_give_the_stock_codes(tiny_base: Path, tmp_path: Path) -> None:
    """Sixty of them, also with clips of several seconds."""
    check_fresh_processes(tiny_base, tmp_path, manifest(), 60, 6)


# --- a fault that passes, and one that stays


class Faulty(Codec):
    """The real codec; in the calls that `wrong` picks, the entries of one codebook are spoiled."""

    def __init__(self, base: Any, codebooks: int, wrong: Callable[[int], bool], codebook: int = 3) -> None:
        super().__init__(base, codebooks)
        self.wrong, self.codebook = wrong, codebook
        self.calls = 0

    def _encode(self, padded: list[np.ndarray]) -> list[np.ndarray]:
        self.calls += 1
        if not self.wrong(self.calls):
            return super()._encode(padded)
        codebook = codebooks(self)[self.codebook]
        whole = codebook._embed
        codebook._embed = whole.roll(1 + self.calls % 15, 1)
        try:
            return super()._encode(padded)
        finally:
            codebook._embed = whole


@pytest.fixture
def break_codec(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Faulty]]:
    """Let the codecs that prepare loads from now on be wrong in some calls; returns those that were loaded."""

    def apply(wrong: Callable[[int], bool], codebook: int = 3) -> list[Faulty]:
        loaded: list[Faulty] = []

        def loads(settings: Settings, codebooks: int, device: torch.device) -> Codec:
            loaded.append(Faulty(load_codec(settings, codebooks, device).tokenizer, codebooks, wrong, codebook))
            return loaded[-1]

        monkeypatch.setattr(work, "load_codec", loads)
        return loaded

    return apply


@pytest.fixture(params=["singly", "batches"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Clip by clip as on a CPU, or in batches as on a GPU."""
    if request.param == "batches":
        monkeypatch.setattr(
            row_encoder,
            "encode_stream",
            lambda items, settings, codec, *how: encode_items(items, codec, settings.prepare_batch_size, *how),
        )
    return str(request.param)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Eleven rows: recordings at two rates, one that is unusable, one that comes encoded."""
    import soundfile

    directory = tmp_path_factory.mktemp("recordings")
    rows: list[dict[str, Any]] = []
    for n in range(9):
        path, rate = directory / f"{n}.wav", (24_000, 16_000)[n % 2]
        soundfile.write(path, voice(0.5 + 0.11 * (n % 4), rate, seed=50 + n), rate)
        rows.append({"audio": str(path), "text": f"Row {n} of them.", "speaker": "ab"[n % 2]})
    rows.insert(0, {"audio": str(directory / "none.wav"), "text": "Not there."})
    codes = np.random.default_rng(5).integers(0, 2048, (9, 16)).tolist()
    rows.insert(4, {"audio_codes": codes, "text": "Encoded.", "speaker": "a"})
    return rows


LOOSE = {"quality_gate": "warn", "prepare_batch_size": 2}


def test_a_spoiled_codebook_makes_all_later_books_of_all_frames_wrong(tiny_base: Path) -> None:
    """The fault that these tests make is one that matters: three codebooks of sixteen are right."""
    faulty = Faulty(tokenizer(tiny_base), 16, lambda call: call == 1)
    clip = voice(1.3, seed=3)
    first, second = faulty.encode([clip])[0], faulty.encode([clip])[0]
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (first[:, 3] != second[:, 3]).all()
    assert (first[:, 3:] != second[:, 3:]).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("codebook", [0, 3, 15])
def test_a_first_call_that_goes_wrong_is_noticed_and_mended(
    make: Make,
    recordings: list[dict[str, Any]],
    break_codec: Callable[..., list[Faulty]],
    way: str,
    codebook: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line names the row; the dataset is, byte for byte, that of a run that nothing happened to."""
    calm, hit = make(recordings, work="calm", **LOOSE), make(recordings, work="hit", **LOOSE)
    counts = prepare.run(calm)
    capsys.readouterr()
    break_codec(lambda call: call == 1, codebook)
    assert prepare.run(hit) == counts
    said = [line for line in capsys.readouterr().err.splitlines() if "got other codes" in line]
    assert len(said) == 1
    assert "rows.jsonl row 2 (train-2) got other codes when it was encoded again; 11 rows are encoded" in said[0]
    assert everything(hit) == everything(calm)
    assert leftovers(hit) == []


def test_a_repetition_that_goes_wrong_is_no_harm(
    make: Make, recordings: list[dict[str, Any]], break_codec: Callable[..., list[Faulty]], way: str
) -> None:
    """The second encoding of the first clip may be the one that is disturbed: the data are the same all the same."""
    calm, hit = make(recordings, work="calm", **LOOSE), make(recordings, work="hit", **LOOSE)
    prepare.run(calm)
    calls = {"singly": 10, "batches": 6}[way]  # nine clips, or five batches, and then the repetition
    loaded = break_codec(lambda call: call == calls)
    prepare.run(hit)
    assert loaded[0].calls == 2 * calls
    assert everything(hit) == everything(calm)


@pytest.mark.slow
def test_codes_that_are_never_the_same_end_the_run_in_one_line_and_nothing_is_kept(
    make: Make, recordings: list[dict[str, Any]], break_codec: Callable[..., list[Faulty]], way: str
) -> None:
    """The same command on a machine that works then gives what an undisturbed run gives."""
    calm, hit = make(recordings, work="calm", **LOOSE), make(recordings, work="hit", **LOOSE)
    with pytest.MonkeyPatch.context() as undone:
        undone.setattr(work, "load_codec", load_codec)
        prepare.run(calm)
    break_codec(lambda call: True)
    with pytest.raises(MachineFault) as caught:
        prepare.run(hit)
    assert str(caught.value) == (
        "rows.jsonl row 2 (train-2) gets other codes each time it is encoded, so the codes of no row can be relied on: "
        "this machine (cpu) computes wrongly; run the job on another one"
    )
    assert caught.value.exit_code == 1
    assert notes(hit) == {}
    assert not hit.paths.prepared.exists()
    break_codec(lambda call: False)
    prepare.run(hit)
    assert everything(hit) == everything(calm)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_several_processes_and_each_shard_is_checked(
    make: Make,
    recordings: list[dict[str, Any]],
    break_codec: Callable[..., list[Faulty]],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    way: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Shards of three lines, a run resumes after a kill, copies too: where a process begins, a fault is noticed."""
    monkeypatch.setattr(shards, "LINES", 3)
    values = {**LOOSE, "augment_volume": True}
    calm, hit = make(recordings, work="calm", **values), make(recordings, work="hit", **values)
    prepare.run(calm)
    for split in ("train", COPIES):
        for one in range(2):
            break_codec(lambda call, one=one: one == rank and call == 1)
            begun = Work(hit)
            begun.encode((split,), one, 2)
    assert capsys.readouterr().err.count("got other codes") == 2
    break_codec(lambda call: False)
    merge(Work(hit))
    assert everything(hit) == everything(calm)


def test_a_fault_at_the_beginning_of_a_later_shard_is_noticed(
    make: Make,
    recordings: list[dict[str, Any]],
    break_codec: Callable[..., list[Faulty]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only that shard's rows are encoded once more. (Shards of three lines: the share that is repeated is raised.)"""
    monkeypatch.setattr(shards, "LINES", 3)
    monkeypatch.setattr(encode, "PROVE_EVERY", 1)
    calm, hit = make(recordings, work="calm", **LOOSE), make(recordings, work="hit", **LOOSE)
    prepare.run(calm)
    loaded = break_codec(lambda call: call == 3)  # the first shard has two clips with a recording to encode
    prepare.run(hit)
    said = capsys.readouterr().err
    assert "rows.jsonl row 4 (train-4) got other codes when it was encoded again; 3 rows are encoded once more" in said
    assert loaded[0].calls == (9 + 4) + (2 + 1)
    assert everything(hit) == everything(calm)


# --- what is repeated, and what that costs


def test_the_first_clip_of_every_thread_is_encoded_again(tiny_base: Path, threads: Callable[[int], None]) -> None:
    """Each thread's first call of the libraries is a first one; samples are kept only for what is repeated."""
    codec = Codec(tokenizer(tiny_base), 16)
    clips: list[Any] = [voice(0.3, seed=n) for n in range(7)]
    items = [Item(SimpleNamespace(), samples=clip) for clip in clips]  # type: ignore[arg-type]
    threads(3)
    done = list(encode_singly(items, codec))
    assert [item.proof is not None for item in done] == [True] * 3 + [False] * 4
    assert all(item.proof.holds(codec) for item in done if item.proof is not None)
    assert all(item.samples is None for item in done)


class Counted:
    """Stands in for a codec: counts the clips that it is given."""

    sample_rate = 24_000

    def __init__(self) -> None:
        self.clips = 0

    def encode(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        self.clips += len(clips)
        return [np.zeros((1, 16), np.int16) for _ in clips]


@given(
    groups=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    size=st.integers(1, 64),
    singly=st.booleans(),
)
def test_repeating_costs_no_more_than_a_hundredth(groups: list[int], size: int, singly: bool) -> None:
    """Whatever the sizes of shards and batches, after the first call; and the first call is always repeated."""
    clip = np.zeros(1920, np.float32)
    items = [
        Item(SimpleNamespace(group=number), samples=clip)  # type: ignore[arg-type]
        for number, count in enumerate(groups)
        for _ in range(count)
    ]
    codec: Any = Counted()
    group: Any = lambda item: item.row.group  # noqa: E731
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done = list(encode_singly(items, codec, group) if singly else encode_items(items, codec, size, group))
    finally:
        torch.set_num_threads(before)
    assert codec.clips == len(items)
    repeated = [len(item.proof.samples) for item in done if item.proof is not None]
    assert bool(repeated) == bool(items)
    assert sum(repeated) <= (1 if singly else size) + len(items) / 100


# --- nothing is set up while clips are encoded


def test_the_codebooks_entries_are_there_when_the_codec_is_loaded(tiny_base: Path) -> None:
    """And they are those of the weights, whatever an earlier use of the same tokenizer has left."""
    stock = tokenizer(tiny_base)
    codec = Codec(stock, 16)
    assert len(codebooks(codec)) == 16
    for codebook in codebooks(codec):
        codebook._embed = torch.zeros_like(codebook.embed_sum)
    for codebook in codebooks(Codec(stock, 16)):
        wanted = codebook.embed_sum / codebook.cluster_usage.clamp(min=codebook.epsilon)[:, None]
        torch.testing.assert_close(codebook._embed, wanted, rtol=0, atol=0)
        assert not codebook._embed.is_inference()


def test_threads_that_begin_together_never_see_a_codebook_being_made(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    """With a lazy table that takes its time, and is first kept unfinished, the codes are right all the same."""
    from transformers.models.mimi.modeling_mimi import MimiEuclideanCodebook

    made_in: list[str] = []

    def embed(self: Any) -> torch.Tensor:
        if self._embed is None:
            made_in.append(threading.current_thread().name)
            self._embed = torch.zeros_like(self.embed_sum)
            time.sleep(0.002)
            self._embed = self.embed_sum / self.cluster_usage.clamp(min=self.epsilon)[:, None]
        return self._embed

    clips = [voice(0.4, seed=n) for n in range(6)]
    stock = tokenizer(tiny_base)
    wanted = [stock.encode(pad_to_frames(clip, 1920), sr=24_000).audio_codes[0].numpy() for clip in clips]
    monkeypatch.setattr(MimiEuclideanCodebook, "embed", property(embed))
    codec = Codec(tokenizer(tiny_base), 16)
    assert made_in == [threading.main_thread().name] * 16
    threads(3)
    items = [Item(SimpleNamespace(), samples=clip) for clip in clips]  # type: ignore[arg-type]
    for item, codes in zip(encode_singly(items, codec), wanted, strict=True):
        np.testing.assert_array_equal(item.codes, codes)
    assert len(made_in) == 16


def test_no_clip_is_the_first_call_of_its_process_or_its_thread(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    stock = tokenizer(tiny_base)
    calls: list[tuple[str, int]] = []
    real = stock.encode

    def watched(clips: list[np.ndarray], **others: Any) -> Any:
        calls.append((threading.current_thread().name, len(clips[0])))
        return real(clips, **others)

    monkeypatch.setattr(stock, "encode", watched)
    codec = Codec(stock, 16)
    warm_up = calls[0][1]
    threads(2)
    clips = [voice(1.0 + n / 10, seed=n) for n in range(6)]
    list(encode_singly([Item(SimpleNamespace(), samples=clip) for clip in clips], codec))  # type: ignore[arg-type]
    first: dict[str, int] = {}
    for thread, samples in calls:
        first.setdefault(thread, samples)
    assert threading.main_thread().name in first
    assert len(first) == 3
    assert set(first.values()) == {warm_up}


# --- results do not depend on the number of threads


def test_every_clip_is_encoded_by_one_thread(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    """In the main thread and in others, on two cores or on forty: sums that threads share are rounded differently."""
    stock = tokenizer(tiny_base)
    codec = Codec(stock, 16)
    used: list[int] = []
    real = stock.encode

    def watched(*clips: Any, **others: Any) -> Any:
        used.append(torch.get_num_threads())
        return real(*clips, **others)

    monkeypatch.setattr(stock, "encode", watched)
    for count in (1, 2, 5, 40):
        threads(count)
        codec.encode([voice(0.3)])
        items = [Item(SimpleNamespace(), samples=voice(0.3)) for _ in range(12)]  # type: ignore[arg-type]
        list(encode_singly(items, codec))
        assert torch.get_num_threads() == count
    assert set(used) == {1}


def test_a_new_thread_keeps_to_one_whatever_others_set_meanwhile(threads: Callable[[int], None]) -> None:
    """Torch lets a new thread take over the process's number at its first question; that comes before, not after."""
    threads(3)
    inside, changed, seen = threading.Event(), threading.Event(), []

    def compute() -> None:
        with one_torch_thread():
            inside.set()
            changed.wait()
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    inside.wait()
    torch.set_num_threads(4)
    changed.set()
    thread.join()
    assert seen == [1, 3]
    assert torch.get_num_threads() == 4


def test_x_vectors_are_the_same_to_the_last_bit_on_any_number_of_threads(
    tiny_base: Path, clips: list[dict[str, Any]], threads: Callable[[int], None]
) -> None:
    encoder = SpeakerEncoder(tiny_base, torch.device("cpu"))
    samples = [load(Path(row["audio"]), 24_000).samples for row in clips]
    found = []
    for count in (1, 2, 4, 7):
        threads(count)
        found.append([encoder.embed(clip, 24_000).numpy().tobytes() for clip in samples])
    assert found.count(found[0]) == len(found)


def test_what_is_reproducible_leaves_torch_as_it_was(threads: Callable[[int], None]) -> None:
    threads(3)
    with pytest.raises(ValueError, match="x"), reproducible():
        assert torch.get_num_threads() == 1
        raise ValueError("x")
    assert torch.get_num_threads() == 3
