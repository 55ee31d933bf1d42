"""Rows in which a recogniser hears other words than their text are left out: the rules, and the stage itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job import prepare
from job.core import files
from job.core.errors import BadInput
from job.demo.text import WORDS
from job.normalize.normalizer import Normalizer
from job.prepare import heard_words, shards, whose_words, wrong_words
from job.prepare.thresholds import OTHERS_WORDS
from job.prepare.work import Work
from job.prepare.wrong_words import Heard, Words
from job.text.letter_errors import errors, forms
from tests.prepare.conftest import Make
from tests.support import whisper
from tests.support.whisper import TEXTS, wave

LONG = [word for word in WORDS if len(word) > 3]
SENTENCES = [" ".join(np.random.default_rng(n).choice(LONG, 6)).capitalize() + "." for n in range(60)]


def _spell(text: str, language: str) -> str:
    return Normalizer("auto").read(text, language).text


def is_wrong(text: str, transcript: str, language: str) -> bool:
    """Whether one row among others with right words is left out."""
    texts = [f"{word} {text}" for word in ("A", "B")]
    return bool(judged([text, *texts], [transcript, *texts], language.lower()).rows.details)


@pytest.mark.parametrize(
    ("language", "text", "transcript"),
    [
        ("English", "It's 25 % more, isn't it?", "it is twenty-five percent more isn't it"),
        ("English", "In 1987 she paid $100.", "In nineteen eighty-seven, she paid one hundred dollars."),
        ("German", "Er zahlte 100 Euro für 3,5 kg.", "Er zahlte hundert Euro für dreieinhalb Kilogramm."),
        ("German", "Um dreiundzwanzig Uhr.", "um 23 uhr"),
        ("French", "Voilà l’été.", "voila l'ete"),
        ("Norwegian", "Hun kom kl. 12.", "hun kom klokken tolv"),
        ("Hausa", "Ya sayi littattafai 12.", "ya sayi littattafai goma sha biyu"),  # no rules for its numbers
        ("Arabic", "مَرْحَبًا بِكُمْ", "مرحبا بكم"),
        ("Arabic", "عندي ٣ كتب", "عندي 3 كتب"),
        ("Chinese", "今天，天气很好。", "今天天气很好"),
        ("Hindi", "नमस्ते, आप कैसे हैं?", "नमस्ते आप कैसे हैं"),
        ("Russian", "Ещё — нет!", "еще нет"),
        ("Japanese", "１２人います。", "12人います"),
    ],
)
def test_the_same_words_written_otherwise_are_not_wrong(language: str, text: str, transcript: str) -> None:
    assert not is_wrong(text, transcript, language)


@pytest.mark.parametrize(
    ("language", "text", "transcript"),
    [
        ("English", "The tea is hot and it is late.", "We walked along the river."),
        ("English", "The tea is hot.", "The tea is hot. Good evening, everyone, and thank you."),
        ("English", "She was born in 1987 and lives by the sea now.", "Nobody told him about the bridge up there."),
        ("German", "Wo hast du den blauen Schirm gelassen?", "Morgen wird es regnen."),
        ("Arabic", "أين تركت المظلة الزرقاء", "سوف تمطر السماء غدا"),
        ("Chinese", "今天天气很好我们去公园", "他昨天买了一本新书"),
        ("Russian", "Где мои ключи от дома?", "Паром зимой не ходит."),
    ],
)
def test_other_words_are_wrong_in_any_script(language: str, text: str, transcript: str) -> None:
    assert is_wrong(text, transcript, language)


def judged(texts: list[str], transcripts: list[str | None], language: str = "english") -> wrong_words.WrongWords:
    """Compare rows of one source, numbered from 1; of those with None nothing was heard."""
    heard = {("train", n): Heard(said, "en", True) for n, said in enumerate(transcripts) if said is not None}
    words = Words(heard)
    count = len(texts)
    columns = {"position": range(count), "number": range(1, count + 1), "source": ["a.csv"] * count, "text": texts}
    table = pa.table({**columns, "language": [language] * count, "reason": pa.nulls(count, pa.string())})
    words.add("train", table)
    return words.compare()


def test_swapped_texts_are_named_and_a_short_word_misheard_is_not_wrong() -> None:
    texts = [*SENTENCES[:6], "No.", "Yes."]
    said = [texts[0], texts[2], texts[1], texts[3], "The boat sank.", texts[5], "Know?", "Yeah."]
    found = judged(texts, list(said))
    assert found.rows.position.tolist() == [1, 2, 4] and not found.problems and not found.notes
    assert "its audio says the text of row 3 (" in found.rows.details[0]
    assert "its audio says the text of row 2 (" in found.rows.details[1]
    assert "over the limit of 40%: heard 'The boat sank.'; give the row the words" in found.rows.details[2]


def test_a_shift_is_one_line_with_the_fix_and_every_row_of_it_is_named() -> None:
    texts = SENTENCES[:30]
    found = judged(texts, [*texts[:10], *texts[11:], "The end of it all."])
    assert found.problems == [
        "from row 12 on each text is about the recording one row before it (a.csv): texts and recordings are shifted "
        "against each other; look for what is missing or there twice just before row 12, and pair the rows anew"
    ]
    assert found.rows.position.tolist() == list(range(10, 30))
    assert all(f"the text of row {row + 2} (" in one for row, one in enumerate(found.rows.details[:-1], start=10))


def test_rows_that_say_anothers_text_prove_that_the_recogniser_hears_well() -> None:
    """Else the last row of a shift, whose words are in no other row, has a line that the recogniser knows nothing."""
    found = judged(SENTENCES[:7], [*SENTENCES[1:7], "Something else altogether was said here."])
    assert not found.notes and found.rows.position.tolist() == list(range(7))


def test_a_recogniser_that_does_not_know_the_language_rejects_nothing_and_one_line_says_so() -> None:
    rng = np.random.default_rng(0)
    babble = ["".join(rng.choice(list("aeioubdgklm"), len(text))) for text in SENTENCES]
    found = judged(SENTENCES, babble, "hausa")
    assert not len(found.rows.details) and not found.problems
    (note,) = found.notes
    assert "does not hear hausa well enough to judge its 60 rows (median character error rate" in note
    assert judged(SENTENCES[:1], ["Something else altogether."]).notes, "one row proves nothing"


def test_a_recogniser_that_hears_badly_gets_a_higher_limit() -> None:
    rng = np.random.default_rng(0)
    good = np.clip(rng.normal(0.25, 0.06, 400), 0, 1)
    limit = wrong_words.limit_of(np.concatenate([good, rng.uniform(0.7, 0.95, 60)]))
    assert good.max() < limit < 0.7
    assert wrong_words.limit_of(np.array([0.0, 0.01, 0.8])) == pytest.approx(0.4)
    assert wrong_words.limit_of(np.array([0.02] * 70 + [0.8] * 30)) == pytest.approx(0.4)


def test_what_cannot_be_judged_is_left_alone() -> None:
    """A transcript in which the recogniser lost its place, a row that was not heard, a text of digits alone."""
    texts = [*SENTENCES[:5], "12 34"]
    assert not len(judged(texts, [None, *SENTENCES[1:5], "twelve thirty-four"]).rows.details)
    words = Words({("train", 0): Heard("la la la la", "en", False)})
    words.add("train", pa.table({"position": [0], "number": [1], "source": ["a"], "text": ["Not that."],
                                 "language": ["english"], "reason": pa.nulls(1, pa.string())}))  # fmt: skip
    assert not len(words.compare().rows.details) and words.heard(("train", 0)) == "la la la la"


@settings(max_examples=10)
@given(
    by=st.sampled_from([-3, -2, -1, 1, 2, 3, 15]),
    first=st.integers(0, 15),
    misheard=st.floats(0, 0.12),
    seed=st.integers(0, 99),
)
def test_any_shift_is_found_whatever_is_misheard_and_no_row_is_named_that_does_not_fit(
    by: int, first: int, misheard: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    texts = [forms(SENTENCES[n], "English", _spell)[0] for n in rng.permutation(len(SENTENCES))[:40]]
    numbers = list(range(3, 3 + len(texts)))
    of = [n + by if n >= first and 0 <= n + by < len(texts) else n for n in range(len(texts))]
    heard = ["".join("x" if rng.random() < misheard else c for c in texts[n]) for n in of]

    def wrong(text: str, transcript: str) -> float:
        return errors([text], [transcript])[0] / len(text)

    own = [wrong(text, said) for text, said in zip(texts, heard, strict=True)]
    suspects = [(n, share) for n, share in enumerate(own) if share > 0.4]
    found = whose_words.owners(numbers, texts, heard, suspects, wrong)
    moved = {n: by for n in range(len(texts)) if of[n] != n}
    is_near = abs(by) <= whose_words.NEAR
    for n, step in found.items():  # a row far away, if misheard, may say what is nearly the text of one nearby
        assert moved.get(n) == step or (not is_near and wrong(texts[n + step], heard[n]) <= OTHERS_WORDS)
    if misheard == 0 or is_near:
        assert len(found) >= 0.9 * len(moved)
        shifted = whose_words.shift(numbers, found)
        assert shifted is not None and shifted[0].by == -by and shifted[1] >= 0.9 * len(found)


@pytest.fixture
def rows(wav: Callable[..., str]) -> list[dict[str, Any]]:
    """Three good rows, two with each other's texts, and one with other words."""
    said = [*TEXTS, TEXTS[1], TEXTS[2], TEXTS[0]]
    texts = [*TEXTS, TEXTS[2], TEXTS[1], "We sail at dawn."]
    levels = (1.0, 1.0, 1.0, 0.8, 0.7, 0.6)
    paths = [
        wav(f"{n}", level * wave(one), whisper.RATE) for n, (one, level) in enumerate(zip(said, levels, strict=True))
    ]
    return [{"audio": path, "text": text, "language": "English"} for path, text in zip(paths, texts, strict=True)]


@pytest.fixture
def checked(make: Make, tiny_whisper: Path) -> Callable[..., Any]:
    """Settings with the tiny recogniser."""
    return lambda rows, **more: make(rows, **{"asr_model": str(tiny_whisper), "quality_gate": "warn", **more})


def test_rows_with_wrong_words_are_left_out_and_nothing_is_heard_twice(
    rows: list[dict[str, Any]], checked: Any, tiny_whisper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = checked(rows)
    prepare.run(run)
    found = {row["row"]: (row["reason"], row["detail"]) for row in files.read_jsonl(run.paths.rejected)}
    assert {number: reason for number, (reason, _) in found.items()} == dict.fromkeys((4, 5, 6), "wrong_words")
    assert "heard 'The tea is hot.'; its audio says the text of row 5 ('The tea is hot.')" in found[4][1]
    assert "its audio says the text of row 4 (" in found[5][1]
    assert "over the limit of 40%: heard 'Hello.'; give the row" in found[6][1]
    assert "heard: Hello." in run.paths.quality_page.read_text(encoding="utf-8")
    (log,) = run.paths.heard_words.iterdir()
    lines = log.read_bytes().splitlines(keepends=True)
    out = capsys.readouterr().out
    assert len(lines) == 6 and "to check their texts" in out and "the texts of 6 rows are compared" in out

    log.write_bytes(b"".join(lines[:4]) + lines[4][:30])  # killed while it wrote the fifth
    again = checked([*rows, {**rows[2], "text": "A row more."}])
    prepare.run(again)
    assert sorted(log.read_bytes().splitlines(keepends=True)) == sorted(lines), "the new row's recording was known"
    assert "the texts of 7 rows are compared" in capsys.readouterr().out
    transcribed = [{**row, "transcribed_by": str(tiny_whisper)} for row in rows]
    prepare.run(checked(transcribed, work="other"))
    assert not (run.paths.work.parent / "other" / "data" / "heard_words").exists(), "it wrote these texts itself"


def test_processes_share_the_rows_and_the_first_one_hears_none_again(
    rows: list[dict[str, Any]], checked: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shards, "LINES", 3)
    work = Work(checked(rows))
    work.encode(("train",))
    shares = [heard_words.hear(work, rank, 2) for rank in range(2)]
    assert [sorted(position for _, position in one) for one in shares] == [[0, 1, 2], [3, 4, 5]]
    capsys.readouterr()
    assert heard_words.hear(work) == shares[0] | shares[1]
    assert "transcribed by" not in capsys.readouterr().out


def test_when_texts_are_compared_is_said_and_decided(
    rows: list[dict[str, Any]], checked: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    kept = checked(rows, quality_gate="off")
    assert prepare.run(kept)["warnings"]["wrong_words"] == 3
    monkeypatch.setattr(heard_words, "MOST_HOURS", 0.0001)
    prepare.run(checked(rows, work="long"))
    assert "CHECK_WORDS=always does it nevertheless" in capsys.readouterr().out
    heard_words.check(checked(rows, work="never", check_words="never", asr_model=str(tmp_path / "none")))
    with pytest.raises(BadInput, match=r"cannot be loaded to compare texts with recordings .*CHECK_WORDS=never"):
        prepare.run(checked(rows, work="always", check_words="always", asr_model=str(tmp_path / "none")))


def test_a_language_that_the_recogniser_lacks_is_named_and_its_rows_are_kept(
    rows: list[dict[str, Any]], checked: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    known = heard_words.whisper_code
    monkeypatch.setattr(heard_words, "whisper_code", lambda language, _, where: known(language, None, where))
    prepare.run(checked([*rows[:3], {**rows[5], "language": "Igbo"}]))
    assert (
        "ASR_MODEL does not know igbo, so the texts of its rows are not compared with what is said"
        in capsys.readouterr().err
    )


def test_a_recogniser_of_english_alone_ends_no_run_with_rows_in_another_language(
    rows: list[dict[str, Any]], checked: Any, tmp_path: Path, tiny_whisper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    english = tmp_path / "english"
    shutil.copytree(tiny_whisper, english)
    config = files.read_json(english / "generation_config.json")
    kept = {name: value for name, value in config.items() if name not in ("lang_to_id", "task_to_id")}
    files.write_json(english / "generation_config.json", {**kept, "is_multilingual": False})
    prepare.run(checked([*rows[:3], {**rows[5], "language": "German"}], asr_model=str(english)))
    printed = capsys.readouterr()
    assert "knows English only, and LANGUAGE or a row says de; their texts are not compared" in printed.err
    assert "the texts of 3 rows are compared" in printed.out
