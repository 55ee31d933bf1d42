"""Folders of recordings and tables that are not JSONL, in the layouts that people have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from job import fetch
from job.config import settings as variables
from job.core import files, inside
from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [Path(row["audio"]).name for row in rows]


def test_alexandria_layout_gives_each_row_the_folders_reference(tmp_path: Path, fetched: Any) -> None:
    root = tmp_path / "voice"
    for name in ("a.wav", "b.wav", "ref.wav", "own.wav"):
        write_audio(root / name, seed=ord(name[0]))
    (root / "ref_text.txt").write_text("\ufeffThe reference.\n", encoding="utf-8")
    rows = [{"audio_filepath": "a.wav", "text": "one"}, {"audio_filepath": "./b.wav", "text": "two"}]
    write_lines(root / "metadata.jsonl", rows)
    got = fetched(DATA_DIR=root)["train"]
    assert names(got) == ["a.wav", "b.wav"]
    assert {(Path(row["ref_audio"]).name, row["ref_text"], row["source"]) for row in got} == {
        ("ref.wav", "The reference.", "voice")
    }
    write_lines(root / "metadata.jsonl", [*rows, {"audio_filepath": "a.wav", "text": "x", "ref_audio": "own.wav"}])
    with pytest.raises(BadInput, match=r"row 1 and .* row 3 .*own\.wav"):
        fetched(DATA_DIR=root)


def test_recordings_with_texts_beside_them(tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "voice"
    for name in ("b.wav", "a.flac", "sub/c.mp3", "sub/d.ogg", "e.wav", ".hidden.wav", "f.wav", "ref.wav"):
        audio = write_audio(root / name)
        if name not in ("e.wav", "ref.wav"):
            audio.with_suffix(".txt").write_text(f"text of {name}\n", encoding="utf-8")
    (root / "f.txt").write_bytes("é".encode("latin-1"))
    (root / "g.m4p").write_bytes(b"....ftypM4A ")
    (root / "g.txt").write_text("text", encoding="utf-8")
    got = fetched(DATA_DIR=root)
    assert names(got["train"]) == ["a.flac", "b.wav", "c.mp3", "d.ogg"]
    assert got["train"][2]["text"] == "text of sub/c.mp3"
    assert got["train"][2]["id"] == "sub_c"
    assert all(Path(row["ref_audio"]).name == "ref.wav" for row in got["train"])
    assert all(row["speaker"] is None for row in got["train"]), "one sub-folder names nobody"
    assert {r["reason"] for r in got["rejected"]} == {
        "audio without text",
        "text is not UTF-8",
        ".m4p files cannot be read",
    }
    assert "e.wav has no e.txt beside it" in capsys.readouterr().err


def test_several_folders_are_speakers_unless_the_speaker_is_named(tmp_path: Path, fetched: Any) -> None:
    for speaker in ("Eva", "Adam"):
        for name in ("x.wav", "ref.wav"):
            audio = write_audio(tmp_path / "voices" / speaker / name, seed=len(speaker))
            audio.with_suffix(".txt").write_text("text", encoding="utf-8")
    got = fetched(DATA_DIR=tmp_path / "voices")["train"]
    assert [row["speaker"] for row in got] == ["adam", "eva"]
    assert [Path(row["ref_audio"]).parent.name for row in got] == ["Adam", "Eva"]
    got = fetched(DATA_DIR=tmp_path / "voices", SPEAKER_NAME="both", REF_AUDIO_STRATEGY="best")["train"]
    assert [row["speaker"] for row in got] == [None, None]


def test_ljspeech_layout_takes_the_written_out_text(tmp_path: Path, fetched: Any) -> None:
    root = tmp_path / "LJ"
    write_audio(root / "wavs" / "LJ-1.wav")
    write_audio(root / "wavs" / "LJ-2.flac", seed=1)
    (root / "metadata.csv").write_text('LJ-1|He said "12|He said "twelve\nLJ-2|plain|\nLJ-3|x|y\n', encoding="utf-8")
    got = fetched(DATA_DIR=root)
    assert [(row["text"], row["row"]) for row in got["train"]] == [('He said "twelve', 1), ("plain", 2)]
    assert names(got["train"]) == ["LJ-1.wav", "LJ-2.flac"]
    assert [(r["row"], r["reason"]) for r in got["rejected"]] == [(3, "audio is missing")]
    assert fetched(DATA_DIR=root, TEXT_COLUMN="text")["train"][0]["text"] == 'He said "12'


def test_audiofolder_layout_with_splits(tmp_path: Path, fetched: Any) -> None:
    for split in ("train", "dev"):
        write_audio(tmp_path / "set" / split / "clips" / "a.wav")
        (tmp_path / "set" / split / "metadata.csv").write_text(
            f'file_name,transcription\nclips/a.wav,"one, {split}"\n', encoding="utf-8-sig"
        )
    got = fetched(DATA_DIR=tmp_path / "set", VALIDATION_SPLIT="dev")
    assert [row["text"] for row in got["train"]] == ["one, train"]
    assert [row["text"] for row in got["validation"]] == ["one, dev"]
    assert len({got["train"][0]["id"], got["validation"][0]["id"]}) == 2
    assert fetched(DATA_DIR=tmp_path / "set")["train"][0]["text"] == "one, train"
    with pytest.raises(BadInput, match="no folder test in it; VALIDATION_SPLIT"):
        fetched(DATA_DIR=tmp_path / "set", VALIDATION_SPLIT="test")


def test_common_voice_tsv_and_broken_rows(tmp_path: Path, fetched: Any) -> None:
    for name in "abcdef":
        write_audio(tmp_path / "clips" / f"{name}.mp3", rate=24000)
    sheet = tmp_path / "validated.tsv"
    rows = (rb'She said "no', b"x\ty", b"", b"\xff", None, b"z")
    lines = (b"" if row is None else b"1\t%c.mp3\t" % name + row for name, row in zip(b"abcdef", rows, strict=True))
    sheet.write_bytes(b"client_id\tpath\tsentence\n" + b"\n".join(lines))
    got = fetched(TRAIN_JSONL=sheet)
    assert [(row["row"], row["text"]) for row in got["train"]] == [(2, 'She said "no'), (7, "z")]
    assert [(r["row"], r["reason"]) for r in got["rejected"]] == [
        (3, "more cells than columns"),
        (4, "no text"),
        (5, "text is not valid Unicode"),
    ]


def test_parquet_with_bytes_is_packed_once_and_cleaned_up(tmp_path: Path, fetched: Any) -> None:
    clips = [write_audio(tmp_path / f"{n}.{e}", seed=n) for n, e in enumerate(("flac", "mp3", "ogg", "wav"))]
    audio: list[Any] = [{"bytes": clip.read_bytes(), "path": None} for clip in clips]
    audio += [audio[0], {"bytes": b"", "path": None}, {"bytes": None, "path": "0.flac"}]
    parquet.write_table(pa.table({"audio": audio, "text": list("0123056")}), tmp_path / "train-00000-of-00001.parquet")
    got = fetched(DATA_DIR=tmp_path)
    kept = got["settings"].paths.raw / "audio"
    stored = [Path(row["audio"]) for row in got["train"]]
    assert [p.suffix for p in stored] == [".flac", ".mp3", ".ogg", ".wav", ".flac", ".flac"]
    assert stored[0] == stored[4], "equal clips are kept once"
    assert [inside.read_bytes(p) for p in stored[:4]] == [clip.read_bytes() for clip in clips]
    assert [r["reason"] for r in got["rejected"]] == ["audio is empty"]
    assert sorted(p.name for p in kept.iterdir()) == ["00001.pack", "index.sqlite"]
    before, stamp = (kept / "00001.pack").stat().st_mtime_ns, files.stamp(stored[0])
    (kept / "00002.pack").write_bytes(b"left by a kill")
    assert [Path(row["audio"]) for row in fetched(DATA_DIR=tmp_path)["train"]] == stored
    assert sorted(p.name for p in kept.iterdir()) == ["00001.pack", "index.sqlite"], "what no manifest names is removed"
    assert (kept / "00001.pack").stat().st_mtime_ns == before, "what is there is not written again"
    fetched(DATA_DIR=tmp_path, MAX_TRAIN_SAMPLES=1)
    [left] = fetched(DATA_DIR=tmp_path, MAX_TRAIN_SAMPLES=1)["train"]
    assert inside.read_bytes(Path(left["audio"])) == clips[0].read_bytes()
    assert sum(p.stat().st_size for p in kept.glob("*.pack")) == clips[0].stat().st_size, "nor is room wasted for long"
    assert files.stamp(Path(left["audio"])) == stamp, "prepare takes it for the same recording"
    fetched(TRAIN_JSONL=write_lines(tmp_path / "a.jsonl", [{"audio": "0.flac", "text": "a"}]))
    assert list(kept.iterdir()) == []


def test_samples_in_a_table_become_files(tmp_path: Path, fetched: Any) -> None:
    import soundfile

    rows = pa.table(
        {
            "audio": [
                {"array": [0.0, 0.5, -0.5, 0.25] * 100, "sampling_rate": 16000},
                {"array": [], "sampling_rate": 1},
            ],
            "text": ["a", "b"],
        }
    )
    parquet.write_table(rows, tmp_path / "t.parquet")
    got = fetched(TRAIN_JSONL=tmp_path / "t.parquet")
    samples, rate = soundfile.read(inside.readable(Path(got["train"][0]["audio"])))
    assert (rate, samples[:4].tolist()) == (16000, [0.0, 0.5, -0.5, 0.25])
    assert len(got["rejected"]) == 1


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_files_that_are_not_what_they_are_called_are_bad_input(tmp_path: Path, fetched: Any, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG\x00\x01\x02\x03")
    with pytest.raises(BadInput, match=rf"TRAIN_JSONL=.*{name}"):
        fetched(TRAIN_JSONL=tmp_path / name)


def test_a_folder_without_recordings_is_bad_input(tmp_path: Path, fetched: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no metadata\.jsonl"):
        fetched(DATA_DIR=tmp_path / "empty")
    write_lines(tmp_path / "empty" / "rows.jsonl", [{}])
    with pytest.raises(BadInput, match=r"rows\.jsonl goes into TRAIN_JSONL"):
        fetched(DATA_DIR=tmp_path / "empty")
    with pytest.raises(BadInput, match=r"DATA_DIR=.*gone: no such folder"):
        fetched(DATA_DIR=tmp_path / "gone")


def test_without_a_source_the_demo_clips_are_used_and_it_says_so(
    fetched: Any, clips_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = fetched()
    assert "using the built-in demo clips" in capsys.readouterr().out
    assert len(got["train"]) == len((clips_dir / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    assert all(Path(row["audio"]).parent == clips_dir for row in got["train"])
    assert fetch.check(got["settings"]).startswith("the built-in demo clips: ")


def test_data_mode_none_fetches_nothing(tmp_path: Path, fetched: Any) -> None:
    got = fetched(DATA_MODE="none", TRAIN_JSONL="gone.jsonl")
    assert "nothing to fetch" in got["counts"]["note"]
    assert not (tmp_path / "work").exists()
    with pytest.raises(BadInput, match="DATA_MODE=none needs prepared data"):
        fetch.check(variables.load({"DATA_MODE": "none", "WORK_DIR": str(tmp_path)}))


def test_direct_mode_needs_a_dataset(fetched: Any) -> None:
    with pytest.raises(BadInput, match=r"DATA_MODE=direct.*DATASET_NAME"):
        fetched(DATA_MODE="direct")
