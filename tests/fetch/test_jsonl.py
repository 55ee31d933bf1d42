"""JSONL from outside: what is kept, what is left out with its row and reason, and what stops the run with one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job import fetch
from job.config import settings as variables
from job.core.errors import BadInput
from job.fetch import jsonl
from job.fetch.audio_store import Store
from job.fetch.collect import Collector
from job.fetch.table import Row, RowError
from job.fetch.values import required_text
from tests.fetch.conftest import write_audio, write_lines

FIELDS = {"id", "audio", "text", "ref_audio", "ref_text", "speaker", "language", "instruct", "row", "source"}


def test_a_row_arrives_with_every_field_of_the_manifest(tmp_path: Path, fetched: Any) -> None:
    audio = write_audio(tmp_path / "data" / "a.wav")
    other = write_audio(tmp_path / "data" / "b.wav")
    ref = write_audio(tmp_path / "data" / "ref.flac", seed=1)
    full = {
        "audio": "a.wav",
        "text": " Halló heimur. ",
        "ref_audio": "ref.flac",
        "ref_text": "reference",
        "speaker": "Jón",
    }
    full |= {"language": "Icelandic", "instruct": "slowly", "id": "é/1"}
    path = write_lines(tmp_path / "data" / "train.jsonl", [full, {"audio": str(other), "text": "two"}])
    got = fetched(TRAIN_JSONL=path)
    first, second = got["train"]
    assert first == {
        "id": "é_1",
        "audio": str(audio),
        "text": "Halló heimur.",
        "ref_audio": str(ref),
        "ref_text": "reference",
        "speaker": "jón",
        "language": "Icelandic",
        "instruct": "slowly",
        "row": 1,
        "source": "train.jsonl",
    }
    assert set(second) == FIELDS
    assert second["id"] == "train-train-000002"
    assert all(second[f] is None for f in ("ref_audio", "ref_text", "speaker", "language", "instruct"))
    assert got["counts"] == {
        "train": 2,
        "validation": 0,
        "rejected": 0,
        "speakers": 1,
        "source": f"TRAIN_JSONL={path}",
    }


@pytest.mark.parametrize("audio", ["audio", "audio_filepath", "audio_path", "path", "file", "wav", "file_name"])
@pytest.mark.parametrize("text", ["text", "sentence", "transcript", "transcription", "normalized_text"])
def test_the_usual_names_are_understood(tmp_path: Path, fetched: Any, audio: str, text: str) -> None:
    write_audio(tmp_path / "a.wav")
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", [{audio: "a.wav", text: "hello"}]))
    assert got["train"][0]["text"] == "hello"
    assert got["train"][0]["audio"] == str(tmp_path / "a.wav")


@pytest.mark.parametrize("offset", [{}, {"offset": 0.0}, {"offset": 0.25}])
def test_a_manifest_of_nemo_or_nemo_curator_is_understood(tmp_path: Path, fetched: Any, offset: Any) -> None:
    """`text` is what was written, not what a recogniser heard (`pred_text`); offset and duration give a part."""
    rows = []
    for n in range(6):
        path = write_audio(tmp_path / f"{n}.wav", seconds=1.0, seed=n)
        heard = {"pred_text": f"a recogniser herd this sentence number {n}", "wer": 12.5 * n, "lang": "en"}
        text = f"This is sentence number {n}, as it was written."
        rows.append(
            {"audio_filepath": str(path), "duration": 1.0 - sum(offset.values()), **offset, "text": text, **heard}
        )
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "manifest.json", rows))
    assert [row["text"] for row in got["train"]] == [row["text"] for row in rows]
    assert [row["audio"] for row in got["train"]] == [row["audio_filepath"] for row in rows]
    assert {row["language"] for row in got["train"]} == {"en"}
    assert {row.get("start") or 0.0 for row in got["train"]} == {offset.get("offset", 0.0)}
    assert got["rejected"] == []


def test_variables_override_the_usual_names(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav", seed=1)
    row = {"audio": "a.wav", "text": "no", "clip": "b.wav", "said": "yes", "who": 7, "lang": "x", "tongue": "Hausa"}
    row["style"] = "softly"
    got = fetched(
        TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", [row]),
        TEXT_COLUMN="said",
        AUDIO_COLUMN="clip",
        SPEAKER_COLUMN="who",
        LANGUAGE_COLUMN="tongue",
        INSTRUCT_COLUMN="style",
    )["train"][0]
    assert (got["text"], Path(got["audio"]).name, got["speaker"]) == ("yes", "b.wav", "7")
    assert (got["language"], got["instruct"]) == ("Hausa", "softly")


@pytest.mark.parametrize("variable", ["TEXT_COLUMN", "AUDIO_COLUMN", "SPEAKER_COLUMN", "LANGUAGE_COLUMN"])
def test_an_unknown_column_is_named_with_those_there_are(tmp_path: Path, fetched: Any, variable: str) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"audio": "a.wav", "text": "x", "extra": 1}])
    with pytest.raises(BadInput, match=rf"{variable}=nope.*audio, text, extra") as caught:
        fetched(TRAIN_JSONL=path, **{variable: "nope"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "named"),
    [({"audio": "a.wav", "words": "x"}, "TEXT_COLUMN"), ({"clip": "a", "text": "x"}, "AUDIO_COLUMN")],
)
def test_columns_that_cannot_be_guessed_name_their_variable(
    tmp_path: Path, fetched: Any, row: dict[str, str], named: str
) -> None:
    with pytest.raises(BadInput, match=rf"{', '.join(row)}.*{named}"):
        fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", [row]))


def test_relative_paths_are_looked_for_beside_the_file_then_above_then_here(
    tmp_path: Path, fetched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beside, above, here = tmp_path / "set" / "data", tmp_path / "set", tmp_path
    for folder, names in ((beside, "a"), (above, "ab"), (here, "abc")):
        for name in names:
            write_audio(folder / "data" / f"{name}.wav")
    rows = [{"audio": f"./data/{name}.wav", "text": name} for name in "abc"] + [{"audio": "data\\a.wav", "text": "A"}]
    got = fetched(TRAIN_JSONL=write_lines(beside / "train.jsonl", rows))
    found = [Path(row["audio"]).parent.parent for row in got["train"]]
    assert found == [beside, above, here, beside]


def test_bad_rows_are_left_out_with_their_number_and_reason(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / "empty.wav").touch()
    good = {"audio": "a.wav", "text": "good"}
    rows = [
        good,
        '{"audio": "a.wav", "text": ',
        "[1, 2]",
        {**good, "text": "  \u200b "},
        {"audio": "a.wav"},
        "",
        {"audio": "gone.wav", "text": "x"},
        {"audio": "gone2.wav", "text": "x"},
        {"text": "no audio"},
        {**good, "text": 5},
        {**good, "speaker": ["a"]},
        {"audio": "empty.wav", "text": "x"},
        {"audio": "https://example.org/a.wav", "text": "x"},
        '{"audio": "a.wav", "text": "\\ud800"}',
        {**good, "ref_audio": "noref.wav"},
        good,
    ]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert [row["row"] for row in got["train"]] == [1, 16]
    assert {(r["row"], r["reason"]) for r in got["rejected"]} == {
        (2, "not JSON"),
        (3, "not a JSON object"),
        (4, "empty text"),
        (5, "no text"),
        (7, "audio is missing"),
        (8, "audio is missing"),
        (9, "no audio"),
        (10, "text is not a string"),
        (11, "speaker is not a string"),
        (12, "audio is empty"),
        (13, "audio is an address"),
        (14, "text is not valid Unicode"),
        (15, "ref_audio is missing"),
    }
    assert all(r["split"] == "train" and r["source"] == "t.jsonl" for r in got["rejected"])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 12, "one line a kind of reason"
    assert any(re.search(r"2 rows .*audio is missing, first row 7 .*gone\.wav", line) for line in warnings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n\n \n", "empty"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "binary"),
        ("{}".encode("utf-16"), "objects in it are empty"),
        ("{}".encode("utf-16-le") * 9, "UTF-16 without its mark; save it as UTF-8"),
        (b'[\n{"audio": "a.wav",\n"text": "x"}\n]\n', "line 1.*JSON array"),
        (b'[{"audio": "a.wav", "text": "x"}]', "line 1: not a JSON object: list; write one object a line"),
        (b'{"audio": "a.wav", "text": "x"},\n' * 2, "line 1.*JSON array; write one object a line, without commas"),
        (b'{"audio": "a.wav", "text": "x"\n', r"line 1: not JSON.*column"),
        (b'{"audio": "a.wav", "text": ""}\n', "row 1: empty text"),
        (b'{"audio": "gone.wav", "text": "x"}\n', r"row 1: audio is missing.*gone\.wav"),
    ],
)
def test_a_file_without_a_usable_row_is_bad_input_in_one_line(
    tmp_path: Path, fetched: Any, content: bytes, said: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=said) as caught:
        fetched(TRAIN_JSONL=path)
    assert f"TRAIN_JSONL={path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_bad_input(tmp_path: Path, fetched: Any) -> None:
    with pytest.raises(BadInput, match=r"TRAIN_JSONL=.*gone\.jsonl: no such file"):
        fetched(TRAIN_JSONL=tmp_path / "gone.jsonl")
    with pytest.raises(BadInput, match=r"TRAIN_JSONL=.* is a folder.*DATA_DIR"):
        fetched(TRAIN_JSONL=tmp_path)


def test_byte_order_mark_carriage_returns_and_blank_lines_are_tolerated(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    line = json.dumps({"audio": "a.wav", "text": "x"}).encode()
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n   \r\n" + line)
    got = fetched(TRAIN_JSONL=tmp_path / "t.jsonl")
    assert [row["row"] for row in got["train"]] == [1, 4]
    assert got["rejected"] == []


def test_a_file_in_an_old_encoding_says_how_to_save_it(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "a.wav")
    for name, form in (("t.jsonl", '{{"audio": "a.wav", "text": "{0}"}}'), ("t.csv", "a.wav;{0}")):
        lines = ["audio;text"] * name.endswith("csv") + [form.format(text) for text in ("Hei", "Blåbær")]
        (tmp_path / name).write_bytes("\r\n".join(lines).encode("cp1252"))
        got = fetched(TRAIN_JSONL=tmp_path / name)
        assert [row["text"] for row in got["train"]] == ["Hei"]
        assert len(got["rejected"]) == 1
        assert re.search(r"save .* as UTF-8", capsys.readouterr().err)


def test_encoded_rows_of_the_vendor_need_no_audio_and_are_validated(tmp_path: Path, fetched: Any) -> None:
    codes = [[1] * 16, [2047] * 16]
    rows: list[Any] = [{"text": "x", "audio": "gone.wav", "audio_codes": codes}, {"text": "y", "audio_codes": codes}]
    broken = [[], [1, 2], [[1, 2], [3]], [[1, -1]], [[1, True]], [[1.5]], "1", [[1], []], [[70000]], [["1"]]]
    rows += [{"text": "z", "audio_codes": value} for value in broken]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert [(row["audio"], row["audio_codes"]) for row in got["train"]] == [(None, codes)] * 2
    assert [r["reason"] for r in got["rejected"]] == ["audio_codes are not valid"] * len(broken)


def test_ids_are_unique_across_splits_and_safe_as_file_names(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    ids = ["x", "x", "X", "../../etc/passwd", "", "...", "a" * 300, None, 7, "t-train-000010", "q"]
    rows = [{"audio": "a.wav", "text": "t", "id": value} for value in ids]
    path = write_lines(tmp_path / "t.jsonl", rows)
    got = fetched(TRAIN_JSONL=path, VALIDATION_JSONL=path)
    names = [row["id"] for split in ("train", "validation") for row in got[split]]
    assert len(names) == 22
    assert len({name.lower() for name in names}) == 22
    assert names[0] == "x"
    assert all(re.fullmatch(r"\w[\w.-]{0,90}", name) for name in names)


def test_two_different_references_of_a_speaker_stop_the_run(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    one = write_audio(tmp_path / "r1.wav", seed=1)
    write_audio(tmp_path / "r2.wav", seed=2)
    (tmp_path / "copy.wav").write_bytes(one.read_bytes())
    base = {"audio": "a.wav", "text": "t", "speaker": "Eva"}
    rows = [{**base, "ref_audio": "r1.wav"}, {**base, "ref_audio": "copy.wav", "speaker": "EVA"}]
    other = {**base, "ref_audio": "r2.wav", "speaker": "Other"}
    path = write_lines(tmp_path / "t.jsonl", [*rows, other])
    assert len(fetched(TRAIN_JSONL=path)["train"]) == 3, "equal contents agree; another speaker may differ"
    write_lines(path, [*rows, {**other, "speaker": "eVA"}])
    with pytest.raises(BadInput, match=r"t\.jsonl row 1 and .*t\.jsonl row 3 .*eva.*REF_AUDIO_STRATEGY") as caught:
        fetched(TRAIN_JSONL=path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="different ref_audio"):
        fetched(TRAIN_JSONL=path, REF_AUDIO_STRATEGY="same")
    for chosen in ({"REF_AUDIO_STRATEGY": "best"}, {"REF_AUDIO_STRATEGY": "first"}, {"REF_AUDIO_PATH": str(one)}):
        assert len(fetched(TRAIN_JSONL=path, **chosen)["train"]) == 3


def test_rows_without_a_speaker_are_speaker_name_when_references_are_compared(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    rows = []
    for number, speaker in enumerate((None, "my_voice")):
        write_audio(tmp_path / f"r{number}.wav", seed=number)
        rows.append({"audio": "a.wav", "text": "t", "ref_audio": f"r{number}.wav", "speaker": speaker})
    path = write_lines(tmp_path / "t.jsonl", rows)
    assert len(fetched(TRAIN_JSONL=path, SPEAKER_NAME="Else")["train"]) == 2
    with pytest.raises(BadInput, match="speaker my_voice"):
        fetched(TRAIN_JSONL=path, SPEAKER_NAME="My_Voice")


def test_a_missing_reference_variable_is_bad_input(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    path = write_lines(tmp_path / "t.jsonl", [{"audio": "a.wav", "text": "t"}])
    with pytest.raises(BadInput, match=r"REF_AUDIO_PATH=gone\.wav: no such file"):
        fetched(TRAIN_JSONL=path, REF_AUDIO_PATH="gone.wav")
    with pytest.raises(BadInput, match="REF_AUDIO_STRATEGY=file needs REF_AUDIO_PATH"):
        fetched(TRAIN_JSONL=path, REF_AUDIO_STRATEGY="file")


def test_limits_take_the_first_rows(tmp_path: Path, fetched: Any) -> None:
    rows: list[Any] = ["broken"]
    for number, length in enumerate((1.0, 40.0, 2.0, 1.0, 1.0)):
        write_audio(tmp_path / f"{number}.wav", length, 8000)
        rows.append({"audio": f"{number}.wav", "text": str(number)})
    path = write_lines(tmp_path / "t.jsonl", rows)
    got = fetched(TRAIN_JSONL=path, VALIDATION_JSONL=path, MAX_TRAIN_SAMPLES=2, MAX_EVAL_SAMPLES=3)
    assert [row["text"] for row in got["train"]] == ["0", "1"]
    assert [row["text"] for row in got["validation"]] == ["0", "1", "2"]
    got = fetched(TRAIN_JSONL=path, MAX_HOURS=3.5 / 3600)
    assert [row["text"] for row in got["train"]] == ["0", "1", "2"], "clips over MAX_SECONDS are not charged"
    assert set(got["train"][0]) == FIELDS
    assert got["validation"] is None, "the manifest of an earlier run is gone"
    with pytest.raises(BadInput, match="MAX_HOURS"):
        fetched(TRAIN_JSONL=path, MAX_HOURS=0.5 / 3600)


def test_check_reads_as_far_as_the_first_good_row_and_writes_nothing(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / "noise.wav").write_bytes(b"no audio at all")
    path = write_lines(
        tmp_path / "t.jsonl", ["broken", {"audio": "noise.wav", "text": "x"}, {"audio": "a.wav", "text": "x"}]
    )
    environ = {"TRAIN_JSONL": str(path), "WORK_DIR": str(tmp_path / "work")}
    assert fetch.check(variables.load(environ)) == f"TRAIN_JSONL={path}: 3 train rows (text in text, audio in audio)"
    assert not (tmp_path / "work").exists()
    write_lines(path, [{"audio": "noise.wav", "text": "x"}])
    with pytest.raises(BadInput, match=r"row 1: audio cannot be read: noise\.wav"):
        fetch.check(variables.load(environ))


KEYS = st.sampled_from(["audio", "text", "speaker", "language", "ref_audio", "ref_text", "audio_codes", "id", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("a.wav"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=6).map(json.dumps).map(str.encode)
GOOD = st.fixed_dictionaries({"audio": st.just("a.wav"), "text": JSON, "id": JSON}).map(json.dumps).map(str.encode)
LINES = st.binary(max_size=60) | OBJECTS | GOOD | JSON.map(json.dumps).map(str.encode) | st.just(b"[" * 100_000)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=8))
def test_whatever_a_line_holds_it_is_kept_or_left_out_with_a_reason(tmp_path: Path, lines: list[bytes]) -> None:
    if not (tmp_path / "a.wav").exists():
        write_audio(tmp_path / "a.wav", 0.1)
    path = tmp_path / "t.jsonl"
    first = json.dumps({"audio": "a.wav", "text": "t"}).encode()
    path.write_bytes(b"\n".join([first, *(line.replace(b"\0", b"") for line in lines)]))
    wanted = [n for n, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    loaded = variables.load(
        {"TRAIN_JSONL": str(path), "WORK_DIR": str(tmp_path / "work"), "REF_AUDIO_STRATEGY": "best"}
    )
    collector = Collector(loaded, Store(tmp_path / "work" / "audio"))
    kept = list(collector.rows("train", jsonl.open_table(path, f"TRAIN_JSONL={path}")))
    assert sorted([*(r["row"] for r in kept), *(r["row"] for r in collector.rejected)]) == wanted
    assert all(r["reason"] for r in collector.rejected)
    for row in kept:
        assert row["text"].strip()
        assert json.dumps(row, ensure_ascii=False).encode(), "can be written as UTF-8"


@given(line=st.binary(max_size=200).filter(lambda b: b.strip() and b"\n" not in b))
def test_reading_never_raises(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.jsonl"
    path.write_bytes(line)
    for row in jsonl.read(path):
        assert isinstance(row, Row) == (isinstance(_parsed(line), dict))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except ValueError:
        return None


@pytest.mark.parametrize("text", ["\u200e", " \u200b\u200f\u2069 ", "\u00ad"])
def test_a_text_of_invisible_characters_is_empty(text: str) -> None:
    with pytest.raises(RowError, match="empty text"):
        required_text(text)
    assert required_text(f"{text}مرحبا").text == "مرحبا"


def test_a_name_that_stands_twice_in_an_object_leaves_the_row_out(tmp_path: Path, fetched: Any) -> None:
    """JSON readers take the last value in silence: half of the texts would be others."""
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav")
    lines = ['{"audio": "a.wav", "text": "one", "text": "two"}', '{"audio": "b.wav", "text": "x", "text": "x"}']
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", lines))
    assert [row["text"] for row in got["train"]] == ["x"]
    assert got["rejected"][0]["reason"] == "a name stands twice in the object"


@pytest.mark.parametrize("content", ['{"data": [\n', '{\n "a.wav": "one",\n', '{"audio": [\n', "[\n"])
def test_json_over_several_lines_is_called_that(tmp_path: Path, fetched: Any, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(BadInput, match=r"line 1: not JSON: .*(several lines|JSON array); write one object"):
        fetched(TRAIN_JSONL=tmp_path / "t.json")


def test_a_text_of_several_lines_is_shown_in_one(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    write_audio(tmp_path / "a.wav")
    fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", [{"audio": "a.wav", "text": "one\n\ntwo"}]))
    assert "text: one two" in capsys.readouterr().out


def test_data_that_are_named_and_not_read_are_said(tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]):
    """Two variables name data and one is read: nobody wonders at night where the other recordings are."""
    path = write_lines(tmp_path / "t.jsonl", [{"audio": str(write_audio(tmp_path / "a.wav")), "text": "One sentence."}])
    fetched(TRAIN_JSONL=path, DATA_DIR=tmp_path / "others", DATASET_NAME="me/data")
    said = capsys.readouterr().out
    assert f"DATA_DIR={tmp_path / 'others'} and DATASET_NAME=me/data: not read, since TRAIN_JSONL is set" in said
    fetched(TRAIN_JSONL=path)
    assert "not read" not in capsys.readouterr().out
