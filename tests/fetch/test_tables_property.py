"""Whatever way a table is written: each of its rows arrives with its own words, or is refused or left out by number."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from job.config import settings as variables
from job.core.errors import BadInput
from job.fetch import sources
from job.fetch.audio_store import Store
from job.fetch.collect import Collector
from job.fetch.transcripts import clean
from tests.fetch.conftest import write_audio

EXAMPLES = int(os.environ.get("TABLE_EXAMPLES", "100"))
PHASES = [p for p in Phase if p.name not in os.environ.get("TABLE_PHASES_OFF", "explain")]

WORDS = [
    *["the", "old", "man", "came", "home", "and", "said", "nothing", "to", "his", "wife", "about", "it"],
    *["ƙasa", "ɗan", "blåbær", "græsset", "überall", "être", "мир", "слово"],
    *["don't", "'tis", "12", "3,5", "Dr.", "$5", "file", "text", "audio", "path", "No!", "why?", "http", "a.wav"],
]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
MARKS = ['"', ",", ";", "|", "\t", ", ", " | ", '"yes" ', " – ", "'"]
MARKED = st.builds(
    lambda words, mark, at: " ".join(words[: at % (len(words) + 1)]) + mark + " ".join(words[at % (len(words) + 1) :]),
    st.lists(st.sampled_from(WORDS), min_size=2, max_size=8),
    st.sampled_from(MARKS),
    st.integers(0, 8),
)
OTHER_SCRIPTS = st.sampled_from(
    [
        "你好，世界。今天很好",
        "日本語の文章です。",
        "สวัสดีครับ ชาวโลก",
        "مرحبا بالعالم، كيف الحال",
        "안녕하세요 여러분",
        "“Ja,” sa hun.",
    ]
)
MANY_LINES = st.builds("{}\n{}".format, SENTENCES, SENTENCES)
TEXTS = st.one_of(SENTENCES, SENTENCES, SENTENCES, MARKED, OTHER_SCRIPTS, MANY_LINES).filter(lambda t: bool(t.strip()))
SPEAKERS = ["Eva", "Adam Smith", "Åse", "7", "spk_01"]
NAMES = {"audio": ["audio", "file_name", "path", "Audio File"], "text": ["text", "sentence", "transcription"]}
CAN_BE_LATIN = "latin-1"


class Case:
    """A table as somebody wrote it, and what is truly said in each recording."""

    def __init__(self, draw: Any) -> None:
        count = draw(st.integers(1, 12))
        pool = draw(st.lists(TEXTS, min_size=count, max_size=count))
        self.texts = pool
        bare = draw(st.booleans())
        self.files = [f"{draw(st.sampled_from(['a b ', 'clip', 'Å']))}{n:03d}.wav" for n in range(count)]
        shown = [name.removesuffix(".wav") if bare else name for name in self.files]
        columns: list[tuple[str, list[str]]] = [
            (draw(st.sampled_from(NAMES["audio"])), shown),
            (draw(st.sampled_from(NAMES["text"])), pool),
        ]
        if draw(st.booleans()):
            columns.append(("speaker", [draw(st.sampled_from(SPEAKERS[:3])) for _ in shown]))
        if draw(st.booleans()):
            columns.append(("lang", [draw(st.sampled_from(["en", "ZH", "JA"])) for _ in shown]))
        if draw(st.booleans()):
            columns.append(("seconds", [f"{n}.{n}" for n in range(count)]))
        columns = draw(st.permutations(columns))
        self.separator = draw(st.sampled_from(",\t|;"))
        self.header = draw(st.booleans())
        self.quoting = draw(st.sampled_from(["minimal", "all", "none"]))
        self.encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", CAN_BE_LATIN]))
        self.end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
        self.blank = draw(st.sets(st.integers(0, count), max_size=3))
        rows = list(zip(*(cells for _, cells in columns), strict=True))
        self.written = self._write([name for name, _ in columns], rows)
        self.ending = draw(st.sampled_from([".csv", ".tsv", ".list", ".txt"]))

    def _write(self, names: list[str], rows: list[tuple[str, ...]]) -> bytes:
        lines = [self._line(names)] if self.header else []
        for number, row in enumerate(rows):
            if number in self.blank and lines:
                lines.append("")
            lines.append(self._line(row))
        text = self.end.join(lines) + self.end
        return text.encode(self.encoding, "replace" if self.encoding != CAN_BE_LATIN else "xmlcharrefreplace")

    def _line(self, cells: Any) -> str:
        if self.quoting == "none":
            return self.separator.join(cells).replace("\n", self.end)
        kind = csv.QUOTE_ALL if self.quoting == "all" else csv.QUOTE_MINIMAL
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=self.separator, quoting=kind, lineterminator="\n").writerow(cells)
        return buffer.getvalue()[:-1].replace("\n", self.end)


@pytest.fixture(scope="module")
def clip() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield write_audio(Path(folder) / "tiny.wav", 0.05)


def read_back(clip: Path, case: Case) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | BadInput:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in case.files:
            os.link(clip, root / name)
        (root / f"t{case.ending}").write_bytes(case.written)
        loaded = variables.load({"TRAIN_JSONL": str(root / f"t{case.ending}"), "WORK_DIR": str(root / "work")})
        collector = Collector(loaded, Store(root / "work" / "audio"))
        try:
            table = sources.pick(loaded).tables()["train"]
            return list(collector.rows("train", table)), collector.rejected
        except BadInput as error:
            return error


def words(text: str) -> list[str]:
    """What is said: quotes around a sentence and the kind of white space are not."""
    return text.replace('"', " ").split()


ACCEPTED: list[bool] = []


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    phases=PHASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_no_row_arrives_with_another_text_or_is_lost_without_a_word(clip: Path, data: st.DataObject) -> None:
    case = Case(data.draw)
    note(repr(case.written))
    got = read_back(clip, case)
    if isinstance(got, BadInput):
        assert "\n" not in str(got)
        ACCEPTED.append(False)
        return
    kept, rejected = got
    truth = dict(zip(case.files, case.texts, strict=True))
    note(repr((kept, rejected)))
    for row in kept:
        said = clean(truth[Path(row["audio"]).name]).text  # what Latin-1 lacks was written as &#…; and is read back
        assert words(row["text"]) == words(said)
    assert len({row["audio"] for row in kept}) == len(kept)
    assert len(kept) + len(rejected) >= len(truth), "rows are missing without a word"
    assert len({row["row"] for row in (*kept, *rejected)}) == len(kept) + len(rejected)
    ACCEPTED.append(len(kept) == len(truth))


@pytest.mark.slow  # as the test above, whose tables it counts
def test_most_of_these_tables_are_read_whole() -> None:
    """The test above would pass as well if everything were refused."""
    assert sum(ACCEPTED) > 0.3 * len(ACCEPTED)
