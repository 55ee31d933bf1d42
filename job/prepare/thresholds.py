"""Table of the limits by which prepare judges the figures of each row.

The figures are stored with the row in its shard, so changing a limit requires no new encoding. Rows beyond `refuse` are
rejected, rows beyond `warn` are kept with a warning. A flaw of more than `OF_SOURCE` of a source's rows is how that
source was recorded: such rows are kept, and it is reported once for the source.

Checks that do not depend on a single figure of a row are elsewhere: decoding (`job.audio.unusable`), speech and pauses
(`job.audio.speech`), length of the text against the recording (`job.prepare.fit`), one recording with two texts
(`job.prepare.conflicts`), what a recogniser hears (`job.prepare.wrong_words`).
"""

from __future__ import annotations

from dataclasses import dataclass

#: Share of a source's rows beyond a limit above which this is how the source was recorded.
OF_SOURCE = 0.2
#: Copies of a recording: least correlation of their fingerprints, and largest relative difference of their lengths.
ALIKE, LENGTHS = 0.98, 0.04
#: A text is not what is said if its character error rate is over `WRONG_WORDS` and at least `FEWEST_WRONG` letters are
#: wrong: texts of other rows should have 0.7 and more, half of a text 0.5, good rows under 0.2 (reasoned, not measured
#: with a released recogniser). In a language that the recogniser hears badly the limit is this many standard deviations
#: (from the median absolute deviation) above the median of its rows; over `MOST_WRONG` good and wrong rows cannot be
#: told apart, and none is rejected.
WRONG_WORDS, FEWEST_WRONG, WORD_DEVIATIONS, MOST_WRONG = 0.4, 6, 4.0, 0.7
#: What was heard is the text of another row if its error rate there is at most the first, and at most this share of
#: that against the row's own text.
OTHERS_WORDS, OTHERS_SHARE = 0.4, 0.6
#: A text counts as another language's if its log-likelihood per letter there is higher by at least this (natural
#: logarithm); fewest letters of such a text; fewest rows of a language for its model to be used.
LIKELIER, FEWEST_LETTERS, FEWEST_ROWS = 0.7, 15, 20
#: KEEP_SPEAKERS=split: a person is a speaker from this many clips and this many seconds on, except the first of a name.
#: A dozen clips are what `job.prepare.one_voice` needs to judge a speaker; with less than a minute, a speaker's name
#: would be worth less than its x-vector alone. And the share of an earlier name's seconds that may be told to be
#: another's without a warning: clips in which two people speak go one way or the other.
FEWEST_OWN, LEAST_OWN, MOVED = 12, 60.0, 0.1


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit.

    Attributes:
        reason: name of the reason for rejection, or of the warning.
        figure: the shard's column.
        unit: unit of the figure.
        warn: limit beyond which the row gets a warning.
        refuse: limit beyond which it is rejected; None if it never is.
        why: measurements on which the limits are based.
        advice: what to do about it.
        below: whether figures below the limits are bad, rather than those above.
        least_seconds: shorter recordings are not judged.
        spare: factor by which the figure is multiplied for display; 100 for percent.
    """

    reason: str
    figure: str
    unit: str
    warn: float
    refuse: float | None
    why: str
    advice: str
    below: bool = False
    least_seconds: float = 0.0
    spare: float = 1.0

    def detail(self, figure: float) -> str:
        """Explain the rejection in one line for rejected.jsonl."""
        assert self.refuse is not None
        side = "under" if self.below else "over"
        shown, limit = (f"{self.spare * value:.3g} {self.unit}".strip() for value in (figure, self.refuse))
        name = self.figure.replace("_", " ")
        return f"{name} is {shown}, {side} the limit of {limit}: {self.advice}, or set QUALITY_GATE=off to keep it"


LIMITS: tuple[Limit, ...] = (
    Limit("clipped", "flat_tops", "%", 0.005, 0.02, spare=100,
          why="speech has 0.02 % of its samples at the peak, cut off at a sixth of it 4 % and more",
          advice="record it again, softer"),
    Limit("dc_offset", "dc", "of full scale", 0.02, 0.1,
          why="the codec was trained on centred sound", advice="take the offset out (a high-pass filter at 20 Hz)"),
    Limit("hum", "hum", "dB of the sound", -25.0, -12.0,
          why="speech without hum has no steady line there (-99); hum at half of the speech's level has -7",
          advice="take the hum out (notch filters at 50 or 60 Hz and above)"),
    Limit("music", "steady", "dB of the sound", -43.0, None, least_seconds=1.5,
          why="music at half of the speech's level has -44 to -16; one good row in a hundred has -30",
          advice="use the recording without music"),
    Limit("noisy", "snr", "dB", 15.0, None, below=True, least_seconds=1.0,
          why="white noise as loud as the speech gives 6 to 7, at 5 dB 10 to 12; quiet rooms give over 30",
          advice="record it again in a quiet room"),
    Limit("narrow_band", "band", "Hz", 6500.0, None, below=True,
          why="a telephone ends at 3400 Hz (4900 with a soft edge), 8 kHz recordings at 4000; others over 9500",
          advice="use the original, not a copy from a telephone or at a low sample rate"),
    Limit("too_soft", "rms", "dBFS", -45.0, -52.0, below=True,
          why="so little is left of 16 bits that their steps are heard", advice="record it again, louder"),
    Limit("dropouts", "dropouts", "a second", 0.5, 3.0,
          why="good recordings have none; words with a gate in them have a few a minute",
          advice="copy or record it again"),
    Limit("loop", "repetition", "", 0.93, 0.97, least_seconds=1.0,
          why="a loop has 1, sentences to 0.85, the same word three times 0.9",
          advice="listen to it: the recorder or an editor got stuck"),
    Limit("robot", "monotony", "semitones", 0.3, 0.15, below=True, least_seconds=1.0,
          why="a voice on one pitch has 0.1 at most, people speaking 0.9 and more",
          advice="use a recording of a person"),
    Limit("reversed", "asymmetry", "", -0.15, -0.3, below=True,
          why="people have 0.3 to 5, reversed the same with a minus; voices of added sines have 0 either way",
          advice="turn it round"),
    Limit("metallic", "flatness", "dB", -24.0, None, below=True,
          why="a denoiser that is turned up too far leaves holes: -35 to -24; good rows have -22 and more",
          advice="use the recording before it was denoised"),
    Limit("cut_off_word", "onset", "dB of the loud parts", -12.0, None,
          why="recordings that begin inside a word have -5 to 3, others -36 and less, cut close -25",
          advice="cut it where nothing is said"),
    Limit("cut_off_word", "ending", "dB of the loud parts", -12.0, None,
          why="as at the start", advice="cut it where nothing is said"),
)  # fmt: skip
