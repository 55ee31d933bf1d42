"""Clean transcripts made by other tools: remove markup and time stamps, or reject the row.

What can be removed without changing a word is removed and reported; a sign that the words, or some of them, are missing
rejects the row.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from job.fetch.table import RowError

#: Placeholders that spreadsheets and programs write for empty cells, as the whole text (case-insensitive).
PLACEHOLDERS = frozenset(
    {"nan", "-nan", "#n/a", "n/a", "<na>", "none", "null", "(null)", "[null]", "\\n", "undefined", "nil", "#value!"}
    | {"#ref!", "#name?", "#div/0!", "#null!", "#num!", "#error!", "[blank_audio]", "[no speech]", "[silence]", "todo"}
    | {"[empty]", "<empty>", "[]", "{}", "[none]", "ignore_time_segment_in_scoring", "...", "…", "-", "--", "?"}
)
#: Placeholders only in capitals: "na" is a word in many languages.
_PLACEHOLDERS_IN_CAPITALS = frozenset({"NA", "TBD"})

#: A mark for a word that the transcriber did not understand: the text is incomplete.
_NOT_UNDERSTOOD = re.compile(
    r"[\[<({]{1,2}\s*(?:(?:unk|unknown|spn|inaudible|unintelligible|unclear|indistinct|illegible|indecipherable|crosstalk"
    r"|cross talk|garbled|redacted|bleep(?:ed)?|censored|foreign language"
    r"|uverståelig|unverständlich|inintelligible|ininteligible|incompréhensible|inaudito|incomprensibile"
    r"|niezrozumiałe|неразборчиво|غير مسموع)(?:\s+(?:at )?[\d:.,\s]+s?)?|[?x_X*]{2,}|\?)\s*[\]>)}]{1,2}"
    r"|\[\s*_+\s*\]|(?<=\w )(?:\*{3,}|_{2,})(?![*_\w])",
    re.IGNORECASE,
)

#: Who speaks, as programs that tell people apart write it before the words.
_SPEAKER = re.compile(r"(?:^|(?<=\s))[\[(]?(speaker|spk)[ _-]?(\d{1,3})[\])]?\s*:\s*", re.IGNORECASE)
#: Silence in transcripts of Kaldi and aligners.
_SILENCE = re.compile(r"<(?:sil|eps|pau|sp)>", re.IGNORECASE)

#: A text that consists only of the name of a sound, as in subtitles.
_SOUND_ALONE = re.compile(
    r"[\[(*♪]+\s*(?:(?:background|soft|loud|upbeat|dramatic)\s+)?(?:music|musikk?|musique|música|musica|applause|laughter"
    r"|laughs|laughing|noise|cough(?:s|ing)?|sighs?|silence|breath(?:s|ing)?|sound|beep)\s*[\])*♪]+\.?",
    re.IGNORECASE,
)

_CLOCK = r"(?:\d{1,2}:)?\d{1,3}:\d{2}(?:[.,]\d{1,3})?"
_SECONDS = r"\d{1,6}[.,]\d{1,3}"
_ARROW = r"\s*(?:-{1,2}>|→|–|—|\s-\s)\s*"
#: `[00:00.000 --> 00:04.000]` (Whisper), `00:00:01,000 --> 00:00:04,000` (SRT, VTT), `[0.0 - 4.2]`, with an SRT number.
_RANGE = re.compile(
    rf"(?:^\s*\d{{1,5}}\s*\n)?[\[(<]?\s*(?P<start>{_CLOCK}|{_SECONDS}){_ARROW}(?P<end>{_CLOCK}|{_SECONDS})(?:\s*s\b)?(?:\s*[\])>])?"
    r"(?:\s+(?:align|position|line|size):\S+)*",
    re.MULTILINE,
)
#: `[00:12.34]` (LRC), `<00:00:01.000>` (VTT), `(0:04)`: one time in brackets.
_STAMP = re.compile(rf"(?:\[\s*{_CLOCK}\s*\]|<\s*{_CLOCK}\s*>|\(\s*{_CLOCK}\s*\))")
#: Special tokens of Whisper's tokenizer: `<|0.00|>`, `<|en|>`, `<|notimestamps|>`.
_WHISPER = re.compile(
    r"<\|(?:\d+(?:\.\d+)?|[a-z]{2,3}|transcribe|translate|notimestamps|nospeech|startof\w+|endoftext)\|>"
)
#: Any other special token of a language model: the tokenizer would not treat it as text.
_SPECIAL = re.compile(r"<\|[^|<>]{1,40}\|>|<tts_\w+>|\[(?:BOS|EOS|PAD|CLS|SEP|MASK)\]")

#: Tags of HTML, subtitles and SSML, with or without attributes.
_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|body|br|center|cite|code|dd|div|dl|dt|em|font|h[1-6]|head|hr|html|i|ins|img|li|mark|ol"
    r"|p|pre|q|rt|rp|ruby|s|small|span|strike|strong|sub|sup|table|tbody|td|th|title|tr|tt|u|ul|c|v|lang|speak|break|voice"
    r"|prosody|emphasis|say-as|phoneme|audio|mstts:[\w-]+)(?:[.\s][^<>]*)?\s*/?>",
    re.IGNORECASE,
)
_INSIDE_WORDS = frozenset({"b", "i", "u", "em", "strong", "small", "font", "span", "sub", "sup", "s", "c", "mark"})
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
#: Override codes of SSA and ASS subtitles: `{\an8}`, `{\i1}`.
_SUBTITLE_CODE = re.compile(r"\{\\[^{}]*\}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});", re.IGNORECASE)

#: Invisible characters. Arabic number signs and the like are visible, so they are not included.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
#: Zero-width joiner and non-joiner, except after emoji and scripts that spell with them (Arabic, Syriac … Sinhala,
#: Thai … Khmer, Mongolian).
_JOINER = re.compile(
    "(?<![\u0600-\u08ff\u0900-\u0dff\u0e00-\u109f\u1780-\u17ff\u1800-\u18af\ufb50-\ufdff\ufe70-\ufefc\u2600-\U0001faff])[\u200c\u200d]"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]+")
_SPACES = re.compile(r"\s+")

#: Latest start, in seconds, of the first time stamp in a text that belongs to the whole recording.
_STARTS_WITHIN = 1.0

REPLACED = "\ufffd"


@dataclass(frozen=True)
class Cleaned:
    """A cleaned transcript, and short phrases for what was removed from it, in the order of `clean`."""

    text: str
    mended: tuple[str, ...] = ()


@dataclass
class Mended:
    """Counts of what was removed from a split's transcripts: phrase -> number of rows, and the first row's texts."""

    rows: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[int, str, str]] = field(default_factory=dict)

    def add(self, number: int, before: str, cleaned: Cleaned) -> None:
        """Count a row's transcript. `number` is its row in the source."""
        for what in cleaned.mended:
            self.rows[what] = self.rows.get(what, 0) + 1
            self.first.setdefault(what, (number, before, cleaned.text))

    def lines(self) -> Iterator[str]:
        """Yield one log line per phrase, with the first row's text before and after."""
        for what, rows in self.rows.items():
            number, before, after = self.first[what]
            count = "1 text" if rows == 1 else f"{rows} texts"
            yield f"{what} taken out of {count}, first row {number}: {before[:60]!r} became {after[:60]!r}"


def clean(text: str) -> Cleaned:
    """Clean a transcript: remove what other tools write around the words.

    Raises:
        RowError: it is empty, a placeholder, without letters and digits, incomplete, the text of a later part of the
            recording, or it contains special tokens, or replacement characters for letters lost in a conversion.
    """
    mended: list[str] = []

    def note(what: str, before: str, after: str) -> str:
        if before != after:
            mended.append(what)
        return after

    text = note("letters read in the wrong encoding", text, _decoded_once_more(text))
    _refuse_lost_letters(text)
    plain = _INVISIBLE.sub("", text)
    plain = note("invisible characters", text, _JOINER.sub("", plain))
    plain = note("control characters", plain, _CONTROL.sub(" ", plain))
    _refuse_placeholder(plain)
    plain = note("Whisper's tokens", plain, _WHISPER.sub(" ", plain))
    plain = note("time stamps", plain, _without_times(plain))
    plain = note("names of speakers", plain, _without_speaker(plain))
    plain = note("marks of silence", plain, _SILENCE.sub(" ", plain))
    plain = note("HTML entities", plain, _unescaped(plain))
    plain = note("tags", plain, _SUBTITLE_CODE.sub(" ", _TAG.sub(_gap, _COMMENT.sub(" ", plain))))
    plain = _SPACES.sub(" ", _INVISIBLE.sub("", plain)).strip()
    _refuse_placeholder(plain)
    if (found := _NOT_UNDERSTOOD.search(plain)) is not None:
        raise RowError("text is incomplete", f"{found[0]} stands for words that are said; write them, or drop the row")
    if (found := _SPECIAL.search(plain)) is not None:
        raise RowError("text holds a special token", f"{found[0]} would not be read as text; take it out")
    _refuse_signs_alone(plain)
    return Cleaned(plain if mended else text.strip(), tuple(dict.fromkeys(mended)))


def _without_speaker(text: str) -> str:
    """Remove a numbered speaker before the words.

    Raises:
        RowError: there are two.
    """
    if len({found[2] for found in _SPEAKER.finditer(text)}) > 1:
        raise RowError("two people in a text", f"{text[:60]!r}; give each their own row, with its start and end")
    return _SPEAKER.sub(" ", text)


def _gap(tag: re.Match[str]) -> str:
    """Return the replacement for a tag: empty for those used inside words (`un<b>believ</b>able`), else a space."""
    name = re.sub(r"\W", "", tag[0].split()[0]).lower()
    return (
        "" if name in {"b", "i", "u", "em", "strong", "small", "font", "span", "sub", "sup", "s", "c", "mark"} else " "
    )


def stands_for_nothing(value: str) -> bool:
    """Whether a value is what programs write into an empty cell."""
    return value.casefold() in PLACEHOLDERS or value in _PLACEHOLDERS_IN_CAPITALS


def _refuse_placeholder(text: str) -> None:
    bare = text.strip().strip("\"'“”‘’«»").strip()
    if not bare:
        raise RowError("empty text")
    if _SOUND_ALONE.fullmatch(bare):
        raise RowError("no words", f"{bare!r} is a sound and nothing that is said; drop the row, or write the words")
    if stands_for_nothing(bare):
        raise RowError(
            "no text", f"{bare!r} stands for an empty cell; if it is what is said, write it with a full stop"
        )


def _refuse_signs_alone(text: str) -> None:
    """Reject a text of punctuation and pictures; a number or a sign of money or arithmetic may be said."""
    if not any(character.isalnum() or unicodedata.category(character) in ("Sc", "Sm") for character in text):
        raise RowError("no words", f"{text[:40]!r} has no letter and no digit; write what is said, or drop the row")


def _refuse_lost_letters(text: str) -> None:
    if REPLACED in text:
        at = text.index(REPLACED)
        raise RowError(
            "text has lost letters", f"{text[max(0, at - 15) : at + 15]!r}: convert the original to UTF-8 once more"
        )


def _decoded_once_more(text: str) -> str:
    """Repair UTF-8 that was decoded as Windows-1252 or Latin-1 (`blÃ¥bÃ¦r`); other text is unchanged.

    Correct text is not affected: encoded back, its non-ASCII letters would have to be valid UTF-8 by chance.
    """
    if text.isascii() or not re.search("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u2122]", text):
        return text
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text


def _unescaped(text: str) -> str:
    """Unescape HTML entities, including those that were escaped twice (`&amp;nbsp;`)."""
    for _ in range(2):
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return text


def _without_times(text: str) -> str:
    """Remove time stamps from a text.

    Raises:
        RowError: they start later than the recording, so the text belongs to a part of it.
    """
    first = _RANGE.search(text)
    if (
        first is not None
        and first.start() == len(text) - len(text.lstrip())
        and _clock(first["start"]) > _STARTS_WITHIN
    ):
        raise RowError(
            "text of a part of the recording",
            f"its time stamp begins at {first['start']}; give the row start and end (seconds), or cut the recording",
        )
    return _STAMP.sub(" ", _RANGE.sub(lambda found: " " if _is_a_stamp(found) else found[0], text))


def _is_a_stamp(found: re.Match[str]) -> bool:
    """Whether a range of times is a subtitle's time stamp and not part of the speech (`open 9:00 - 17:00`)."""
    written = found[0]
    return "->" in written or "→" in written or written.lstrip()[0] in "[(<" or bool(re.search(r"[.,]\d{3}\b", written))


def _clock(written: str) -> float:
    """Convert a time such as `1:02:03.5`, `02:03,5` or `123.4` to seconds."""
    total = 0.0
    for part in written.replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total
