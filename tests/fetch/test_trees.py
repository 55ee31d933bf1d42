"""Corpora as they are unpacked: the words of each recording are found where that corpus keeps them, and no others."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def noise(path: Path, seed: int, seconds: float = 1.0, rate: int = 24000) -> Path:
    """A recording that is like no other of another seed, band-limited as speech is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = np.random.default_rng(seed).normal(0, 1, int(seconds * rate) + 7)
    soundfile.write(path, 0.1 * np.convolve(raw, np.ones(8) / 4, "valid")[: int(seconds * rate)], rate)
    return path


def said(got: dict[str, Any], split: str = "train") -> dict[str, str]:
    return {Path(row["audio"]).name: row["text"] for row in got[split]}


def reasons(got: dict[str, Any]) -> dict[str, str]:
    return {row["reason"]: row["detail"] for row in got["rejected"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("{stem}.lab", "plain words of a label file"),
        ("{stem}.wav.txt", "words by the whole name"),
        ("{stem}.normalized.txt", "written out"),
        ("{stem}.original.txt", "as printed"),
        ("{stem}.TXT", "in capitals"),
        ("{stem}.Lab", "in mixed case"),
    ],
)
@pytest.mark.parametrize("stem", ["utt1", "Brön-3 (take 2)", "1.5.2"])
def test_texts_beside_recordings_by_any_usual_name(
    tmp_path: Path, fetched: Any, stem: str, name: str, text: str
) -> None:
    write_audio(tmp_path / "v" / f"{stem}.wav")
    write(tmp_path / "v" / name.format(stem=stem), f"{text}\n")
    assert said(fetched(DATA_DIR=tmp_path / "v")) == {f"{stem}.wav": text}


def test_libritts_takes_the_written_out_text_and_the_readers_as_speakers(tmp_path: Path, fetched: Any) -> None:
    for reader, chapter in (("84", "121123"), ("8555", "284447")):
        for number in (1, 2):
            stem = f"{reader}_{chapter}_000007_00000{number}"
            folder = tmp_path / "LibriTTS" / "dev-clean" / reader / chapter
            noise(folder / f"{stem}.wav", seed=number + int(reader))
            write(folder / f"{stem}.original.txt", f"Mr. {number}")
            write(folder / f"{stem}.normalized.txt", f"Mister {number} of {reader}")
        write(folder / f"{reader}_{chapter}.trans.tsv", "x\ty\tz\n")
    got = fetched(DATA_DIR=tmp_path / "LibriTTS")
    assert {row["text"] for row in got["train"]} == {f"Mister {n} of {r}" for n in (1, 2) for r in ("84", "8555")}
    assert {row["speaker"] for row in got["train"]} == {"84", "8555"}
    assert {row["speaker"] for row in fetched(DATA_DIR=tmp_path / "LibriTTS", SPEAKER_NAME="me")["train"]} == {None}


def test_librispeech_lines_belong_to_their_own_file_only(tmp_path: Path, fetched: Any) -> None:
    folder = tmp_path / "L" / "19" / "198"
    for number in range(3):
        noise(folder / f"19-198-000{number}.flac", seed=number)
    write(folder / "19-198.trans.txt", "19-198-0000 FIRST ONE\n19-198-0002 THIRD\n19-198-0009 NOBODY'S\n")
    got = fetched(DATA_DIR=tmp_path / "L")
    assert said(got) == {"19-198-0000.flac": "FIRST ONE", "19-198-0002.flac": "THIRD"}
    assert set(reasons(got)) == {"audio without text"}
    write(folder / "19-198.trans.txt", "19-198-0000 ONE\n19-198-0000 OTHER\n19-198-0001 TWO\n")
    got = fetched(DATA_DIR=tmp_path / "L")
    assert said(got) == {"19-198-0001.flac": "TWO"}
    assert "19-198.trans.txt has two" in reasons(got)["several texts for one recording"]


def test_vctk_takes_one_microphone_and_says_so(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "VCTK"
    for speaker, sentences in (("p225", (1, 2)), ("p280", (1,))):
        for number in sentences:
            for mic in (1, 2) if speaker == "p225" else (2,):
                name = f"{speaker}_00{number}_mic{mic}.flac"
                noise(root / "wav48_silence_trimmed" / speaker / name, seed=number + mic)
            write(root / "txt" / speaker / f"{speaker}_00{number}.txt", f"{speaker} says {number}")
    noise(root / "wav48_silence_trimmed" / "p225" / "p225_024_mic1.flac", seed=9)
    got = fetched(DATA_DIR=root)
    assert said(got) == {
        "p225_001_mic1.flac": "p225 says 1",
        "p225_002_mic1.flac": "p225 says 2",
        "p280_001_mic2.flac": "p280 says 1",
    }
    assert {row["speaker"] for row in got["train"]} == {"p225", "p280"}
    assert set(reasons(got)) == {"audio without text"}
    assert "of several microphones the first is used" in capsys.readouterr().out


def test_texts_in_a_parallel_folder(tmp_path: Path, fetched: Any) -> None:
    for part in ("ch1", "ch2"):
        noise(tmp_path / "b" / "wavs" / part / "001.wav", seed=len(part) + int(part[-1]))
        write(tmp_path / "b" / "texts" / part / "001.txt", f"first of {part}")
    noise(tmp_path / "b" / "wavs" / "ch3" / "001.wav", seed=7)
    got = fetched(DATA_DIR=tmp_path / "b", SPEAKER_NAME="me")
    assert [(Path(r["audio"]).parent.name, r["text"]) for r in got["train"]] == [
        ("ch1", "first of ch1"),
        ("ch2", "first of ch2"),
    ]
    assert set(reasons(got)) == {"audio without text"}


def test_emilia_objects_give_text_speaker_and_language_and_tell_half_a_recording(tmp_path: Path, fetched: Any) -> None:
    root = tmp_path / "EN_B0"
    for number, seconds in ((1, 1.0), (2, 2.0), (3, 2.0)):
        noise(root / f"EN_B0_{number}.mp3", seed=number, seconds=seconds)
        about = {
            "id": "x",
            "wav": "x.mp3",
            "text": f" Words {number}",
            "duration": 2.0,
            "speaker": "S1",
            "language": "en",
        }
        write(root / f"EN_B0_{number}.json", json.dumps(about if number != 3 else [about]))
    got = fetched(DATA_DIR=root)
    assert [(r["text"], r["speaker"], r["language"]) for r in got["train"]] == [("Words 2", "s1", "en")]
    assert "EN_B0_1.mp3 has 1.0 s" in reasons(got)["recording and text are not of one length"]
    assert "EN_B0_3.json" in reasons(got)["text is something else"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.lab", "0 2500000 sil\n2500000 4100000 hh\n", "text has times"),
        ("a.lab", "0 50000 x^x-sil+hh=ax@1_1\n", "text has times"),
        ("a.lab", "x^x-sil+hh=ax@1_1/A:0\nx^sil-hh+ax=l@1_2/A:1\n", "text is phonemes"),
        ("a.lab", "sil\nhh\nax\nl\now\nsil\n", "text is phonemes"),
        ("a.txt", "1\n00:00:00,000 --> 00:00:02,000\nhello\n", "text has times"),
        ("a.txt", "[00:01.20] hello\n", "text has times"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "text is something else"),
        ("a.txt", "<!DOCTYPE html><html><body>Sign in</body></html>", "text is something else"),
        ("a.json", '{"words": 3}', "no text"),
    ],
)
def test_what_is_no_text_is_not_trained_on(tmp_path: Path, fetched: Any, name: str, content: str, reason: str) -> None:
    write(noise(tmp_path / "v" / "b.wav", seed=1).with_suffix(".txt"), "good")
    noise(tmp_path / "v" / "a.wav", seed=2)
    write(tmp_path / "v" / name, content)
    got = fetched(DATA_DIR=tmp_path / "v")
    assert said(got) == {"b.wav": "good"}
    assert name in reasons(got)[reason]


@pytest.mark.parametrize(
    "text", ["1984 2001 were years", "7 11", "It is 5:30.", "Sil\nvous plaît", 'MAC <3 you {"', "[laughs] no"]
)
def test_numbers_and_signs_are_words_too(tmp_path: Path, fetched: Any, text: str) -> None:
    write(noise(tmp_path / "v" / "a.wav", seed=1).with_suffix(".txt"), text)
    write(noise(tmp_path / "v" / "b.wav", seed=2).with_suffix(".txt"), "other")
    got = fetched(DATA_DIR=tmp_path / "v")
    assert len(got["train"]) == 2


@pytest.mark.parametrize("other", ["a.eaf", "a.ass", "a.wav.lrc"])
def test_texts_with_times_are_named_with_what_to_do(tmp_path: Path, fetched: Any, other: str) -> None:
    noise(tmp_path / "v" / "a.wav", seed=1)
    write(tmp_path / "v" / other, "x")
    with pytest.raises(BadInput, match=r"\.(eaf|ass|lrc) is not read: save what is said as a\.txt"):
        fetched(DATA_DIR=tmp_path / "v")


def kaldi(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        write(folder / name.replace("_", "."), content)
    return folder


def test_kaldi_directories_give_segments_speakers_and_refuse_commands(tmp_path: Path, fetched: Any) -> None:
    noise(tmp_path / "egs" / "audio" / "r1.flac", seed=1, seconds=4)
    noise(tmp_path / "egs" / "audio" / "r2.wav", seed=2)
    data = kaldi(
        tmp_path / "egs" / "data" / "train",
        wav_scp="r1 audio/r1.flac\nr2 audio/r2.wav\nr3 sox audio/r1.flac -t wav - |\nr4 raw/data.ark:17\n",
        text="u1 første setning\nu2\tsecond one\nu3 third\nu4 fourth\nu5 fifth\nu6\nu7 seventh\nu8 x\n",
        segments="u1 r1 0.0 1.5\nu2 r1 1.5 -1\nu3 r3 0 1\nu4 r4 0 1\nu5 r2 2.0 1.0\nu6 r2 0 1\nu8 gone 0 1\n",
        utt2spk="u1 eva\nu2 eva\nu3 adam\nu4 adam\nu5 adam\n",
    )
    from job.config.settings import load
    from job.fetch import kaldi as reader
    from job.fetch.table import Row

    table = reader.open_table(data, "DATA_DIR=x", load({"WORK_DIR": str(tmp_path / "w")}))
    rows = [row.values for row in table.read() if isinstance(row, Row)]
    assert [(r["id"], r["start"], r["end"], r["speaker"]) for r in rows[:2]] == [
        ("u1", 0, 1.5, "eva"),
        ("u2", 1.5, None, "eva"),
    ]
    got = fetched(DATA_DIR=data)
    assert [(row["text"], row["row"]) for row in got["train"]] == [("første setning", 1), ("second one", 2)]
    assert {r["row"]: r["reason"] for r in got["rejected"]} == {
        3: "audio is a command",
        4: "audio is in a Kaldi archive",
        5: "not a segment",
        6: "no text",
        7: "no segment",
        8: "audio is missing",
    }


def test_kaldi_splits_and_speakers_that_are_none(tmp_path: Path, fetched: Any) -> None:
    for split in ("train", "dev"):
        for n in (1, 2):
            noise(tmp_path / "d" / f"{split}{n}.wav", seed=n)
        kaldi(
            tmp_path / "d" / split,
            wav_scp="".join(f"{split}{n} {tmp_path}/d/{split}{n}.wav\n" for n in (1, 2)),
            text=f"{split}1 one {split}\n{split}2 two\n",
            utt2spk=f"{split}1 {split}1\n{split}2 {split}2\n",
        )
    got = fetched(DATA_DIR=tmp_path / "d", VALIDATION_SPLIT="dev")
    assert (got["train"][0]["text"], got["validation"][0]["text"]) == ("one train", "one dev")
    assert {row["speaker"] for row in got["train"]} == {None}
    assert len(fetched(DATA_DIR=tmp_path / "d")["train"]) == 2


LIST = "D:\\out\\slicer_opt\\a.wav_0001.wav|eva|ZH|你好，世界\n/gone/slicer_opt/b.wav_2.wav|eva|JP|こんにちは\n"


@pytest.mark.parametrize("variable", ["DATA_DIR", "TRAIN_JSONL"])
def test_gpt_sovits_lists_are_read_by_name_and_the_text_is_the_fourth_cell(
    tmp_path: Path, fetched: Any, variable: str
) -> None:
    root = tmp_path / "sovits"
    for number, name in enumerate(("a.wav_0001.wav", "b.wav_2.wav", "c.wav")):
        noise(root / "slicer_opt" / name, seed=number)
    write(root / "slicer_opt.list", LIST + "c.wav|eva|hello there|EN\nc.wav|eva|EN\nc.wav|eva|auto|last one\n")
    got = fetched(**{variable: root if variable == "DATA_DIR" else root / "slicer_opt.list"})
    assert [(Path(r["audio"]).name, r["language"], r["text"]) for r in got["train"]] == [
        ("a.wav_0001.wav", "zh", "你好，世界"),
        ("b.wav_2.wav", "ja", "こんにちは"),
        ("c.wav", None, "last one"),
    ]
    assert [(r["row"], r["reason"]) for r in got["rejected"]] == [
        (3, "not audio|speaker|language|text"),
        (4, "not audio|speaker|language|text"),
    ]


def test_a_list_of_two_folders_with_one_name_takes_neither(tmp_path: Path, fetched: Any) -> None:
    for number, name in enumerate(("1.wav", "2.wav")):
        noise(tmp_path / "s" / name, seed=number)
    write(tmp_path / "s" / "x.list", "/gone/p/1.wav|a|EN|one\n/gone/q/1.wav|a|EN|uno\n/gone/q/2.wav|a|EN|dos\n")
    got = fetched(DATA_DIR=tmp_path / "s")
    assert said(got) == {"2.wav": "dos"}
    assert [r["reason"] for r in got["rejected"]] == ["audio is missing"] * 2


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("metadata.txt", "{0}|text {0}\n"),
        ("filelist.txt", "wavs/{0}.wav|text {0}\n"),
        ("transcript.txt", "{0} text {0}\n"),
        ("prompts.text", "wavs/{0}.wav\ttext {0}\n"),
    ],
)
def test_the_one_table_that_names_the_audio_is_read_and_it_says_so(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    for number in range(3):
        noise(tmp_path / "v" / "wavs" / f"b0{number}.wav", seed=number)
    write(tmp_path / "v" / name, "".join(line.format(f"b0{number}") for number in range(3)))
    write(tmp_path / "v" / "README.txt", "Recorded in May.\nb00 is the best.\nThe third as well.\n")
    write(tmp_path / "v" / "speakers.csv", "id,text\n1,Eva from Oslo\n")
    assert said(fetched(DATA_DIR=tmp_path / "v")) == {f"b0{n}.wav": f"text b0{n}" for n in range(3)}
    assert f"{name} names the audio files" in capsys.readouterr().out


def test_several_tables_are_named_and_none_is_guessed(tmp_path: Path, fetched: Any) -> None:
    noise(tmp_path / "v" / "a.wav", seed=1)
    write(tmp_path / "v" / "transcript.csv", "file_name,text\na.wav,right\n")
    write(tmp_path / "v" / "train.csv", "file_name,text\na.wav,older\n")
    with pytest.raises(BadInput, match=r"several tables .*\(train\.csv, transcript\.csv\); set TRAIN_JSONL"):
        fetched(DATA_DIR=tmp_path / "v")


@pytest.mark.parametrize(
    ("header", "row", "train", "other", "split"),
    [
        ("client_id\tpath\tsentence", "c\t{0}\ttext {0}", "train.tsv", "dev.tsv", "dev"),
        ("audio_file|text|speaker_name", "clips/{0}|text {0}|coqui", "metadata_train.csv", "metadata_eval.csv", "eval"),
    ],
)
def test_tables_of_splits(
    tmp_path: Path, fetched: Any, header: str, row: str, train: str, other: str, split: str
) -> None:
    for number in range(3):
        noise(tmp_path / "cv" / "clips" / f"c{number}.mp3", seed=number)
    write(tmp_path / "cv" / train, "\n".join([header, row.format("c0.mp3"), row.format("c1.mp3")]))
    write(tmp_path / "cv" / other, "\n".join([header, row.format("c2.mp3")]))
    assert len(fetched(DATA_DIR=tmp_path / "cv")["train"]) == 2
    got = fetched(DATA_DIR=tmp_path / "cv", VALIDATION_SPLIT=split)
    assert [row["text"] for row in got["validation"]] == ["text c2.mp3"]
    assert len(got["train"]) == 2


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("stem", ["blåbær é", "Gdańsk ż", "ผู้ใหญ่", "が"])
def test_a_text_whose_name_has_its_marks_in_another_form_is_the_recordings(
    tmp_path: Path, fetched: Any, on_disk: Any, written: Any, stem: str
) -> None:
    noise(tmp_path / "v" / f"{unicodedata.normalize(on_disk, stem)}.wav", seed=1)
    write(tmp_path / "v" / f"{unicodedata.normalize(written, stem)}.txt", "mine")
    assert [row["text"] for row in fetched(DATA_DIR=tmp_path / "v")["train"]] == ["mine"]


def test_no_text_is_lent_to_a_recording_of_a_similar_name(tmp_path: Path, fetched: Any) -> None:
    names = ("a", "a.1", "a.1.2", "a.normalized", "B", "b")
    for number, name in enumerate(names):
        noise(tmp_path / "v" / f"{name}.wav", seed=number)
    for name in ("a.1", "a.normalized", "b"):
        write(tmp_path / "v" / f"{name}.txt", f"text of {name}")
    got = fetched(DATA_DIR=tmp_path / "v", SPEAKER_NAME="x")
    assert said(got) == {f"{n}.wav": f"text of {n}" for n in ("a.1", "a.normalized", "b")}


def test_one_text_and_two_recordings(tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The same sound as WAV and MP3 is one recording; two takes under one name are nobody's."""
    root = tmp_path / "v"
    wav = noise(root / "same.wav", seed=1)
    samples, rate = soundfile.read(wav)
    soundfile.write(root / "same.mp3", samples, rate)
    noise(root / "takes.wav", seed=2)
    noise(root / "takes.flac", seed=3)
    noise(root / "own.wav", seed=4)
    noise(root / "own.ogg", seed=5)
    for name in ("same", "takes"):
        write(root / f"{name}.txt", name)
    for name in ("own.wav", "own.ogg"):
        write(root / f"{name}.txt", name)
    got = fetched(DATA_DIR=root)
    assert said(got) == {"same.wav": "same", "own.wav": "own.wav", "own.ogg": "own.ogg"}
    assert [r["reason"] for r in got["rejected"]] == ["several recordings for one text"] * 2
    assert "of several formats the best is used" in capsys.readouterr().out


def test_two_texts_for_one_recording_are_refused_unless_they_say_the_same(tmp_path: Path, fetched: Any) -> None:
    for number, (first, second) in enumerate((("one", "One."), ("two", "three"))):
        noise(tmp_path / "v" / f"{number}.wav", seed=number)
        write(tmp_path / "v" / f"{number}.txt", first)
        write(tmp_path / "v" / f"{number}.wav.txt", second)
    got = fetched(DATA_DIR=tmp_path / "v")
    assert list(said(got)) == ["0.wav"]
    assert "1.wav.txt and 1.txt of 1.wav differ" in reasons(got)["several texts for one recording"]


def test_a_table_under_a_name_of_its_own_is_not_read_where_texts_lie_beside(tmp_path: Path, fetched: Any) -> None:
    write(noise(tmp_path / "v" / "a.wav", seed=1).with_suffix(".txt"), "beside")
    write_lines(tmp_path / "v" / "old.jsonl", [{"audio": "a.wav", "text": "old"}])
    assert said(fetched(DATA_DIR=tmp_path / "v")) == {"a.wav": "beside"}
