"""What the gate of synthesized speech hears: faults planted in good speech, and good speech as it is.

    pip install --no-deps --target /tmp/resemblyzer resemblyzer
    python benchmarks/planted_speech.py --recogniser /tmp/letters --speakers /tmp/resemblyzer/resemblyzer/pretrained.pt

Needs espeak-ng (`apt-get install espeak-ng`), which speaks here as twelve voices in six languages. Each says eight
sentences that stand for the voice's own recordings, and five others that are the samples. These voices were not looked
at when the thresholds in `job/evaluate/checks.py` were set; other voices had said the same sentences before the last
changes. Half of the voices are Klatt synthesizers: pulses through filters, as in a throat; the others add up sines,
whose pulses have no beginning and no end.

For each kind of fault: the share of `--each` samples that the gate calls bad: without the voice's own recordings, with
them (as in a run on prepared data), and with judges as well. Then the good samples that are called bad. Judges only add
faults, so they are asked about samples that pass without them, in the way that `synthesize` asks.

`--recogniser`: a directory; a recogniser that isn't there yet is trained (`planted_judges.py`).
`--speakers`: the weights of Resemblyzer (Apache 2.0, in its wheel), a speaker encoder that was trained on people.
`--recordings`: the same for the sound files of a folder, as samples whose text is not known: without what is measured
against a text or a voice.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import soxr

from job.config.settings import Settings
from job.evaluate import judging, own, speech_gate
from job.evaluate.audio_stats import measure
from job.evaluate.hearing import listen
from job.evaluate.judges import intelligibility
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.speaking import Sample
from job.evaluate.spoken_texts import Utterance
from tests.support.planted import AGAINST_THE_VOICE, RATE, SOUNDS

#: Samples per frame of the codec.
FRAME = 1920
#: Voice, pitch and speed as espeak-ng takes them, and the language of its sentences.
VOICES = (
    ("de+f5", 50, 155, "de"), ("de+klatt6", 45, 165, "de"),
    ("es+linda", 40, 165, "es"), ("es+klatt5", 55, 160, "es"),
    ("it+steph", 45, 165, "it"), ("it+klatt6", 50, 160, "it"),
    ("fr+m8", 45, 155, "fr"), ("fr+klatt5", 50, 165, "fr"),
    ("sv+anika", 55, 160, "sv"), ("sv+klatt6", 45, 155, "sv"),
    ("ru+belinda", 50, 155, "ru"), ("ru+klatt5", 50, 160, "ru"),
)  # fmt: skip
#: Of each language: eight texts for the voice's own recordings, and five to say.
TEXTS = {
    "de": (
        "Gute Nacht.|Der Kessel steht auf dem Herd.|Niemand hatte ihm von der Brücke erzählt.|Wir schließen um neun.|"
        "Er trug zwei schwere Kisten in den vierten Stock und setzte sich auf die Treppe.|Wo sind meine Schlüssel?|"
        "Die Fähre zu den Inseln fährt im Winter nicht, weil der Hafen zufriert.|Warten Sie bitte hier.",
        "Hallo.|Komm herein.|Gibt es noch Kaffee?|Meine Schwester arbeitet in einer Bäckerei am Bahnhof.|"
        "Als der Regen aufgehört hatte, liefen die Kinder an den Strand und bauten eine Mauer aus Steinen.",
    ),
    "es": (
        "Buenas noches.|La tetera está en la cocina.|Nadie le había hablado del puente.|Abrimos hasta las nueve.|"
        "Subió dos cajas pesadas al cuarto piso y se sentó en la escalera.|¿Dónde están mis llaves?|"
        "El barco a las islas no sale en invierno, porque el puerto se congela.|Espere aquí, por favor.",
        "Hola.|Pase usted.|¿Queda algo de café?|Mi hermana trabaja en una panadería cerca de la estación.|"
        "Cuando dejó de llover, los niños corrieron a la playa e hicieron un muro de piedras.",
    ),
    "it": (
        "Buona notte.|Il bollitore è sul fornello.|Nessuno gli aveva parlato del ponte.|Siamo aperti fino alle nove.|"
        "Portò due scatole pesanti al quarto piano e si sedette sulle scale.|Dove sono le mie chiavi?|"
        "Il traghetto per le isole non parte in inverno, perché il porto gela.|Aspetti qui, per favore.",
        "Buongiorno.|Entra pure.|C'è ancora del caffè?|Mia sorella lavora in un forno vicino alla stazione.|"
        "Quando smise di piovere, i bambini corsero alla spiaggia e fecero un muro di pietre.",
    ),
    "fr": (
        "Bonne nuit.|La bouilloire est sur le feu.|Personne ne lui avait parlé du pont.|Nous fermons à neuf heures.|"
        "Il monta deux lourdes caisses au quatrième étage et s'assit sur les marches.|Où sont mes clés?|"
        "Le bateau pour les îles ne circule pas en hiver, car le port est gelé.|Attendez ici, je vous prie.",
        "Bonjour.|Entrez donc.|Est-ce qu'il reste du café?|Ma sœur travaille dans une boulangerie près de la gare.|"
        "Quand la pluie cessa, les enfants coururent à la plage et bâtirent un mur de pierres.",
    ),
    "sv": (
        "God natt.|Kitteln står på spisen.|Ingen hade berättat för honom om bron.|Vi har öppet till klockan nio.|"
        "Han bar två tunga lådor till fjärde våningen och satte sig i trappan.|Var är mina nycklar?|"
        "Färjan till öarna går inte på vintern, eftersom hamnen fryser till.|Vänta här, är du snäll.",
        "Hallå.|Kom in.|Finns det något kaffe kvar?|Min syster arbetar på ett bageri nära stationen.|"
        "När regnet hade slutat sprang barnen ner till stranden och byggde en mur av stenar.",
    ),
    "ru": (
        "Спокойной ночи.|Чайник стоит на плите.|Никто не рассказал ему про мост.|Мы открыты до девяти.|"
        "Он отнёс две тяжёлые коробки на четвёртый этаж и сел на лестнице.|Где мои ключи?|"
        "Паром на острова зимой не ходит, потому что гавань замерзает.|Подождите здесь, пожалуйста.",
        "Здравствуйте.|Войдите.|Остался ли ещё кофе?|Моя сестра работает в пекарне возле вокзала.|"
        "Когда дождь кончился, дети побежали на берег и построили стену из камней.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """Speech of a voice: what it was to say, the sound, and what the voice's recordings are like."""

    voice: str
    text: str
    wave: np.ndarray
    own: own.Own
    recordings: tuple[Clip, ...] = ()
    stopped: bool = True

    @property
    def sample(self) -> Sample:
        """As `synthesize` has it: whole frames."""
        frames = self.wave.size // FRAME
        asked = Utterance(self.text, self.voice)
        wave = self.wave[: frames * FRAME].astype(np.float32)
        return Sample(asked, wave, RATE, frames, self.stopped, 1.0)


def say(voice: str, pitch: int, speed: int, text: str) -> np.ndarray:
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", text]
    wave, rate = soundfile.read(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout))
    return soxr.resample(wave, rate, RATE)


def made(voices: Sequence[tuple[str, int, int, str]] = VOICES) -> Iterator[Said]:
    for voice, pitch, speed, language in voices:
        known, said = (texts.split("|") for texts in TEXTS[language])
        recordings = [say(voice, pitch, speed, text) for text in known]
        like = own.of_recordings(recordings, RATE, known, [one.size / RATE for one in recordings])
        clips = tuple(
            Clip(wave.astype(np.float32), RATE, text, voice) for wave, text in zip(recordings, known, strict=True)
        )
        for text in said:
            yield Said(voice, text, say(voice, pitch, speed, text), like, clips)


def recorded(folder: Path) -> Iterator[Said]:
    """Recordings of people; at most 10 s of each."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg"):
            wave, rate = soundfile.read(path, always_2d=True)
            yield Said(path.name, "", soxr.resample(wave.mean(axis=1)[: 10 * rate], rate, RATE), own.Own())


def planted(good: Sequence[Said], each: int, rng: np.random.Generator, spoken: bool) -> dict[str, list[Said]]:
    """The faulty samples of each kind, and the good ones; `spoken`: by the voices above."""
    some = [good[n] for n in rng.permutation(len(good))[:each]]
    kinds: dict[str, list[Said]] = {}
    for kind, plant in {**SOUNDS, **(AGAINST_THE_VOICE if spoken else {})}.items():
        if kind == "backwards" and spoken:
            for name, of in (("pulses", True), ("sines", False)):
                those = [one for one in good if ("klatt" in one.voice) == of][:each]
                kinds[f"{kind}, voices of {name}"] = [replace(one, wave=plant(one.wave, rng)) for one in those]
            continue
        kinds[kind] = [replace(one, wave=plant(one.wave, rng)) for one in some]
    if spoken:
        babble = [np.resize(np.concatenate([clip.waveform for clip in one.recordings]), 60 * RATE) for one in some]
        kinds["60 s of other sentences"] = [replace(one, wave=wave) for one, wave in zip(some, babble, strict=True)]
        kinds["never stopped"] = [replace(one, stopped=False) for one in kinds["60 s of other sentences"]]
        by = {(one.voice, one.text): one for one in good}
        texts = {one.voice: [other.text for other in good if other.voice == one.voice] for one in good}
        after = {one: said[(place + 1) % len(said)] for said in texts.values() for place, one in enumerate(said)}
        kinds["other words"] = [replace(one, wave=by[one.voice, after[one.text]].wave) for one in some]
        others = {key: next(o for o in good if o.text == key[1] and o.voice != key[0]) for key in by}
        kinds["another voice"] = [replace(one, wave=others[one.voice, one.text].wave) for one in some]
    return {**kinds, "good": list(good)}


def judged(judges: Sequence[Judge], said: Sequence[Said], owned: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `synthesize` writes of samples, of which those that pass are heard by judges as well."""
    asked = [n for n, one in enumerate(owned) if one["passed"]]
    clips = {id(clip): clip for one in said for clip in one.recordings}
    spoken = judging.Spoken(
        samples={"voice": [said[n].sample for n in asked]},
        recorded={"codec": [*clips.values()]},
        own={}, references=[], again={}, frames_per_character=1.0, samples_per_frame=FRAME,
    )  # fmt: skip
    found = list(owned)
    with tempfile.TemporaryDirectory() as work:
        told = judging.judged(Settings(work_dir=Path(work)), judges, spoken, [dict(owned[n]) for n in asked], None)
    for n, one in zip(asked, told["samples"], strict=True):
        found[n] = one
    return found


def described(one: Said) -> list[dict[str, Any]]:
    """What is written of a sample that was judged without its voice's recordings, and with them."""
    sample = one.sample
    stats, listened = measure(sample.waveform, RATE, FRAME), listen(sample.waveform, RATE)
    found = []
    for like in (None, one.own):
        wrong = speech_gate.problems(
            stats, listened, one.text, sample.frames, one.stopped, sample.waveform.size, FRAME, like
        )
        told = {"file": "", "text": one.text, "speaker": one.voice, "seconds": stats.seconds, "origin": "unseen"}
        found.append({**told, "stopped_by_eos": one.stopped, "problems": wrong, "passed": not wrong})
    return found


def heard(kinds: dict[str, list[Said]], judges: Sequence[Judge]) -> dict[str, list[list[dict[str, Any]]]]:
    """For each kind, how its samples are described: without recordings, with them, and by judges too, if any."""
    said = [one for some in kinds.values() for one in some]
    ways = [list(way) for way in zip(*map(described, said), strict=True)]
    if judges:
        ways.append(judged(judges, said, ways[-1]))
    found, at = {}, 0
    for kind, some in kinds.items():
        found[kind] = [way[at : at + len(some)] for way in ways]
        at += len(some)
    return found


def judges_of(recogniser: Path | None, weights: Path | None, good: Sequence[Said]) -> list[Judge]:
    """The judges that are asked for: one that recognises what is said, and one that tells voices apart."""
    import planted_judges

    judges: list[Judge] = []
    if recogniser is not None:
        model = planted_judges.recogniser(recogniser, VOICES)
        listener = intelligibility.load(Settings(asr_model=str(model)), "cpu")
        assert listener is not None
        judges.append(listener)
    if weights is not None:
        judges.append(planted_judges.similarity(weights, [clip for one in good for clip in one.recordings]))
    return judges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=24, help="samples of each kind")
    parser.add_argument("--recogniser", type=Path, help="a directory, where one is trained if there is none")
    parser.add_argument("--speakers", type=Path, help="weights of Resemblyzer")
    parser.add_argument("--recordings", type=Path, help="a folder of sound files")
    chosen = parser.parse_args()
    good = list(recorded(chosen.recordings) if chosen.recordings else made())
    judges = [] if chosen.recordings else judges_of(chosen.recogniser, chosen.speakers, good)
    told = heard(planted(good, chosen.each, np.random.default_rng(0), not chosen.recordings), judges)
    ways = ["without recordings", "with recordings", "with recordings and judges"][: 3 if judges else 2]
    print("| kind | " + " | ".join(ways) + " |\n| --- |" + " --- |" * len(ways))
    for kind, by_way in told.items():
        bad = [sum(not one["passed"] for one in some) for some in by_way]
        shares = " | ".join(f"{n} of {len(some)} ({n / len(some):.0%})" for n, some in zip(bad, by_way, strict=True))
        print(f"| {kind} | {shares} |")
    for kind, by_way in told.items():
        for one in by_way[-1]:
            if one["passed"] != (kind == "good"):
                figures = {name: one[name] for name in ("cer", "transcript", "similarity") if name in one}
                print(f"    {kind}: {one['speaker']}, {one['text']!r}: {one['problems'] or 'passes'} {figures}")


if __name__ == "__main__":
    main()
