"""Selection of test utterances: texts, speakers, languages and text layouts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.names import AUTO, NEW
from job.config.settings import Settings
from job.core.errors import BadInput
from job.model.loading import ModelConfig
from job.normalize import Normalizer
from job.text.languages import Languages, UnclearLanguage, iso_code

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

#: Total number of files when TEST_TEXTS is not set, and texts from the data per speaker where none come with the job.
DEFAULT_FILES = 8
DEFAULT_TEXTS = 4
#: Of a speaker's texts, one in this many is from the data where others come with the job.
FROM_DATA = 4
#: Texts that come with the job: one file a language, by its ISO code, with one text a line.
SHIPPED = Path(__file__).parent / "texts"
#: Where a text comes from: from the data it was trained on, from those held out, or from neither.
ORIGINS = ("train", "validation", "test")
#: Layouts that each TEXT_LAYOUT trains, and so the ones to generate with.
LAYOUTS = {
    "non_streaming": ("non_streaming",),
    "streaming": ("streaming",),
    "mixed": ("non_streaming", "streaming"),
}
#: Frames per character if unknown from the data: 12.5 frames per second, and slow speech of about 6 characters per
#: second.
FRAMES_PER_CHARACTER = 2.0


@dataclass(frozen=True)
class Utterance:
    """One file to generate.

    Attributes:
        text: the text to say.
        speaker: a name of the checkpoint's `spk_id`.
        language: a name of its `codec_language_id`, or `Auto`.
        layout: `non_streaming` or `streaming`.
        instruct: style instruction, or None.
    """

    text: str
    speaker: str
    language: str = "Auto"
    layout: str = "non_streaming"
    instruct: str | None = None


def speakers_of(config: ModelConfig, directory: Path) -> list[str]:
    """List the checkpoint's speakers, in the order of their rows.

    Raises:
        BadInput: it is not a custom-voice checkpoint, or has no speaker.
    """
    rows: dict[str, int] = dict(config.talker.get("spk_id") or {})
    if config.kind != "custom_voice" or not rows:
        raise BadInput(f"{directory}: a {config.kind} checkpoint with no speaker of its own; run `python -m job train`")
    return sorted(rows, key=lambda name: rows[name])


def spoken_language(config: ModelConfig, language: str | None) -> str:
    """Return `language` if the checkpoint has a row for it, else `Auto`: the same choice as in training."""
    if not language or language.lower() in config.languages:
        return language.lower() if language else "Auto"
    try:
        meant = Languages(config.languages).find(language.strip().removeprefix(NEW))
    except UnclearLanguage:
        return "Auto"
    return meant.key if meant.known and meant.key != AUTO else "Auto"


def texts_file(value: str) -> Path | None:
    """Return the file that TEST_TEXTS names; None if it contains the texts themselves."""
    try:
        path = Path(value).expanduser()
        return path if path.is_file() else None
    except PermissionError:
        raise
    except (OSError, RuntimeError, ValueError):
        return None  # too long for a file name, or a `~` that is no user's home: it is text


def parse_texts(value: str) -> list[str]:
    """Parse TEST_TEXTS: the lines of the file of that name, or else its `|`-separated parts; skips blank ones.

    Raises:
        BadInput: nothing is left, a text has no words, or the file cannot be read.
    """
    path = texts_file(value)
    if path is None and "|" not in value and _is_folder(value):
        raise BadInput(f"TEST_TEXTS={value}: a folder; name a text file in it, with one text a line")
    if path is None and _looks_like_a_file(value):
        raise BadInput(f"TEST_TEXTS={value}: no such file")
    try:
        parts = path.read_text(encoding="utf-8-sig").splitlines() if path else value.split("|")
    except UnicodeDecodeError as error:
        raise BadInput(f"TEST_TEXTS={value}: not UTF-8; save it as UTF-8, one text a line") from error
    except OSError as error:
        raise BadInput(f"TEST_TEXTS={value}: {error.strerror}") from error
    texts = [part.strip() for part in parts if part.strip()]
    if not texts:
        raise BadInput(f"TEST_TEXTS={value}: no text in it; give texts separated by | or a file with one a line")
    wordless = [number for number, text in enumerate(texts, 1) if not any(map(str.isalnum, text))]
    if wordless:
        raise BadInput(f"TEST_TEXTS: text {wordless[0]} ({texts[wordless[0] - 1]}) has no words; leave it out")
    return texts


def shipped(language: str) -> list[str]:
    """Return the texts that come with the job in a language: short and long, a question, numbers, names, prose."""
    code = iso_code(language)
    path = SHIPPED / f"{'nb' if code == 'no' else code}.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def origins(texts: Sequence[str], validation: pa.Table | None, train: pa.Table | None) -> list[str]:
    """Return for each text where it comes from: one of `ORIGINS`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    where = dict.fromkeys(texts, ORIGINS[2])
    for name, split in ((ORIGINS[1], validation), (ORIGINS[0], train)):  # one that is in both was trained on
        if split is not None and len(split):
            among = pc.is_in(pa.array(where, split["text"].type), value_set=split["text"]).to_pylist()
            where |= {text: name for text, found in zip(where, among, strict=True) if found}
    return [where[text] for text in texts]


def plan(
    settings: Settings,
    config: ModelConfig,
    speakers: Sequence[str],
    splits: Sequence[Sequence[Row]],
    *,
    only_data: bool = False,
) -> list[Utterance]:
    """Plan all files to generate, in order.

    TEST_TEXTS are said by every speaker. Otherwise each speaker says texts that come with the job in the language of
    its rows, and some from the data, its own if it has any: `DEFAULT_FILES` files in total. Where none come with the
    job, it says up to `DEFAULT_TEXTS` from the data. With TEXT_LAYOUT=mixed every text is said in both layouts.

    Args:
        settings: TEST_TEXTS, TEXT_LAYOUT, LANGUAGE.
        config: the checkpoint's config.
        speakers: the speakers to use.
        splits: rows (text, speaker, language, instruct) of the prepared splits, the preferred one first.
        only_data: leave out the texts that come with the job.

    Raises:
        BadInput: there is nothing to say.
    """
    layouts = LAYOUTS[settings.text_layout]
    languages = languages_by_speaker([row for rows in splits for row in rows])
    if settings.test_texts:
        texts = parse_texts(settings.test_texts)
        said = [
            utterance(settings, config, text, speaker, languages.get(speaker, settings.language))
            for speaker in speakers
            for text in texts
        ]
    else:
        # the demo's tiny model recites what it has learned by heart, and can say nothing else
        only_data = only_data or settings.init_model_path == "demo"
        limit = DEFAULT_FILES // len(layouts)
        said = []
        for speaker in speakers[:limit]:
            language = languages.get(speaker, settings.language)
            fresh = [utterance(settings, config, text, speaker, language) for text in shipped(language)]
            said += _default(config, speaker, splits, [] if only_data else fresh, max(1, limit // len(speakers)))
    if not said:
        raise BadInput("TEST_TEXTS is not set and there are no prepared texts to say; set it to texts separated by |")
    return [replace(one, layout=layout) for one in said for layout in layouts]


def utterance(settings: Settings, config: ModelConfig, text: str, speaker: str, language: str) -> Utterance:
    """Create an utterance from a user's text, normalised as the data's texts were (TEXT_NORMALIZER)."""
    said = Normalizer(settings.text_normalizer).read(text, language)
    return Utterance(said.text, speaker, spoken_language(config, language))


def languages_by_speaker(rows: Sequence[Row]) -> dict[str, str]:
    """Map each speaker to the language of most of its rows: the one it was trained with."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row["speaker"]][row["language"]] += 1
    return {speaker: count.most_common(1)[0][0] for speaker, count in counts.items()}


def spread(count: int, wanted: int) -> list[int]:
    """Return up to `wanted` distinct indices below `count`, evenly spaced from first to last."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def frames_per_character(summary: Mapping[str, Any]) -> float:
    """Return the frames per character of the prepared data, from its summary; a default where that is unknown."""
    return float(summary.get("frames_per_character") or FRAMES_PER_CHARACTER)


def budget(settings: Settings, text: str, frames_per_character: float) -> int:
    """Return the frame limit for a text: MAX_NEW_TOKENS, or three times what the text needs plus two seconds.

    Without a limit near the text's own length, one voice that never stops would hold up the whole run.
    """
    if settings.max_new_tokens is not None:
        return settings.max_new_tokens
    return max(50, round(3 * len(text) * frames_per_character) + 25)


def _default(
    config: ModelConfig, speaker: str, splits: Sequence[Sequence[Row]], fresh: Sequence[Utterance], wanted: int
) -> list[Utterance]:
    """Choose a speaker's texts where TEST_TEXTS is not set; `fresh` are those that come with the job."""
    if not fresh:
        return _own_texts(config, speaker, splits, min(DEFAULT_TEXTS, wanted))
    from_data = wanted // FROM_DATA
    chosen = [fresh[position] for position in spread(len(fresh), wanted - from_data)]
    return chosen + _own_texts(config, speaker, splits, from_data)


def _own_texts(config: ModelConfig, speaker: str, splits: Sequence[Sequence[Row]], wanted: int) -> list[Utterance]:
    """Choose texts from the data, the speaker's own if it has any, spread over their lengths."""
    own = ([row for row in rows if row["speaker"] == speaker] for rows in splits)
    rows = next((some for some in (*own, *splits) if some), [])
    texts = sorted({row["text"]: row for row in rows}.values(), key=lambda row: (len(row["text"]), row["text"]))
    chosen = [texts[position] for position in spread(len(texts), wanted)]
    return [
        Utterance(row["text"], speaker, spoken_language(config, row["language"]), instruct=row.get("instruct") or None)
        for row in chosen
    ]


def _is_folder(value: str) -> bool:
    try:
        return Path(value).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):
        return False


def _looks_like_a_file(value: str) -> bool:
    """Return whether a value that names no file was meant to be one: a misspelled path must not be read aloud."""
    listed = re.search(r"\.(txt|text|md|csv|tsv|jsonl?|xlsx?|docx?|lst|srt|vtt)$", value, re.IGNORECASE)
    return "|" not in value and (listed is not None or value.startswith(("/", "./", "../", "~/")))
