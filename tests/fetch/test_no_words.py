"""What only looks like a transcript is not learnt, and words that lie elsewhere are not guessed by a recogniser."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from job import stages
from job.config import settings
from job.core.errors import BadInput
from job.fetch.sounds_spelled import spells_sounds
from tests.fetch.conftest import write_audio, write_lines
from tests.fetch.test_trees import said, write

NAMES = [f"take_{n:03d}" for n in range(1, 7)]


def recordings(folder: Path, names: list[str] = NAMES) -> Path:
    for number, name in enumerate(names):
        write_audio(folder / f"{name}.wav", seed=number)
    return folder


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("lengths.tsv", "{name}.wav\t{n}.25\n"),
        ("frames.txt", "{name} {n}4000\n"),
        ("who.txt", "{name} reader{n}\n"),
        ("who.lst", "{name} Anna\n"),
        ("places.txt", "{name} https://example.org/{n}.mp3 {n}.0 {n}.9\n"),
        ("parts.text", "{name}\tAnna\t0.5\t1.25\n"),
        ("sounds.txt", "{name} DH AH0 F AO1 R S T\n"),
        ("sounds.trans", "{name} ð ə f ɔ ɹ s t\n"),
    ],
)
def test_a_list_of_anything_but_words_is_no_table_of_texts(tmp_path: Path, fetched: Any, name: str, line: str) -> None:
    folder = recordings(tmp_path / "in")
    header = "clip\tlength in seconds\n" if name.endswith(".tsv") else ""
    write(folder / name, header + "".join(line.format(name=stem, n=n) for n, stem in enumerate(NAMES, start=2)))
    with pytest.raises(BadInput, match=f"{name} names the recordings and is not read"):
        fetched(DATA_DIR=folder, TRANSCRIBE="auto")


def test_a_name_and_its_words_with_a_space_between_are_still_read(tmp_path: Path, fetched: Any) -> None:
    folder = recordings(tmp_path / "in")
    words = ["而 对 楼市 成交", "yes please", "Yana gida", "no", "一 二 三 四", "ja, gjerne"]
    write(folder / "text.txt", "".join(f"{name} {text}\n" for name, text in zip(NAMES, words, strict=True)))
    assert list(said(fetched(DATA_DIR=folder)).values()) == words


@pytest.mark.parametrize(
    "texts",
    [
        ["ðə kwˈɪk bɹˈaʊn fˈɑːks.", "dʒˈʌmps ˌoʊvɚ.", "həlˈoʊ."],
        ["DH AH0 K W IH1 K .", "B R AW1 N F AA1 K S", "HH AH0 L OW1 , HH AY1"],
        ["今 jin1 天 tian1 好 hao3", "你 ni3 好 hao3 吗 ma5", "再 zai4 见 jian4 了 le5"],
    ],
)
@pytest.mark.parametrize("header", ["audio|text\n", "path|sentence\n", ""])
def test_phonemes_are_asked_about_and_learnt_when_insisted_on(
    tmp_path: Path, fetched: Any, texts: list[str], header: str
) -> None:
    folder = recordings(tmp_path / "in", NAMES[:3])
    lines = "".join(f"{name}.wav|{text}\n" for name, text in zip(NAMES, texts, strict=False))
    table = write(folder / "list.txt", header + lines)
    with pytest.raises(BadInput, match=r"holds phonemes.*TEXT_COLUMN"):
        fetched(TRAIN_JSONL=table, TRANSCRIBE="auto")
    column = header.strip().partition("|")[2] or "2"
    assert list(said(fetched(TRAIN_JSONL=table, TEXT_COLUMN=column)).values()) == texts


def test_phonemes_beside_words_are_passed_over(tmp_path: Path, fetched: Any) -> None:
    folder = recordings(tmp_path / "in", NAMES[:3])
    rows = [f"{name}|ðə ʃˈɪp kˈeɪm hˈoʊm {n}|The ship came home, {n}.\n" for n, name in enumerate(NAMES[:3])]
    assert said(fetched(TRAIN_JSONL=write(folder / "l.txt", "".join(rows))))["take_001.wav"] == "The ship came home, 0."


def test_text_files_of_phonemes_are_asked_about_if_all_are(tmp_path: Path, fetched: Any) -> None:
    folder = recordings(tmp_path / "in", NAMES[:4])
    texts = ["kpˈɔ ɖˈe nˈɛ sˈe", "ðə ʃˈɪp kˈeɪm hˈoʊm", "ˈɹeɪn, ənd ˈsnoʊ"]
    for name, text in zip(NAMES, texts, strict=False):
        write(folder / f"{name}.txt", text)
    with pytest.raises(BadInput, match=r"texts of its recordings are phonemes.*TEXT_COLUMN=text to train on"):
        fetched(DATA_DIR=folder)
    assert list(said(fetched(DATA_DIR=folder, TEXT_COLUMN="text")).values()) == texts
    write(folder / f"{NAMES[3]}.txt", "Kpɔ, Ɖe nè se ɖe a? Ɛyɛ me dɛ.")
    assert len(fetched(DATA_DIR=folder)["train"]) == 4, "no single text is left out for how it is spelled"


@pytest.mark.parametrize(
    "text",
    [
        "Norway (/ˈnɔːrweɪ/) is a country in the north.",
        "Take the M1 or the A1 to the A2.",
        "Convert the mp3 to mp4 or ogg2.",
        "Ɛyɛ me dɛ sɛ mahyia wo, ɔkɔ ŋ.",
        "Bu gün hava çox yaxşıdır, ə?",
        "Æ e i a, æ å.",
        "Ẹ kú àárọ̀, ṣé dáadáa ni? E̩ kú is̩é̩.",
        "Sannu, ɗan ƙaramin ɓera ya ƴanta.",
        "Kahnawàːke nìːioht tsi wahatiːyo.",
        "goa2 si7 tai5 oan5 lang5",
        "tan3 ka4chi2 na1 ya1 ku4",
        "jmɨˈ ŋøˈ tsáˈ mɨˈ",
        "A B C D E F G",
        "",
    ],
)
def test_letters_of_real_languages_are_no_phonemes(text: str) -> None:
    assert not spells_sounds(text)


@pytest.mark.parametrize(
    ("table", "sound", "line", "advice"),
    [
        ("nb/train/utterances.txt", "nb/train/wav", "{name}\tHun {word} hjem.\n", "set DATA_DIR to .*nb/train"),
        ("a/b/c/sheet.csv", "a/b/c/wavs", "{name};{word} reiser;x\n", "set DATA_DIR to .*a/b/c"),
        ("etc/prompts.data", "wav", '( {name} "She {word} home." )\n', "write the words as metadata.csv"),
        ("doc/labels.yaml", "audio", "- {{file: {name}.wav, text: '{word} reiser'}}\n", "write the words as metadata"),
        ("marks/all.txt", "Wave", "{name}\t彼は{word}帰る#1。\n\tka1 re2 wa3\n", "write the words as metadata.csv"),
    ],
)
def test_words_that_lie_deeper_or_elsewhere_are_asked_about(
    tmp_path: Path, fetched: Any, table: str, sound: str, line: str, advice: str
) -> None:
    """With the default, TRANSCRIBE=auto, a recogniser would otherwise write worse words than there are."""
    root = tmp_path / "in"
    recordings(root / sound)
    words = ["kommer", "synger", "venter", "springer", "sykler", "kjører"]
    write(root / table, "".join(line.format(name=n, word=word) for n, word in zip(NAMES, words, strict=True)))
    with pytest.raises(BadInput, match=f"(?s){table} names.*{advice}.*TRANSCRIBE=always"):
        fetched(DATA_DIR=root, TRANSCRIBE="auto")


def test_lists_without_words_stop_no_transcription(tmp_path: Path) -> None:
    from job.fetch import elsewhere

    folder = recordings(tmp_path / "in" / "day 1").parent
    write(folder / "sums.txt", "".join(f"{n * 7919:032x}  day 1/{name}.wav\n" for n, name in enumerate(NAMES)))
    write(folder / "day 1" / "log.csv", "".join(f"{name}.wav;2024-01-01;48000;ok\n" for name in NAMES))
    write(folder / "day 1" / "README.txt", "".join(f"{name}.wav is take {name} of the session\n" for name in NAMES))
    write(folder / "book" / "chapter.txt", "He said take_001 and then he left the house for good.\n" * 30)
    assert elsewhere.with_words(folder, sorted(folder.rglob("*.wav"))) is None


@pytest.mark.parametrize("stripped_first", [True, False])
def test_a_column_without_capitals_and_marks_is_not_taken_for_the_written_out_one(
    tmp_path: Path, fetched: Any, stripped_first: bool
) -> None:
    """FLEURS has each sentence twice: as written, and in small letters without marks."""
    folder = recordings(tmp_path / "in", NAMES[:3])
    plain = ["Hun kom, sa han, kl. 12.", "Er det 5 km dit?", "Nei! Det er lengre."]
    bare = ["hun kom sa han kl 12", "er det 5 km dit", "nei det er lengre"]
    pairs = zip(bare, plain, strict=True) if stripped_first else zip(plain, bare, strict=True)
    lines = "".join(f"{name}.wav\t{one}\t{two}\n" for name, (one, two) in zip(NAMES, pairs, strict=False))
    assert list(said(fetched(TRAIN_JSONL=write(folder / "train.tsv", lines))).values()) == plain


def test_numbers_for_names_are_found_where_piper_keeps_them(tmp_path: Path, fetched: Any) -> None:
    recordings(tmp_path / "in" / "wav", ["1", "2", "3"])
    write(tmp_path / "in" / "metadata.csv", "1|It rains.\n2|It snows, too.\n3|The sun is out.\n")
    assert said(fetched(DATA_DIR=tmp_path / "in"))["2.wav"] == "It snows, too."
    rows = [{"audio": f"{n}.wav", "text": f"Words {n}."} for n in (1, 2)]
    assert len(fetched(TRAIN_JSONL=write_lines(tmp_path / "in" / "wav" / "m.jsonl", rows))["train"]) == 2


@pytest.mark.parametrize("labels", [["calm", "angry", "calm"], ["A1", "B2", "A1"], ["yes", "no", "no"]])
def test_labels_in_a_column_called_text_are_asked_about_beside_sentences(
    tmp_path: Path, fetched: Any, labels: list[str]
) -> None:
    folder = recordings(tmp_path / "in", NAMES[:3])
    words = ["The ship came home.", "He went to see the sea.", "Nobody knew what to say."]
    rows = [
        {"audio": f"{name}.wav", "text": label, "transcript": said}
        for name, label, said in zip(NAMES, labels, words, strict=False)
    ]
    table = write_lines(folder / "t.jsonl", rows)
    with pytest.raises(BadInput, match=r"column text holds .*TEXT_COLUMN=transcript"):
        fetched(TRAIN_JSONL=table)
    assert list(said(fetched(TRAIN_JSONL=table, TEXT_COLUMN="text")).values()) == labels


def test_what_programs_write_into_empty_cells_is_no_speaker_and_no_language(tmp_path: Path, fetched: Any) -> None:
    folder = recordings(tmp_path / "in")
    cells = [("NaN", "None"), ("<NA>", "#N/A"), ("Nan", "nan"), ("null", "NULL"), ("-", ""), ("Anna", "nb")]
    lines = "".join(f"{name}.wav,Words.,{who},{lang}\n" for name, (who, lang) in zip(NAMES, cells, strict=True))
    got = fetched(TRAIN_JSONL=write(folder / "t.csv", "audio,text,speaker,language\n" + lines))
    assert [row["speaker"] for row in got["train"]] == [None, None, "nan", None, None, "anna"]
    assert [row["language"] for row in got["train"]] == [None, None, "nan", None, None, "nb"], "Min Nan is `nan`"


@pytest.mark.parametrize("name", ["more.zip", "deep/er/Takes.7Z", "old.tar.bz2", "nb/train-0.parquet", "nb/0.tar"])
def test_archives_and_shards_that_are_not_read_are_named(tmp_path: Path, fetched: Any, name: str, capsys: Any) -> None:
    write_audio(tmp_path / "in" / "a.wav").with_suffix(".txt").write_text("Words.")
    write(tmp_path / "in" / name, "PK")
    assert len(fetched(DATA_DIR=tmp_path / "in")["train"]) == 1
    assert f"not read: {name}: " in capsys.readouterr().err
    (tmp_path / "in" / "a.wav").unlink()
    with pytest.raises(BadInput, match=name):
        fetched(DATA_DIR=tmp_path / "in")


def test_recordings_beside_tars_are_named(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    write_audio(tmp_path / "a.wav")
    write(tmp_path / "a.txt", "In the tar.")
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.wav", "a.wav")
        tar.add(tmp_path / "a.txt", "a.txt")
    write_audio(tmp_path / "in" / "more" / "b.flac")
    assert [row["text"] for row in fetched(DATA_DIR=tmp_path / "in")["train"]] == ["In the tar."]
    assert "not what lies beside them: more/b.flac" in capsys.readouterr().err


def test_an_archive_given_as_a_table_is_named_for_what_it_is(tmp_path: Path, fetched: Any) -> None:
    for name, head, said_of_it in (
        ("a.zip", b"PK\x03\x04\0\0", "a ZIP archive; unpack it"),
        ("b.jsonl", b"\x1f\x8b\0\0", "gzip"),
    ):
        (tmp_path / name).write_bytes(head + bytes(range(256)) * 4)
        with pytest.raises(BadInput, match=said_of_it):
            fetched(TRAIN_JSONL=tmp_path / name)


def test_recordings_that_no_row_names_are_named(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    root = tmp_path / "in"
    for n, name in enumerate(["a.wav", "sub/b b.wav", "ref.wav", "late.flac", "sub/later.ogg", "é.wav", ".hidden.wav"]):
        write_audio(root / name, seed=n)
    table = "audio,text\na.wav,One.\nsub/b b.wav,Two.\ne\u0301.wav,\n"
    fetched(DATA_DIR=write(root / "metadata.csv", table).parent)
    assert "no row names 2 recordings in in: late.flac, sub/later.ogg" in capsys.readouterr().out
    fetched(DATA_DIR=root, MAX_TRAIN_SAMPLES=1)
    assert "no row names" not in capsys.readouterr().out, "not all rows were read"
    write(root / "metadata.csv", table + 'late.flac,"Three.\nsub/later.ogg,Four.\n')
    fetched(DATA_DIR=root)
    assert "no row names" not in capsys.readouterr().out, "rows that cannot be read may be theirs"


def test_texts_without_a_recording_are_named(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    root = tmp_path / "in"
    write_audio(root / "wav48" / "p1" / "a_mic1.wav")
    write_audio(root / "x" / "c.wav")
    for name in (
        "txt/p1/a.txt",
        "txt/p1/b.txt",
        "x/c.lab",
        "x/c.original.txt",
        "speakers.txt",
        "x/README.txt",
        "x/c.wav.txt",
    ):
        write(root / name, "What is said.")
    assert len(fetched(DATA_DIR=root)["train"]) == 2
    assert "no recording is called like 1 text in in: txt/p1/b.txt" in capsys.readouterr().out


def test_splits_of_described_folders_that_are_not_read_are_named(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    for split in ("train", "eval"):
        write_audio(tmp_path / "in" / split / "a.wav")
        write(tmp_path / "in" / split / "metadata.csv", f"file_name,text\na.wav,Of {split}.\n")
    assert [row["text"] for row in fetched(DATA_DIR=tmp_path / "in")["train"]] == ["Of train."]
    assert "train is read; not read: eval (VALIDATION_SPLIT" in capsys.readouterr().out


def test_a_folder_below_the_one_with_the_table_is_told_which(tmp_path: Path, fetched: Any) -> None:
    recordings(tmp_path / "corpus" / "wavs")
    lines = "".join(f"{name}|The bus was late again.|The bus was late, {name}.\n" for name in NAMES)
    write(tmp_path / "corpus" / "metadata.csv", lines)
    with pytest.raises(BadInput, match=r"\.\./metadata.csv names recordings: set DATA_DIR to .*/corpus "):
        fetched(DATA_DIR=tmp_path / "corpus" / "wavs", TRANSCRIBE="auto")


@pytest.mark.parametrize("work", ["in/work", "in", "in/second"])
def test_what_a_voice_said_is_no_recording_to_learn_from(tmp_path: Path, fetched: Any, work: str, capsys: Any) -> None:
    """WORK_DIR may lie in DATA_DIR, or be it; the next night's run would learn from its own speech."""
    root = tmp_path / "in"
    write_audio(root / "a.wav").with_suffix(".txt").write_text("A person says this.")
    write_audio(root / "data" / "mine" / "b.wav").with_suffix(".txt").write_text("And this.")
    (tmp_path / work / "state").mkdir(parents=True)
    (tmp_path / work / "state" / "fetch.json").write_text("{}")
    loaded = settings.load({"WORK_DIR": str(tmp_path / work), "DATA_DIR": str(root)})
    before = _fingerprint(loaded)
    for name in ("samples/000", "kept/base/1", "said", "said/book/001", "output/probes/step-4", "data/raw/folder/x"):
        write_audio(tmp_path / work / f"{name}.wav").with_suffix(".txt").write_text("A voice said this.")
    (tmp_path / work / "said.txt").unlink()
    assert _fingerprint(loaded) == before, "the source is what it was"
    got = fetched(DATA_DIR=root, WORK_DIR=tmp_path / work)
    assert sorted(row["text"] for row in got["train"]) == ["A person says this.", "And this."]
    assert "WORK_DIR's own" in capsys.readouterr().out


def _fingerprint(loaded: settings.Settings) -> str:
    fetch = stages.stage("fetch")
    return stages.fingerprint(loaded, fetch, stages.stage_values(loaded, fetch), fetch.source(loaded))


@pytest.mark.parametrize("text", ["...?!", "♪ ♪", "🎵🎵🎵", "— —", "（。）", "* * *", "#", "།།"])
def test_signs_alone_are_nothing_that_is_said(tmp_path: Path, fetched: Any, text: str) -> None:
    folder = recordings(tmp_path / "in", NAMES[:2])
    rows = [{"audio": f"{NAMES[0]}.wav", "text": text}, {"audio": f"{NAMES[1]}.wav", "text": "7 €?"}]
    got = fetched(TRAIN_JSONL=write_lines(folder / "t.jsonl", rows))
    assert [row["text"] for row in got["train"]] == ["7 €?"]
    (rejected,) = got["rejected"]
    assert rejected["row"] == 1 and rejected["reason"] in ("no words", "no text", "empty text")


@pytest.mark.parametrize(
    "name", ["{0}_transcript.txt", "texts/text-{0}.txt", "{0} (corrected).docx", "{0}.final.v2.txt", "Text of {0}.lab"]
)
def test_texts_with_more_in_their_names_are_asked_about(tmp_path: Path, fetched: Any, name: str) -> None:
    root = recordings(tmp_path / "in")
    for stem in NAMES[1:]:
        write(root / name.format(stem), "What is said.")
    with pytest.raises(BadInput, match=r"take_002\.(txt|docx|lab)|take_002.*call it take_002\.txt"):
        fetched(DATA_DIR=root, TRANSCRIBE="auto")


def test_other_texts_beside_recordings_stop_no_transcription(tmp_path: Path) -> None:
    from job.fetch import elsewhere

    root = recordings(tmp_path / "in", ["1", "2", "3", "4"])
    for name in ("notes 1.txt", "README.txt", "12.txt", "day_2_plan.txt"):
        write(root / name, "Bring the other microphone.")
    assert elsewhere.nearly_beside(root, sorted(root.glob("*.wav"))) is None


@pytest.mark.parametrize(
    ("names", "unit"),
    [
        (("from", "to"), 1),
        (("Anfang (s)", "Ende (s)"), 1),
        (("utt_start", "utt_length"), 1),
        (("from_time", "until_time"), 1000),
        (("start_sample", "end_sample"), 16_000),
        (("frame_offset", "num_frames"), 16_000),
    ],
)
def test_places_under_other_names_are_asked_about(
    tmp_path: Path, fetched: Any, names: tuple[str, str], unit: int
) -> None:
    """Without them each row would be the whole recording, with the words of a part of it."""
    for number, name in enumerate(NAMES[:4]):
        write_audio(tmp_path / f"{name}.wav", seconds=4.0, seed=number)
    given = [(0.5 + 0.1 * n, 1.0 if "length" in names[1] or "num" in names[1] else 2.0 + 0.1 * n) for n in range(4)]
    rows = [
        {"audio": f"{name}.wav", "text": f"Words of {name}.", names[0]: round(unit * a), names[1]: str(unit * b)}
        if unit > 1
        else {"audio": f"{name}.wav", "text": f"Words of {name}.", names[0]: a, names[1]: str(b).replace(".", ",")}
        for name, (a, b) in zip(NAMES, given, strict=False)
    ]
    with pytest.raises(BadInput, match=r"look like places in the recordings .*call them start and end"):
        fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))


@pytest.mark.parametrize(
    "more",
    [
        {"from": 1803.5, "to": 1807.5},  # of the session that the recording was cut from
        {"from": 0.0, "to": 4.0},  # all of it
        {"mos_from": 0.2, "mos": 3.4, "up_votes": 1, "down_votes": 2},
        {"from": "nb", "to": "en"},
    ],
)
def test_other_columns_are_no_places(tmp_path: Path, fetched: Any, more: dict[str, Any]) -> None:
    for number, name in enumerate(NAMES[:4]):
        write_audio(tmp_path / f"{name}.wav", seconds=4.0, seed=number)
    rows = [{"audio": f"{name}.wav", "text": f"Words of {name}.", **more} for name in NAMES[:4]]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert [row.get("start") for row in got["train"]] == [None] * 4
