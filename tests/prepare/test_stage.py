"""The stage as a whole: what it writes, that it is the same every time, and what it survives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from job import prepare
from job.audio.clip import load
from job.config.paths import Paths
from job.config.settings import Settings
from job.core import files
from job.core.errors import BadInput
from job.dataset.prepared import read_speakers, read_split, read_summary, row_codes
from job.model import loading
from job.prepare import parquet_store
from job.prepare import shards as shards_of
from job.prepare.codec import Codec
from tests.prepare.conftest import Make, complete, voice


def raw(clips: list[dict[str, Any]], count: int = 6) -> list[dict[str, Any]]:
    """Short clips of both speakers, as raw rows."""
    return [{key: row[key] for key in ("audio", "text", "speaker", "language")} for row in (*clips[:3], *clips[7:10])][
        :count
    ]


def contents(paths: Paths) -> dict[str, bytes]:
    return {
        str(p.relative_to(paths.prepared)): p.read_bytes() for p in sorted(paths.prepared.rglob("*")) if p.is_file()
    }


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, job.prepare; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.fixture(scope="module")
def prepared(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, clips: list[dict[str, Any]]
) -> tuple[Settings, dict[str, Any]]:
    """One run over six clips, one of them said in a language that the base does not know, with an instruction."""
    rows = raw(clips)
    rows[1] |= {"language": "Klingon", "instruct": " softly "}
    rows[2] |= {"language": "en", "speaker": " ADA"}
    settings = Settings(
        init_model_path=str(tiny_base), work_dir=tmp_path_factory.mktemp("work"), device="cpu", prepare_batch_size=4
    )
    files.write_jsonl(settings.paths.manifest("train"), complete(rows, "train"))
    return settings, prepare.run(settings)


def test_the_rows_are_as_given_in_their_order_with_the_codes_of_their_recordings(
    prepared: tuple[Settings, dict[str, Any]], tiny_base: Path, clips: list[dict[str, Any]]
) -> None:
    settings, counts = prepared
    table = read_split(settings.paths, "train")
    codec = Codec(loading.load_speech_tokenizer(tiny_base / "speech_tokenizer", torch.device("cpu")), 16)
    assert table.column("id").to_pylist() == [f"train-{n}" for n in range(1, 7)]
    assert table.column("text").to_pylist() == [row["text"] for row in raw(clips)]
    assert table.column("speaker").to_pylist() == ["ada"] * 3 + ["emil"] * 3
    assert table.column("language").to_pylist() == ["english", "klingon", "english"] + ["german"] * 3
    assert table.column("instruct").to_pylist() == [None, "softly", None, None, None, None]
    for index, row in enumerate(raw(clips)):
        codes = row_codes(table, index)
        np.testing.assert_array_equal(codes, codec.encode([load(Path(row["audio"]), 24_000).samples])[0])
        assert table.column("seconds")[index].as_py() == pytest.approx(len(codes) / 12.5)
    assert (counts["train_rows"], counts["speakers"], counts["rejected"]) == (6, 2, 0)


def test_the_summary_adds_up(prepared: tuple[Settings, dict[str, Any]]) -> None:
    settings, _ = prepared
    summary = read_summary(settings.paths)
    table = read_split(settings.paths, "train")
    frames = [len(row_codes(table, n)) for n in range(len(table))]
    assert summary["splits"] == {
        "train": {"rows": 6, "frames": sum(frames), "seconds": pytest.approx(sum(frames) / 12.5)}
    }
    assert [summary[key] for key in ("books", "codebook_size", "frame_rate", "samples_per_frame", "sample_rate")] == [
        16,
        2048,
        12.5,
        1920,
        24_000,
    ]
    assert {name: entry["known"] for name, entry in summary["languages"].items()} == {
        "english": True,
        "german": True,
        "klingon": False,
    }
    ratios = [f / len(text) for f, text in zip(frames, table.column("text").to_pylist(), strict=True)]
    assert summary["frames_per_character"] == pytest.approx(np.percentile(ratios, 95), abs=1e-4)
    assert sorted(read_speakers(settings.paths)) == sorted(summary["speakers"]) == ["ada", "emil"]


def test_the_parquet_files_are_plain_enough_for_the_datasets_library(
    prepared: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    settings, _ = prepared
    pattern = str(settings.paths.prepared / "train" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path))
    table = read_split(settings.paths, "train")
    assert loaded.column_names == ["id", "text", "speaker", "language", "instruct", "seconds", "codes"]
    for index in range(len(table)):
        np.testing.assert_array_equal(np.array(loaded[index]["codes"]), row_codes(table, index))
    assert len(loaded[0]["codes"][0]) == 16


def test_the_page_is_self_contained_and_says_the_figures(prepared: tuple[Settings, dict[str, Any]]) -> None:
    settings, _ = prepared
    page = settings.paths.quality_page.read_text(encoding="utf-8")
    figures = files.read_json(settings.paths.quality)
    assert "http" not in page
    assert "<script src" not in page
    assert "klingon" in page
    assert "6 rows" in page
    assert figures["rows"] == 6
    assert sum(bin_["rows"] for bin_ in figures["durations"]) == 6
    assert figures["speakers"]["ada"]["rows"] == 3
    assert figures["sample_rates"] == {"24000": 6}
    assert len(figures["distinct_codes_per_book"]) == 16
    assert min(figures["distinct_codes_per_book"]) > 1


@pytest.mark.parametrize("workers", [0, 3])
def test_two_runs_give_the_same_bytes_whatever_the_batch_and_the_workers(
    prepared: tuple[Settings, dict[str, Any]], workers: int
) -> None:
    settings, _ = prepared
    before = contents(settings.paths)
    assert {"train/00000.parquet", "speakers.safetensors", "summary.json"} == set(before)
    prepare.run(settings.model_copy(update={"prepare_batch_size": 1, "num_workers": workers, "force": True}))
    assert contents(settings.paths) == before


def test_bad_rows_are_left_out_with_their_reason_and_the_rest_is_kept(
    make: Make, clips: list[dict[str, Any]], wav: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp3").write_bytes(b"no audio")
    cut = Path(wav("cut", voice(1.0)))
    cut.write_bytes(cut.read_bytes()[:20_000])
    bad = [
        ({"audio": str(tmp_path / "broken.mp3")}, "unreadable"),
        ({"audio": wav("silent", np.zeros(24_000))}, "silent"),
        ({"audio": wav("short", voice(0.2))}, "too_short"),
        ({"audio": str(cut)}, "cut_off"),
        ({"audio": str(tmp_path)}, "unreadable"),
        ({"audio": str(tmp_path / "gone since fetch.wav")}, "unreadable"),
        ({"audio": clips[0]["audio"], "text": "  "}, "no_text"),
        ({}, "unreadable"),
    ]
    settings = make([*raw(clips), *(row for row, _ in bad)], quality_gate="off")
    files.write_jsonl(
        settings.paths.fetch_rejected, [{"split": "train", "row": 99, "source": "x", "reason": "bad JSON"}]
    )
    counts = prepare.run(settings)
    assert counts["train_rows"] == 6
    rejected = list(files.read_jsonl(settings.paths.rejected))
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (99, "bad JSON"),
        *((n, reason) for n, (_, reason) in enumerate(bad, start=7)),
    ]
    assert files.read_json(settings.paths.quality)["rejected"]["unreadable"] == 4
    assert "4 rows left out: unreadable" in capsys.readouterr().err


def test_what_the_data_says_cannot_become_markup_on_the_page(make: Make, clips: list[dict[str, Any]]) -> None:
    settings = make([{**row, "speaker": "<script>alert(1)</script>"} for row in raw(clips, 2)])
    prepare.run(settings)
    assert "<script>alert" not in settings.paths.quality_page.read_text(encoding="utf-8")


def test_rows_that_arrive_encoded_are_passed_through(make: Make, clips: list[dict[str, Any]]) -> None:
    first = make(raw(clips, 3))
    prepare.run(first)
    codes = [row_codes(read_split(first.paths, "train"), n) for n in range(3)]
    rows: list[dict[str, Any]] = [{"audio_codes": c.tolist(), "speaker": "Vendor"} for c in codes]
    rows.append({"audio_codes": [[5000] * 16] * 10})
    second = make(rows, work="second")
    counts = prepare.run(second)
    table = read_split(second.paths, "train")
    assert len(table) == 3
    for index in range(3):
        np.testing.assert_array_equal(row_codes(table, index), codes[index])
    assert counts["rejected"] == 1
    vectors = read_speakers(second.paths)
    assert torch.isfinite(vectors["vendor"]).all()
    assert read_summary(second.paths)["speakers"]["vendor"]["reference"].startswith("codes of row")


def test_a_validation_manifest_is_the_validation_split_up_to_its_limit(make: Make, clips: list[dict[str, Any]]) -> None:
    settings = make(raw(clips)[:3], validation=raw(clips)[3:], max_eval_samples=2, validation_fraction=0.5)
    prepare.run(settings)
    assert read_split(settings.paths, "train").column("id").to_pylist() == ["train-1", "train-2", "train-3"]
    assert read_split(settings.paths, "validation").column("id").to_pylist() == ["validation-1", "validation-2"]
    assert read_summary(settings.paths)["splits"]["validation"]["rows"] == 2
    assert "emil" in read_speakers(settings.paths)


@pytest.mark.slow
def test_held_out_rows_are_in_one_split_only(make: Make, clips: list[dict[str, Any]]) -> None:
    settings = make(raw(clips), validation_fraction=0.34)
    counts = prepare.run(settings)
    train = read_split(settings.paths, "train").column("id").to_pylist()
    validation = read_split(settings.paths, "validation").column("id").to_pylist()
    assert (len(train), len(validation)) == (4, 2) == (counts["train_rows"], counts["validation_rows"])
    assert not set(train) & set(validation)


def test_a_sentence_with_two_recordings_is_not_validated_on_what_was_trained(
    make: Make, clips: list[dict[str, Any]], wav: Callable[..., str]
) -> None:
    rows = [
        {"audio": wav(f"clip{n}", voice(0.6, seed=n)), "text": f"Sentence {n % 5}.", "speaker": "ab"[n // 5]}
        for n in range(10)
    ]
    for seed in (1, 2, 3):
        settings = make(rows, work=f"work{seed}", validation_fraction=0.4, seed=seed)
        prepare.run(settings)
        train = set(read_split(settings.paths, "train").column("text").to_pylist())
        validation = set(read_split(settings.paths, "validation").column("text").to_pylist())
        assert len(validation) == 2 and len(train) == 3 and not train & validation


def test_validation_rows_that_are_also_trained_on_are_said(
    make: Make, clips: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.run(make(raw(clips)[:4], validation=raw(clips)[2:5]))
    assert "2 validation rows are also trained on" in "".join(capsys.readouterr())


def test_an_adapter_alone_of_a_new_language_is_refused_before_anything_is_encoded(
    make: Make, clips: list[dict[str, Any]]
) -> None:
    rows = [{**row, "language": "Hausa"} for row in raw(clips)[:2]]
    settings = make(rows, train_mode="lora", export="adapter")
    with pytest.raises(BadInput, match=r"EXPORT=adapter: hausa is a new language.*EXPORT=both"):
        prepare.run(settings)
    assert not list(settings.paths.encoding.glob("*"))
    prepare.run(make(rows, work="only", train_mode="lora", export="adapter", prepare_only=True))


def test_max_hours_stops_before_it_is_passed(make: Make, clips: list[dict[str, Any]]) -> None:
    whole = make(raw(clips))
    prepare.run(whole)
    seconds = np.cumsum(read_split(whole.paths, "train").column("seconds").to_pylist())
    part = make(raw(clips), work="second", max_hours=(seconds[2] + 0.01) / 3600)
    prepare.run(part)
    assert len(read_split(part.paths, "train")) == 3


def test_many_rows_are_written_in_shards_and_read_back_in_order(
    make: Make, clips: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_store, "SHARD_ROWS", 4)
    monkeypatch.setattr(shards_of, "LINES", 3)
    random = np.random.default_rng(0)
    codes = [random.integers(0, 2048, (int(random.integers(5, 20)), 16)) for _ in range(23)]
    rows = [{"audio_codes": c.tolist(), "text": f"row {n}"} for n, c in enumerate(codes)]
    settings = make(rows, ref_audio_path=clips[0]["audio"], validation_fraction=0.2)
    prepare.run(settings)
    shards = sorted(p.name for p in (settings.paths.prepared / "train").iterdir())
    assert shards == [f"0000{n}.parquet" for n in range(5)]
    assert pq.read_metadata(settings.paths.prepared / "train" / shards[0]).num_rows == 4
    seen = {}
    for split, count in (("train", 19), ("validation", 4)):
        table = read_split(settings.paths, split)
        assert len(table) == count
        numbers = [int(text.split()[1]) for text in table.column("text").to_pylist()]
        assert numbers == sorted(numbers)
        seen |= {number: row_codes(table, n) for n, number in enumerate(numbers)}
    assert sorted(seen) == list(range(23))
    for number, array in seen.items():
        np.testing.assert_array_equal(array, codes[number])


def test_data_mode_none_uses_what_is_there(
    prepared: tuple[Settings, dict[str, Any]], make: Make, clips: list[dict[str, Any]]
) -> None:
    settings, _ = prepared
    before = contents(settings.paths)
    assert prepare.run(settings.model_copy(update={"data_mode": "none"})) == {"train_rows": 6}
    assert contents(settings.paths) == before
    with pytest.raises(BadInput, match=r"summary\.json cannot be read; run `python -m job prepare` first"):
        prepare.run(make(raw(clips), data_mode="none"))


def test_without_a_manifest_the_stage_says_what_to_run(make: Make) -> None:
    settings = make([])
    settings.paths.manifest("train").unlink()
    with pytest.raises(BadInput, match=r"train\.jsonl is missing; run `python -m job fetch` first"):
        prepare.run(settings)


def test_a_split_that_is_not_there_has_no_rows(prepared: tuple[Settings, dict[str, Any]]) -> None:
    table = read_split(prepared[0].paths, "validation")
    assert len(table) == 0
    assert table.column_names == read_split(prepared[0].paths, "train").column_names


def resident_files() -> str:
    return Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""


def test_a_split_is_mapped_from_the_cache_and_from_parquet_where_there_is_none(
    prepared: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    """A dataset that was copied without the cache, or whose cache is torn or of other rows, gives the same rows."""
    settings, _ = prepared
    work = tmp_path / "copy"
    shutil.copytree(settings.paths.work, work)
    copy = settings.model_copy(update={"work_dir": work})
    wanted = read_split(settings.paths, "train")
    assert "data/cache/train.arrow" in resident_files() or not resident_files()
    cache = copy.paths.cache / "train.arrow"
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-50])
    torn = read_split(copy.paths, "train")
    cache.unlink()
    missing = read_split(copy.paths, "train")
    cache.write_bytes(whole)
    pq.write_table(wanted.slice(0, 4), copy.paths.prepared / "train" / "00000.parquet")
    fewer = read_split(copy.paths, "train")
    assert torn.equals(wanted) and missing.equals(wanted) and fewer.equals(wanted.slice(0, 4))
    (copy.paths.prepared / "train" / "00000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match=r"train is damaged; run `python -m job prepare` with FORCE=true"):
        read_split(copy.paths, "train")
    assert [path.name for path in work.rglob(".*")] == []
