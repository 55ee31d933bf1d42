"""Films, and sound in containers that soundfile does not read: what is heard is what was recorded, or a reason."""

from __future__ import annotations

import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job import fetch
from job.audio import decode
from job.audio.clip import Unusable, load
from job.audio.ffmpeg import sound
from job.config import settings as job_settings
from job.core import files as job_files
from job.fetch import audio_store
from job.fetch.find import Finder
from job.fetch.same import same_recording
from tests.prepare import films
from tests.prepare.conftest import voice

RATE, SECONDS = 48_000, 2.0


def noisy(seconds: float, seed: int = 1) -> np.ndarray:
    """Speech in a room: no part of it is silent."""
    room = 0.02 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (0.9 * voice(seconds, RATE, seed) + room).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], np.ndarray]:
    folder, samples = tmp_path_factory.mktemp("films"), noisy(SECONDS)
    return {name: films.kind(folder, name, samples) for name in films.KINDS}, samples


@pytest.mark.parametrize("name", films.KINDS)
def test_the_sound_of_every_container_is_what_was_recorded(made: tuple, name: str) -> None:
    """In time, too: within 10 ms where the container says how long its encoder's delay is, else within one frame."""
    files, samples = made
    clip = load(files[name], RATE)
    later, alike = films.shift(clip.samples, samples)
    known = name in (*films.LOSSLESS, "aac.m4a", "aac.mp4", "aac.mov", "opus.webm", "opus.mkv", "vorbis.mkv")
    assert abs(later) <= (0.01 if known else 0.045) * RATE
    assert alike > (0.9999 if name in films.LOSSLESS[:3] else 0.9)
    assert abs(clip.figures.seconds - SECONDS) < (0.001 if known else 0.05)
    assert (clip.figures.rate, clip.figures.tracks, clip.figures.warnings()) == (RATE, 1, [])
    assert abs(audio_store.seconds(files[name]) - SECONDS) < 0.05


@pytest.mark.parametrize("name", films.KINDS)
def test_a_part_of_a_film_is_the_same_samples_as_in_the_whole(made: tuple, name: str) -> None:
    """AAC has noise that its decoder draws anew each time; it is alike, at the same sample."""
    path = made[0][name]
    whole = load(path, RATE).samples
    for start, end in [(1.5, 1.75), (0.0, 0.5), (0.3, 1.0), (1.7, None)]:
        part = load(path, RATE, start=start, end=end).samples
        expected = whole[round(start * RATE) : None if end is None else round(end * RATE)]
        assert len(part) == len(expected)
        assert np.array_equal(part, expected) or (name[:3] == "aac" and np.abs(part - expected).max() < 0.05)


@pytest.mark.parametrize("name", ["aac.m4a", "opus.webm", "wma.wma", "flac.mka", "alac.m4a"])
def test_a_part_late_in_a_long_film_is_found_without_decoding_what_comes_before(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, from several threads, and to the sample."""
    path = films.kind(tmp_path, name, noisy(16.0))
    whole = load(path, RATE).samples
    load(path, RATE, start=1.0, end=2.0)  # checks the file
    decoded = []
    floats = decode.FfmpegFile._floats
    monkeypatch.setattr(
        decode.FfmpegFile, "_floats", lambda file, frame: decoded.append(frame.samples) or floats(file, frame)
    )

    def same(start: float) -> bool:
        part = load(path, RATE, start=start, end=start + 0.5).samples
        return films.shift(part, whole[round(start * RATE) :][: len(part)])[0] == 0 and len(part) == RATE // 2

    starts = [14.3, 5.21, 15.0, 9.9999, 12.37]
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(same, starts))
    assert sum(decoded) / RATE / len(starts) < 8.0


@pytest.mark.parametrize("name", ["aac.m4a", "alac.m4a", "pcm.mov", "opus.webm", "wavpack.wv"])
def test_parts_of_a_film_are_the_samples_that_a_newly_opened_one_gives(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, in order and not, by threads side by side, and of an MP4 without opening it for each.

    The noise is loud, so that the decoder of AAC makes some of it up.
    """
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32)
    path = films.kind(tmp_path, name, np.where(np.arange(20 * RATE) < RATE, 0.5, 1) * noise)
    starts = [0.0, 5.5, 6.1, 8.0, 11.3, 14.0, 18.7, 7.77, 3.0, 18.0]
    spans = [(round(at * RATE), round((at + 1.4) * RATE)) for at in starts]
    anew = [decode.Recording(path).read(first, last) for first, last in spans]
    opened, most = [], 2
    begin = decode.FfmpegFile._begin
    monkeypatch.setattr(decode.FfmpegFile, "_begin", lambda file: opened.append(file) or begin(file))
    monkeypatch.setattr(decode, "_MOST_OPEN", most)
    recording = decode.Recording(path)
    for first, wanted in zip(spans, anew, strict=True):
        np.testing.assert_array_equal(recording.read_part(*first), wanted)
    if (
        path.suffix != ".webm" and name != "wavpack.wv"
    ):  # opened at first, for the two parts near the beginning, after the end
        assert len(opened) <= 5
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(lambda span: recording.read_part(*span), spans * 3), anew * 3, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert len(recording._idle) <= most
    kept = list(recording._idle)
    recording.close()
    assert not recording._idle and all(file._file.closed for file in kept)


def test_a_part_of_a_long_film_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty seconds would take 6 MB."""
    monkeypatch.setattr(decode, "_MOST_BYTES", 500_000)
    monkeypatch.setattr(decode, "_BLOCK", 1 << 15)
    monkeypatch.setattr(sound, "_BLOCK", 1 << 15)
    samples = np.tile(noisy(5.0), 6)
    for name in ("alac.m4a", "flac.mka", "ac3.ac3"):
        path = films.kind(tmp_path, name, samples)
        tracemalloc.start()
        load(path, RATE, start=28.0, end=29.0, max_seconds=2.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3_000_000


def test_the_default_track_is_heard_and_that_there_are_others_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_said", [])
    tracks = [noisy(SECONDS, seed)[:, None] for seed in (1, 2, 3)]
    path = films.write(tmp_path / "a.mkv", tracks, codec="libopus", container="matroska", pictures=True, default=1)
    clip = load(path, RATE)
    assert films.shift(clip.samples, tracks[1][:, 0])[1] > 0.9
    assert clip.figures.warnings() == ["several_tracks"]
    load(path, RATE)
    assert capsys.readouterr().out == "[prepare] a.mkv: track 2 of 3 of its sound is used; others likewise\n"
    path = films.write(tmp_path / "b.mp4", tracks, pictures=True)
    assert films.shift(load(path, RATE).samples, tracks[0][:, 0])[1] > 0.9


def test_channels_are_mixed_as_those_of_other_recordings(tmp_path: Path) -> None:
    left, right = noisy(SECONDS, 1), noisy(SECONDS, 2)
    path = films.write(tmp_path / "a.m4a", [np.stack([left, right], axis=1)], codec="alac", container="ipod")
    clip = load(path, RATE)
    assert clip.figures.channels == 2
    np.testing.assert_allclose(clip.samples, (left + right) / 2, atol=1e-3)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_film_without_sound_is_left_out_in_one_line(tmp_path: Path, container: str) -> None:
    path = films.write(tmp_path / "silent.film", [], container=container, pictures=True)
    with pytest.raises(Unusable, match=r"without a sound track; give the recording$") as caught:
        load(path, RATE)
    assert caught.value.reason == "unreadable"
    with pytest.raises(audio_store.RowError, match="without a sound track"):
        audio_store.seconds(path)


def outcome(content: bytes) -> float | str:
    """Seconds that are read of a file, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recording")
        path.write_bytes(content)
        try:
            return load(path, RATE).figures.seconds
        except Unusable as error:
            assert "\n" not in error.detail
            assert str(path) in error.detail
            return error.reason


REFUSED = {"cut_off", "unreadable", "silent", "too_short", "empty", "joined"}
LIMITS = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@LIMITS
@given(name=st.sampled_from(sorted(films.KINDS)), share=st.floats(0.0, 0.97))
def test_a_film_that_is_cut_anywhere_is_refused(made: tuple, name: str, share: float) -> None:
    """But for containers that do not say how long their sound is: of those it is never longer than what is there."""
    content = made[0][name].read_bytes()
    found = outcome(content[: int(share * len(content))])
    if name in films.WITHOUT_LENGTH:
        assert found in REFUSED or found <= share * SECONDS + 0.15
    else:
        assert found in REFUSED


@LIMITS
@given(name=st.sampled_from(sorted(films.KINDS)), share=st.floats(0.1, 0.9))
def test_the_rest_of_a_download_that_is_zeros_is_never_taken_for_sound(made: tuple, name: str, share: float) -> None:
    content = made[0][name].read_bytes()
    there = int(share * len(content))
    if name == "pcm.mov" or not any(content[there:]):
        return  # zeros are silence there; its index lies at the end, and a file with it before is looked at below
    found = outcome(content[:there] + bytes(len(content) - there))
    assert found in REFUSED


@LIMITS
@given(
    name=st.sampled_from(sorted(films.KINDS)),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4),
)
def test_no_damage_ends_in_more_than_a_reason(made: tuple, name: str, damage: list) -> None:
    """Nor in a recording of another length, unless the damage is to the containers that do not say it."""
    content = bytearray(made[0][name].read_bytes())
    for share, bytes_ in damage:
        place = int(share * len(content))
        content[place : place + len(bytes_)] = bytes_[: len(content) - place]
    found = outcome(bytes(content))
    assert isinstance(found, str) or found < 100.0


@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_an_index_before_the_sound_does_not_hide_that_the_sound_is_cut_off(tmp_path: Path, codec: str) -> None:
    path = films.write(tmp_path / "a.mp4", [noisy(SECONDS)[:, None]], codec=codec, moov_size="9000")
    content = path.read_bytes()
    assert outcome(content) == SECONDS
    for share in (0.3, 0.6, 0.9, 0.99):
        there = int(share * len(content))
        assert outcome(content[:there]) == "cut_off"
        assert outcome(content[:there] + bytes(len(content) - there)) in REFUSED
    assert outcome(content + content) == "joined"


def test_a_hole_in_a_film_is_seen(tmp_path: Path) -> None:
    """FFmpeg passes over what is damaged and goes on; what was said there would be missing."""
    path = films.write(tmp_path / "a.mkv", [noisy(6.0)[:, None]], codec="libopus", container="matroska", pictures=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = b"\x55" * (len(content) // 2 - len(content) // 3)
    assert outcome(bytes(content)) == "cut_off"


def test_films_in_fragments_and_of_unknown_length_are_read_whole(tmp_path: Path) -> None:
    """As browsers and cameras write them while they record."""
    spoken = noisy(SECONDS)[:, None]
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "300000"}
    path = films.write(tmp_path / "a.mp4", [spoken], **options)
    assert abs(load(path, RATE).figures.seconds - SECONDS) < 0.05
    content = path.read_bytes()
    assert outcome(content[: len(content) // 2]) == "cut_off"
    path = films.write(tmp_path / "a.webm", [spoken], codec="libopus", container="webm", live="1")
    assert abs(load(path, RATE).figures.seconds - SECONDS) < 0.05
    part = load(path, RATE, start=1.0, end=1.5).samples
    assert films.shift(part, spoken[RATE : RATE * 3 // 2, 0])[0] == 0


NAMES = ["a#1%20.m4a", "a:b.m4a", "http:x.m4a", "concat:a|b.m4a", "data:,x.m4a", "ñandú 声.m4a", "-i.m4a", "%d.m4a"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_that_of_a_file_here(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    films.write(tmp_path / name, [noisy(SECONDS)[:, None]])
    monkeypatch.chdir(tmp_path)
    assert load(Path(name), RATE).figures.seconds == SECONDS
    assert audio_store.seconds(Path(name)) == SECONDS


def test_a_file_that_points_to_others_is_no_recording(tmp_path: Path) -> None:
    """Playlists and lists of files could have a stranger's manifest read, and publish, any file of this machine."""
    secret = films.write(tmp_path / "secret.m4a", [noisy(SECONDS)[:, None]])
    for content in (
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n",
        f"<MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>",
    ):
        for name in ("a.m4a", "a.m3u8", "a.webm"):
            (tmp_path / name).write_text(content)
            with pytest.raises(Unusable) as caught:
                load(tmp_path / name, RATE)
            assert caught.value.reason == "unreadable"


def test_nothing_of_what_ffmpeg_says_reaches_the_console(
    made: tuple, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_said", [Path("other")])
    for path in made[0].values():
        content = path.read_bytes()
        for share in (0.4, 0.8):
            outcome(content[: int(share * len(content))])
            outcome(content[: int(share * len(content))] + b"\x55" * 2000)
    assert capfd.readouterr() == ("", "")


def test_a_film_and_the_wav_that_was_made_of_it_are_one_recording(made: tuple, tmp_path: Path) -> None:
    files, samples = made
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    assert same_recording(tmp_path / "a.wav", files["opus.webm"])
    soundfile.write(tmp_path / "a.wav", noisy(SECONDS, 9), RATE)
    assert not same_recording(tmp_path / "a.wav", files["opus.webm"])


def test_films_that_come_as_bytes_are_kept_and_checked(made: tuple, tmp_path: Path) -> None:
    """As in a dataset of the Hub or a Parquet file; before a run only their headers are read."""
    files, samples = made
    for name in ("aac.m4a", "opus.webm", "aac.mp4"):
        value = {"bytes": files[name].read_bytes(), "path": None}
        kept = audio_store.Store(tmp_path / "audio").locate(value, "audio", [])
        assert films.shift(load(kept, RATE).samples, samples)[1] > 0.9
        audio_store.Store(None).locate(value, "audio", [])
        with pytest.raises(audio_store.RowError, match=r"moov|header cannot be read|cannot be decoded"):
            audio_store.Store(None).locate({"bytes": value["bytes"][:200], "path": name}, "audio", [])


def test_a_recording_goes_before_the_film_of_its_name(made: tuple, tmp_path: Path) -> None:
    """Films of faces often have no sound, or a worse one."""
    files, _ = made
    for name, film in {"a": "aac.mp4", "b": "opus.webm"}.items():
        (tmp_path / f"{name}{files[film].suffix}").write_bytes(files[film].read_bytes())
        (tmp_path / f"{name}.txt").write_text(f"words of {name}", encoding="utf-8")
    soundfile.write(tmp_path / "a.wav", noisy(SECONDS, 7), RATE)
    loaded = job_settings.load({"DATA_DIR": str(tmp_path), "WORK_DIR": str(tmp_path / "work")})
    assert fetch.run(loaded)["train"] == 2
    rows = job_files.read_jsonl(loaded.paths.manifest("train"))
    assert [Path(row["audio"]).name for row in rows] == ["a.wav", "b.webm"]
    assert Finder().find("a", "audio", [tmp_path]) == tmp_path / "a.wav"
