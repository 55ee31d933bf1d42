"""Films, and sound in the containers that soundfile does not read, written by FFmpeg."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

#: Name -> (codec, container).
KINDS = {
    "aac.m4a": ("aac", "ipod"),
    "aac.mp4": ("aac", "mp4"),
    "aac.mov": ("aac", "mov"),
    "aac.aac": ("aac", "adts"),
    "aac.flv": ("aac", "flv"),
    "aac.mts": ("aac", "mpegts"),
    "alac.m4a": ("alac", "ipod"),
    "pcm.mov": ("pcm_s16le", "mov"),
    "opus.webm": ("libopus", "webm"),
    "opus.mkv": ("libopus", "matroska"),
    "vorbis.mkv": ("vorbis", "matroska"),
    "flac.mka": ("flac", "matroska"),
    "wma.wma": ("wmav2", "asf"),
    "mp3.avi": ("libmp3lame", "avi"),
    "mp2.mpg": ("mp2", "mpeg"),
    "ac3.ac3": ("ac3", "ac3"),
    "wavpack.wv": ("wavpack", "wv"),
    "tta.tta": ("tta", "tta"),
}
#: Kinds that lose nothing and add nothing.
LOSSLESS = ("alac.m4a", "pcm.mov", "flac.mka", "wavpack.wv", "tta.tta")
#: Containers without the length of their sound, of which a cut between two frames cannot be seen.
WITHOUT_LENGTH = ("aac.aac", "aac.mts", "mp2.mpg", "ac3.ac3")


def write(
    path: Path,
    tracks: list[np.ndarray],
    rate: int = 48_000,
    codec: str = "aac",
    container: str = "mp4",
    *,
    pictures: bool = False,
    default: int | None = None,
    **options: str,
) -> Path:
    """A file with each of the mono or stereo `tracks` (samples, channels) and, with `pictures`, a moving picture."""
    with av.open(_Plain(path.open("wb")), "w", format=container, container_options=options) as film:
        video = film.add_stream("mpeg4", rate=25, width=64, height=48, pix_fmt="yuv420p") if pictures else None
        streams: list[Any] = []  # of sound, whatever the codec is called
        for number, samples in enumerate(tracks):
            stream: Any = film.add_stream(codec, rate=rate, layout="stereo" if samples.shape[1] == 2 else "mono")
            stream.options = {"strict": "-2"}
            if codec == "wmav2":
                stream.bit_rate = 128_000
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else 0
            streams.append(stream)
        if video is not None:
            for number in range(50):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")
                picture.pts, picture.time_base = number, Fraction(1, 25)
                film.mux(video.encode(picture))
            film.mux(video.encode(None))
        for stream, samples in zip(streams, tracks, strict=True):
            layout = stream.layout.name
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples.T, np.float32), format="fltp", layout=layout
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            wanted = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
            for piece in [*wanted.resample(frame), *wanted.resample(None)]:
                film.mux(stream.encode(piece))
            film.mux(stream.encode(None))
    return path


class _Plain:
    """A file that FFmpeg is not told the name of: it would take `http:a` for an address."""

    def __init__(self, file) -> None:
        self.write, self.seek, self.tell, self.close = file.write, file.seek, file.tell, file.close


def kind(folder: Path, name: str, samples: np.ndarray, rate: int = 48_000) -> Path:
    """A file of one of `KINDS` that holds the mono `samples`."""
    codec, container = KINDS[name]
    channels = 2 if codec in ("vorbis", "wmav2") else 1
    return write(folder / name, [np.tile(samples[:, None], (1, channels))], rate, codec, container)


def shift(one: np.ndarray, other: np.ndarray) -> tuple[int, float]:
    """By how many samples `one` comes later than `other`, and how alike they are then (1 is the same)."""
    size = 1 << (len(one) + len(other)).bit_length()
    products = np.fft.irfft(np.fft.rfft(one, size) * np.conj(np.fft.rfft(other, size)), size)
    later = int(np.argmax(products))
    later -= size if later > size // 2 else 0
    first, second = one[max(0, later) :], other[max(0, -later) :]
    length = min(len(first), len(second))
    return later, float(np.corrcoef(first[:length], second[:length])[0, 1])
