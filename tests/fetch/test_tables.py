"""Rows of separated cells: none is lost in silence, cut in two, or read with another one's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines


@pytest.fixture
def read(tmp_path: Path, fetched: Any) -> Any:
    """Read a file with these contents beside a.wav to h.wav: (row, recording, text) of those kept, rows left out."""
    for name in "abcdefgh":
        write_audio(tmp_path / f"{name}.wav", 0.1)

    def run(contents: str | bytes, name: str = "t.csv", **variables: Any) -> tuple[list[Any], dict[int, str]]:
        data = contents if isinstance(contents, bytes) else contents.encode()
        (tmp_path / name).write_bytes(data)
        got = fetched(TRAIN_JSONL=tmp_path / name, **variables)
        kept = [(row["row"], Path(row["audio"]).stem, row["text"]) for row in got["train"]]
        return kept, {row["row"]: row["reason"] for row in got["rejected"]}

    return run


def test_an_unclosed_quote_takes_only_its_own_row(read: Any) -> None:
    """One `"` too few made one row of five, and none was reported."""
    kept, rejected = read('audio,text\na.wav,one\nb.wav,"two\nc.wav,three\nd.wav,four\ne.wav,five\n')
    assert kept == [(2, "a", "one"), (4, "c", "three"), (5, "d", "four"), (6, "e", "five")]
    assert rejected == {3: "a quote is not closed"}


@pytest.mark.parametrize(
    "contents",
    [
        'audio,text\na.wav,"one\nb.wav,He is 12", tall\nc.wav,three\n',
        'text;audio\n"one;a.wav\nSay 12";b.wav\nthree;c.wav\n',
        'audio;text\na.wav;"one\nb.wav;two\nb.wav;"two"\nc.wav;three\n',
    ],
)
def test_rows_inside_a_cell_are_left_out_by_number(read: Any, contents: str) -> None:
    """A quote that another row's happens to close is told by the recordings inside the cell."""
    kept, rejected = read(contents)
    assert all(text in ("two", "three") for _, _, text in kept)
    assert (contents.count("\n"), "c", "three") in kept
    assert len(kept) + len(rejected) == contents.count("\n") - 1
    assert "a quote is not closed" in rejected.values()


def test_a_sentence_of_several_lines_counts_the_lines_it_spans(read: Any) -> None:
    """Row numbers are lines of the file, as an editor shows them."""
    kept, rejected = read('audio,text\r\na.wav,"one\r\nand more"\r\n\r\nb.wav,"two ""quoted"" words"\r\ngone.wav,x\r\n')
    assert [(row, text.split()) for row, _, text in kept] == [
        (2, ["one", "and", "more"]),
        (5, ["two", '"quoted"', "words"]),
    ]
    assert rejected == {6: "audio is missing"}


@pytest.mark.parametrize(
    ("contents", "texts"),
    [
        ('audio, text\na.wav, "one, two"\nb.wav, "three"\n', ["one, two", "three"]),
        ('audio;text\na.wav;  "one; two"\nb.wav;"three"  \n', ["one; two", "three"]),
        ('"audio" , "text"\n"a.wav" , "one, two"\n"b.wav" , "three"\n', ["one, two", "three"]),
        ('audio,text\na.wav,12" pipes\nb.wav,he said "no"\n', ['12" pipes', 'he said "no"']),
        ("audio,text,\na.wav,one,\nb.wav,two,\n", ["one", "two"]),
        ("sep=;\naudio;text\na.wav;one\nb.wav;two, three\n", ["one", "two, three"]),
    ],
)
def test_quotes_and_spaces_around_cells_are_no_part_of_them(read: Any, contents: str, texts: list[str]) -> None:
    kept, rejected = read(contents)
    assert [text for _, _, text in kept] == texts
    assert rejected == {}


@pytest.mark.parametrize(
    ("contents", "texts"),
    [
        # pandas.to_csv(sep="\t") and sep="|" quote what holds a quote or the separator
        ('path\tsentence\na.wav\t"He said ""no"" twice"\nb.wav\tplain\n', ['He said "no" twice', "plain"]),
        ('path|sentence\na.wav|"this | that"\nb.wav|"say ""a"""\n', ["this | that", 'say "a"']),
        ('"path"\t"sentence"\n"a.wav"\t"one"\n"b.wav"\t"two"\n', ["one", "two"]),
        # Common Voice and LJSpeech do not
        ('path\tsentence\na.wav\t"No," he said.\nb.wav\tHe said "no\n', ['"No," he said.', 'He said "no']),
        ('a.wav|"Nobody knows|"Nobody knows\nb.wav|She said "no"|She said "no"\n', ['"Nobody knows', 'She said "no"']),
    ],
)
def test_whether_tabs_and_bars_are_quoted_is_told_by_the_rows(read: Any, contents: str, texts: list[str]) -> None:
    kept, rejected = read(contents, "t.tsv")
    assert [text for _, _, text in kept] == texts
    assert rejected == {}


def test_where_both_are_in_a_file_rows_that_hang_on_it_are_left_out(read: Any) -> None:
    rows = ['a.wav\t"say ""a"" now"', 'b.wav\tHe said "no"', "c.wav\tplain", 'd.wav\t"whole"', 'e.wav\t"open']
    kept, rejected = read("path\tsentence\n" + "\n".join(rows) + "\n", "t.tsv")
    assert {text.replace('"', "") for _, _, text in kept} == {"say a now", "He said no", "plain", "whole"}
    assert rejected == {6: "a quote is not closed"}


@pytest.mark.parametrize(
    ("contents", "kept", "left_out"),
    [
        ("audio,text,speaker\na.wav,eva\nb.wav,two,eva\n", [(3, "b", "two")], {2: "fewer cells than columns"}),
        ("audio;speaker;text\na.wav;eva\nb.wav;eva;two\n", [(3, "b", "two")], {2: "fewer cells than columns"}),
        ("a.wav|he said|no\nb.wav|two\nc.wav|three\nd.wav|four\ne.wav|five\nf.wav|six\n", None, {1: "more cells"}),
        ("a.wav|one|one\nb.wav|he said | no one came\nc.wav|three|three\n", None, {2: "a separator may be part"}),
        ("audio,text,speaker\na.wav,Hello, you\nb.wav,two,eva\nc.wav,three,eva\n", None, {2: "a separator may be"}),
        ("audio,text\na.wav,one\nand more\nb.wav,two\n", [(4, "b", "two")], {2: "a line break", 3: "fewer cells"}),
        ("text|audio\none\nand more|a.wav\ntwo|b.wav\n", [(4, "b", "two")], {2: "fewer cells", 3: "a line break"}),
        (b"audio,text\na.wav,on\0e\nb.wav,two\n", [(3, "b", "two")], {2: "a NUL byte"}),
    ],
)
def test_a_row_that_may_be_half_a_sentence_is_left_out(read: Any, contents: Any, kept: Any, left_out: Any) -> None:
    """Too few cells, too many, a separator or a line break that stands inside the sentence."""
    got, rejected = read(contents)
    assert kept is None or got == kept
    assert {row: reason[: len(left_out[row])] for row, reason in rejected.items()} == left_out


@pytest.mark.parametrize(
    "contents",
    [
        "a.wav,Hello, you\nb.wav,Well, no\nc.wav,Once, there was a man\n",
        "a.wav|one\nb.wav|two|or three\nc.wav|four|five|six\nd.wav|seven\n",
        "a.wav;Ja; men ikke nå\nb.wav;Nei; aldri\n",
    ],
)
def test_separators_in_sentences_of_a_table_without_header_are_refused(read: Any, contents: str) -> None:
    """Each half would pass for a column."""
    with pytest.raises(BadInput, match="quotes") as caught:
        read(contents)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", ["He took the rope, file, and saw", "The text, path, and audio", "text", "speaker"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_first_sentence_with_names_of_columns_makes_no_header(read: Any, first: str, end: str) -> None:
    sentences = [first, "She went away again, alone.", "Nobody had seen them, ever."]
    kept, rejected = read(end.join(f"{name}|{text}" for name, text in zip("abc", sentences, strict=True)) + end)
    assert kept == [(n, name, text) for n, (name, text) in enumerate(zip("abc", sentences, strict=True), start=1)]
    assert rejected == {}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.list"])
@pytest.mark.parametrize("header", ["", "audio{}text", "Dateiname{}gesprochen"])
def test_every_separator_with_and_without_header_keeps_row_one(
    read: Any, separator: str, name: str, header: str
) -> None:
    rows = [
        f"{n}.wav{separator}{text}" for n, text in zip("abc", ["Guten Tag.", "Wie geht es dir?", "Gut."], strict=True)
    ]
    kept, rejected = read("\n".join([header.format(separator)] * bool(header) + rows), name)
    assert [text for _, _, text in kept] == ["Guten Tag.", "Wie geht es dir?", "Gut."]
    assert kept[0][0] == 1 + bool(header)
    assert rejected == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_an_encoding_that_says_what_it_is_is_read(read: Any, encoding: str, name: str) -> None:
    """Excel's "Unicode text" and PowerShell's `>` write UTF-16."""
    texts = ["ƙofar gida", "你好"]
    rows = [f"{n}.wav,{text}" for n, text in zip("ab", texts, strict=True)]
    if name == "t.jsonl":
        rows = [f'{{"audio": "{n}.wav", "text": "{text}"}}' for n, text in zip("ab", texts, strict=True)]
    contents = "\r\n".join(["audio,text"] * (name == "t.csv") + rows).encode(encoding)
    kept, rejected = read(contents, name)
    assert [text for _, _, text in kept] == texts
    assert rejected == {}


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("audio,text\na.wav,one\n".encode("utf-16-le"), "UTF-16 without its mark; save it as UTF-8"),
        ("lyd;språk;text\na.wav;b;c\n".encode("latin-1"), "not UTF-8; save it as UTF-8"),
        ("a.wav,blå\nb.wav,rød\n".encode("latin-1"), "save it as UTF-8"),
        (b"audio,text,text\na.wav,one,two\n", "row 1: two columns are called text; rename one"),
        (b"\n  \n", "the file is empty"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused_with_the_fix(read: Any, contents: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        read(contents)
    assert "\n" not in str(caught.value)


def test_a_utf_16_file_that_breaks_off_in_the_middle_loses_its_last_row_only(read: Any) -> None:
    kept, rejected = read("audio,text\na.wav,one\nb.wav,two".encode("utf-16")[:-1])
    assert kept == [(2, "a", "one")]
    assert list(rejected) == [3]


def test_every_line_of_a_large_file_is_accounted_for(tmp_path: Path, fetched: Any) -> None:
    """More rows than are looked at; every hundredth is broken in its own way."""
    write_audio(tmp_path / "a.wav", 0.1)
    breaks = ['{n}.wav,"open {n}', "{n}.wav", "{n}.wav,x{n},y", '{n}.wav,"x{n}" y', ""]
    lines = ["audio,text"]
    for n in range(3000):
        (tmp_path / f"{n}.wav").hardlink_to(tmp_path / "a.wav")
        lines.append(breaks[n // 100 % 5].format(n=n) if n % 100 == 0 else f"{n}.wav,sentence {n} here")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    got = fetched(TRAIN_JSONL=tmp_path / "t.csv")
    assert len(got["train"]) + len(got["rejected"]) == 3000 - 6
    assert all(row["text"] == f"sentence {row['row'] - 2} here" for row in got["train"])


def test_json_lines_end_like_other_lines(read: Any, tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "one"}, {"audio": "b.wav", "text": "two"}]
    contents = write_lines(tmp_path / "x.jsonl", rows).read_bytes()
    for end in (b"\r", b"\r\n"):
        assert [row[2] for row in read(contents.replace(b"\n", end), "t.jsonl")[0]] == ["one", "two"]
