"""The parts of alignment: sentences of a text, its spelling, and where they are in what a model heard."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.fetch.alignment import cuts, matching, placing
from job.fetch.alignment.cuts import Said
from job.fetch.alignment.placing import Place
from job.fetch.alignment.spelling import WILDCARD, Spelling
from job.text import sentences

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPELLING = Spelling(
    {"<pad>": 0, "</s>": 1, "<unk>": 2, "|": 3, **{c: n for n, c in enumerate(LETTERS, 4)}}, "<pad>", "|"
)


def _split(text: str) -> list[str]:
    return [text[first:last] for first, last in sentences.split(text)]


@settings(max_examples=40)
@given(st.text(st.sampled_from("aB. !?\n\"'”。1-é\t\r"), max_size=80) | st.text(max_size=60))
def test_between_sentences_there_is_only_white_space(text: str) -> None:
    found = sentences.split(text)
    outside = [text[a:b] for a, b in pairwise([0, *(at for span in found for at in span), len(text)])][::2]
    assert not "".join(outside).strip()
    assert all(a < b and text[a:b] == text[a:b].strip() for a, b in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("“Is it?” he asked. “It is.” She left.", ["“Is it?” he asked.", "“It is.”", "She left."]),
        ("Mr. J. S. Bach, e.g. this, z. B. das.", ["Mr.", "J. S. Bach, e.g. this, z. B. das."]),
        ("Chapter One\n\nIt was\nlate.", ["Chapter One", "It was\nlate."]),
        ("Title\nA line wrapped by a\nprogram. So.", ["Title", "A line wrapped by a\nprogram.", "So."]),
        ("一。二！三", ["一。", "二！", "三"]),
        ("At 3.14 it ends…", ["At 3.14 it ends…"]),
        (" \n \n", []),
    ],
)  # fmt: skip
def test_a_text_is_split_where_its_sentences_end(text: str, wanted: list[str]) -> None:
    assert _split(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It’s 5 o'clock!", "its|*|oclock"),
        ("Ærlig, på øya – Straße", "aerlig|pa|oya|strasse"),
        ("Щука и ёж", "shchuka|i|ezh"),
        ("Ψυχή", "psychi"),
        ("한국 かな", "hangug|kana"),
        ("漢字", "*"),
        ("«»…", ""),
    ],
)
def test_what_the_model_has_no_letter_for_is_romanised_or_a_wildcard(text: str, wanted: str) -> None:
    names = {**SPELLING.characters, WILDCARD: "*"}
    assert "|".join("".join(names[token] for token in word) for word in SPELLING.words(text)) == wanted


def test_a_model_that_writes_its_own_script_is_given_it() -> None:
    own = Spelling({"[PAD]": 0, "|": 1, **{c: n for n, c in enumerate("АБВГДабв'", 2)}}, "[PAD]", "|")
    assert own.words("аг") == [[7, 5]], "as it is, or in capitals"


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30))
def test_what_matches_is_the_same_and_in_order(text: list[int], heard: list[int]) -> None:
    found = matching.match(text, heard)
    pairs = [(n, at) for n, at in enumerate(found.at.tolist()) if at >= 0]
    assert all(text[n] == heard[at] for n, at in pairs)
    assert all(a[1] < b[1] for a, b in pairwise(pairs))
    assert (found.missing[[n for n, _ in pairs]] == 0).all() and (found.extra[[at for _, at in pairs]] == 0).all()


STRETCHES = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.1, 3.0)), min_size=1, max_size=15)


@settings(max_examples=40)
@given(STRETCHES, st.data())
def test_every_sentence_is_in_one_clip_which_begins_and_ends_in_pauses(
    steps: list[tuple[float, float]], data: st.DataObject
) -> None:
    stretches, at = [], 0.0
    for pause, told in steps:
        stretches.append((at + pause, at + pause + told))
        at += pause + told
    edges = sorted(data.draw(st.lists(st.floats(0, at), min_size=2, max_size=20, unique=True)))
    said = [Said(n, a, b) for n, (a, b) in enumerate(zip(edges[::2], edges[1::2], strict=False))]
    pauses = cuts.pauses(iter(stretches), 0.0, at)
    found = list(cuts.cut(said, pauses, 20.0, 30.0))
    assert [one for clip in found for one in clip.sentences] == said
    good = [clip for clip in found if clip.fault is None]
    assert all(a.end <= b.start + 1e-3 for a, b in pairwise(good))
    for clip in good:
        for edge in (clip.start, clip.end):
            assert any(a - 1e-3 <= edge <= b + 1e-3 for a, b in pauses)


def _chapter(seed: int, count: int = 120) -> tuple[list[list[list[int]]], np.ndarray, list[tuple[int, int] | None]]:
    """Made-up sentences, and what a model that errs in a fifth of the letters hears of a reading of them.

    Every ninth is not read, and after every seventh something else is said. Returns where each is (frames).
    """
    rng = np.random.default_rng(seed)
    words = [rng.integers(4, 30, rng.integers(2, 9)).tolist() for _ in range(400)]
    text = [[words[n] for n in rng.integers(0, 400, rng.integers(1, 14))] for _ in range(count)]
    frames: list[int] = [0] * 20
    places: list[tuple[int, int] | None] = []

    def read(sentence: list[list[int]]) -> tuple[int, int]:
        start = len(frames)
        for word in sentence:
            for token in word:
                error = rng.random()
                said = int(rng.integers(4, 30)) if error < 0.12 else token
                frames.extend([] if error > 0.96 else [said])
                frames.extend([int(rng.integers(4, 30)), 0] if 0.92 < error < 0.96 else [0] * rng.integers(1, 4))
            frames.append(3)
        return start, len(frames) - 1

    for number, sentence in enumerate(text):
        places.append(None if number % 9 == 4 else read(sentence))
        frames.extend([0] * rng.integers(10, 40))
        if number % 7 == 3:
            read([words[n] for n in rng.integers(0, 400, 30)])
            frames.extend([0] * 20)
    chances = rng.normal(0, 1, (len(frames), 30))
    chances[np.arange(len(frames)), frames] += 10
    return text, (chances - np.log(np.exp(chances).sum(1, keepdims=True))).astype(np.float16), places


def test_sentences_are_found_by_a_model_that_errs_and_what_is_not_said_is_not() -> None:
    text, emissions, places = _chapter(seed=0)
    heard = placing.listen(emissions, SPELLING)
    found = placing.place(emissions, heard, SPELLING, text)
    long = [sum(map(len, words)) >= placing.SHORT for words in text]
    here = [(one, at) for one, at, whole in zip(found, places, long, strict=True) if whole and at is not None]
    near = [
        one for one, at in here if isinstance(one, Place) and abs(one.first - at[0]) < 8 and abs(one.last - at[1]) < 8
    ]
    assert len(near) >= 0.95 * len(here) and sum(one.fault is None for one in near) >= 0.95 * len(here)
    unsaid = [one for one, at, whole in zip(found, places, long, strict=True) if whole and at is None]
    assert unsaid and not any(isinstance(one, Place) for one in unsaid)
    assert len(placing.without_text(heard, found)) >= len(text) // 7 - 1


def test_the_released_models_vocabulary_is_understood() -> None:
    """MMS has a token for blank beside the one for padding, no token between words, and letters by frequency."""
    letters = "aienoutsrmkldghybpwcvjzf'qx"
    names = ["<blank>", "<pad>", "</s>", "<unk>", *letters]
    mms = Spelling({name: token for token, name in enumerate(names)}, "<pad>", "|")
    assert (mms.blank, mms.delimiter) == (0, None)
    assert mms.words("Don’t – å!") == [[names.index(c) for c in "don't"], [names.index("a")]]
    with pytest.raises(ValueError, match="not one of letters"):
        Spelling({"<pad>": 0, "ab": 1, "c": 2}, "<pad>", None)
