"""Every limit that prepare judges a row's figures by, in one table.

A limit is of a figure that is stored with the row in its shard, so changing one here costs no encoding. Rows over
`refuse` are left out, rows over `warn` are kept and named. What more than `OF_SOURCE` of a source's rows have is how
that source was recorded: such rows are kept, and it is said once for all of them.

Not in the table, since they are no single figure of a row: decoding (`job.audio.unusable`), speech and pauses
(`job.audio.speech`), the text's length against the sound (`job.prepare.fit`), one recording under two texts
(`job.prepare.conflicts`).
"""

from __future__ import annotations

from dataclasses import dataclass

#: Share of a source's rows over a limit from which it is how the source was recorded.
OF_SOURCE = 0.2
#: Copies of a recording: the least correlation of their prints, and how far their lengths may differ (share).
ALIKE, LENGTHS = 0.98, 0.04
#: How much likelier (natural logarithm, a letter) another language must make a text than its own, the letters that a
#: text must have, and the rows that a language must have to be known by.
LIKELIER, FEWEST_LETTERS, FEWEST_ROWS = 0.7, 15, 20


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit.

    Attributes:
        reason: what the row is left out for, or warned of.
        figure: the shard's column.
        unit: of the figure.
        warn: figure from which the row is named.
        refuse: figure from which it is left out; None where it never is.
        why: what was measured when the limits were set.
        advice: what to do about it.
        below: whether figures under the limits are bad, and not those over them.
        least_seconds: shorter recordings are not judged.
        spare: factor on the figure for people to read, 100 for per cent.
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
        """One line for rejected.jsonl."""
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
    Limit("music", "steady", "dB of the sound", -36.0, None, least_seconds=1.5,
          why="music at half of the speech's level has -35 to -21; one good row in a hundred has -30",
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
    Limit("metallic", "flatness", "dB", -25.0, None, below=True,
          why="a denoiser that is turned up too far leaves holes: -31 to -26; good rows have -22 and more",
          advice="use the recording before it was denoised"),
    Limit("cut_off_word", "onset", "dB of the loud parts", -12.0, None,
          why="recordings that begin inside a word have -5 to 3, others -36 and less, cut close -25",
          advice="cut it where nothing is said"),
    Limit("cut_off_word", "ending", "dB of the loud parts", -12.0, None,
          why="as at the start", advice="cut it where nothing is said"),
)  # fmt: skip
