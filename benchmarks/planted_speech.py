"""What the gate of synthesized speech hears: faults planted in good speech, and good speech as it is.

    python benchmarks/planted_speech.py [--each 24] [--recordings DIR]

Needs `espeak-ng` on the PATH, which speaks here as twelve voices in six languages. Each says eight sentences that stand
for the voice's own recordings, and five others that are the samples. These voices were not looked at when the
thresholds in `job/evaluate/checks.py` were set; other voices had said the same sentences before the last changes. Half
of the voices are Klatt synthesizers: pulses through filters, as in a throat; the others add up sines, whose pulses have
no beginning and no end.

For each kind of fault: the share of `--each` samples that the gate calls bad, with the voice's own recordings at hand
(as in a run on prepared data) and without. Then the good samples that are called bad.

`--recordings`: the same for the sound files of a folder, as samples whose text is not known: without what is measured
against a text or a voice.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import soxr

from job.evaluate import own, speech_gate
from job.evaluate.audio_stats import measure
from job.evaluate.hearing import listen
from tests.support.planted import AGAINST_THE_VOICE, RATE, SOUNDS

#: Voice, pitch and speed as espeak-ng takes them, and the language of its sentences.
VOICES = (
    ("de+f5", 50, 155, "de"), ("de+klatt6", 45, 165, "de"),
    ("es+linda", 40, 165, "es"), ("es+klatt5", 55, 160, "es"),
    ("it+steph", 45, 165, "it"), ("it+klatt6", 50, 160, "it"),
    ("fr-fr+m8", 45, 155, "fr"), ("fr-fr+klatt5", 50, 165, "fr"),
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
class Spoken:
    """A good sample, and what its voice's recordings are like."""

    voice: str
    text: str
    wave: np.ndarray
    own: own.Own
    recordings: tuple[np.ndarray, ...] = ()


def say(voice: str, pitch: int, speed: int, text: str) -> np.ndarray:
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", text]
    wave, rate = soundfile.read(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout))
    return soxr.resample(wave, rate, RATE)


def made() -> Iterator[Spoken]:
    for voice, pitch, speed, language in VOICES:
        known, said = (texts.split("|") for texts in TEXTS[language])
        recordings = [say(voice, pitch, speed, text) for text in known]
        like = own.of_recordings(recordings, RATE, known, [one.size / RATE for one in recordings])
        for text in said:
            yield Spoken(voice, text, say(voice, pitch, speed, text), like, tuple(recordings))


def recorded(folder: Path) -> Iterator[Spoken]:
    """Recordings of people; at most 10 s of each."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg"):
            wave, rate = soundfile.read(path, always_2d=True)
            yield Spoken(path.name, "", soxr.resample(wave.mean(axis=1)[: 10 * rate], rate, RATE), own.Own())


def wrong(wave: np.ndarray, text: str, like: own.Own) -> list[list[str]]:
    """What the gate says of a sample with the voice's recordings at hand, and without."""
    stats, heard = measure(wave, RATE), listen(wave, RATE)
    return [speech_gate.problems(stats, heard, text, wave.size, True, wave.size, 1, one) for one in (like, own.Own())]


def report(kind: str, judged: list[list[list[str]]]) -> None:
    caught = [sum(bool(one[way]) for one in judged) for way in (0, 1)]
    shares = " | ".join(f"{count} of {len(judged)} ({count / len(judged):.0%})" for count in caught)
    print(f"| {kind} | {shares} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=24, help="samples of each kind")
    parser.add_argument("--recordings", type=Path, help="a folder of sound files")
    chosen = parser.parse_args()
    good = list(recorded(chosen.recordings) if chosen.recordings else made())
    rng = np.random.default_rng(0)
    kinds = dict(SOUNDS)
    if not chosen.recordings:
        kinds.update(AGAINST_THE_VOICE)
    print("| kind | caught, with recordings | caught, without |\n| --- | --- | --- |")
    turned = rng.permutation(len(good))
    some = [good[n] for n in turned[: chosen.each]]
    for kind, plant in kinds.items():
        if kind == "backwards" and not chosen.recordings:
            for name, of in (("pulses", True), ("sines", False)):
                those = [one for one in good if ("klatt" in one.voice) == of][: chosen.each]
                report(f"{kind}, voices of {name}", [wrong(plant(one.wave, rng), one.text, one.own) for one in those])
            continue
        report(kind, [wrong(plant(one.wave, rng), one.text, one.own) for one in some])
    if not chosen.recordings:
        babble = [(one, np.resize(np.concatenate(one.recordings), 60 * RATE)) for one in some]
        report("60 s of other sentences", [wrong(wave, one.text, one.own) for one, wave in babble])
    judged = [wrong(one.wave, one.text, one.own) for one in good]
    report("good", judged)
    for one, found in zip(good, judged, strict=True):
        if any(found):
            print(f"    {one.voice}, {one.text!r}: {found}")


if __name__ == "__main__":
    main()
