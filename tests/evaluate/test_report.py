"""The page about a run: made of whatever is there, inert, self-contained, and seen in a real browser."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from job.config.settings import Settings
from job.evaluate import charts, checks, embedded, live, report
from job.evaluate.audio_stats import measure
from job.evaluate.charts import Line
from job.evaluate.comparison import compare
from job.evaluate.hearing import Heard
from job.evaluate.samples import by_origin
from job.evaluate.verdict import verdict

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
TOKEN = "hf_" + "QwErTyUiOpAsDfGhJkLz"


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def fill(work: Path, **values: Any) -> Settings:
    """A work directory as a finished run leaves it."""
    settings = Settings(work_dir=work, **values)
    paths = settings.paths
    for directory in (paths.samples, paths.output, paths.state, paths.prepared):
        directory.mkdir(parents=True)
    log = []
    for step in range(1, 401):
        loss = 9 * math.exp(-step / 60) + 0.01 * (1 + math.sin(step))
        log.append({"step": step, "epoch": 1, "loss": loss, "talker_loss": loss / 2, "sub_talker_loss": loss * 1.1,
                    "learning_rate": 1e-3 * (1 - step / 401), "grad_norm": 1.0})  # fmt: skip
    paths.training_log.write_text("".join(json.dumps(one) + "\n" for one in log) + '{"step": 401, "lo')
    validation = [
        {"step": step, "loss": 9 * math.exp(-step / 70) + 0.2, "talker_loss": 1.0} for step in (100, 200, 300)
    ]
    paths.validation_log.write_text("".join(json.dumps(one) + "\n" for one in validation))
    samples = []
    for number, (text, problems) in enumerate(
        [("A sentence that was said well, and at some length, to see how it wraps.", []), (ATTACK, ["never stopped"])],
        1,
    ):
        name = f"{number:02d}-ayọ̀ #1.wav"
        tone = 0.5 * np.sin(np.arange(24_000 * number) / 20)
        soundfile.write(str(paths.samples / name), tone, 24_000, subtype="PCM_16")
        samples.append({
            "file": name, "text": text, "speaker": "ayọ̀ #1", "language": "Auto", "layout": "non_streaming",
            "frames": 13, "seconds": float(number), "rms": 0.35, "absmax": 0.5, "clipped": 0.0, "silence_fraction": 0.0,
            "longest_inner_silence": 0.0, "non_finite": 0, "stopped_by_eos": not problems, "real_time_factor": 0.4,
            "wer": 0.125, "cer": None, "transcript": text, "passed": not problems, "problems": problems,
        })  # fmt: skip
    stats = {"samples": samples, "summary": {"samples": 2, "failed": 1, "wer": 0.125}, "settings": {}}
    (paths.samples / "stats.json").write_text(json.dumps(stats))
    quality = {"rows": 12, "hours": 0.01, "speakers": {f"s{n}": 1.5 for n in range(30)}, "problems": ["3 rows clip"]}
    paths.quality.write_text(json.dumps({**quality, "duplicate_rows": 0, "distinct_codes_per_book": [7] * 16}))
    for n, stage in enumerate(("fetch", "prepare", "train")):
        state = {"stage": stage, "seconds": 1.5 + n, "finished": f"2026-01-02T03:04:0{n}", "counts": {"rows": 12 + n}}
        (paths.state / f"{stage}.json").write_text(json.dumps({**state, "versions": {"torch": "2.11.0"}}))
    return settings


def made(settings: Settings) -> tuple[str, Page]:
    report.run(settings)
    html = settings.paths.report.read_text(encoding="utf-8")
    return html, Page(html)


def test_every_part_of_a_finished_run_is_on_the_page(tmp_path: Path):
    settings = fill(tmp_path, speaker_name="Ayo", learning_rate=3e-5)
    assert report.run(settings) == {"samples": 2, "failed": 1, "log_lines": 403}
    _, page = made(settings)
    players = page.all("audio")
    for number, player in enumerate(players, 1):  # inside the page, which can be sent alone
        kind, _, coded = player["src"].partition("base64,")
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(coded)))
        assert (kind, rate) == ("data:audio/mpeg;", 24_000)
        assert abs(heard.size / rate - number) < 0.2
    assert all(player["aria-label"] and "controls" in player for player in players)
    assert len(page.all("svg")) == 4
    for expected in ("1 of 2", "✗ never stopped", "3 rows clip", "LEARNING_RATE", "3e-05", "torch 2.11.0", "12.5 %"):
        assert expected in page.text
    finished = [page.text.index(f"2026-01-02 03:04:0{n}") for n in range(3)]
    assert finished == sorted(finished)
    assert "18 more" in page.text  # of thirty speakers


def test_the_cell_that_fails_is_the_one_that_is_marked(tmp_path: Path):
    html, _ = made(fill(tmp_path))
    assert re.findall(r'<td class="bad">([^<]*)</td>', html) == ["✗ no"]


def judged(settings: Settings) -> None:
    """As if the samples had been judged, beside the base model."""
    path = settings.paths.samples / "stats.json"
    stats = json.loads(path.read_text())
    told = {
        "codec": [{"mos": 4.0, "wer": 0.1}],
        "base": [{"mos": 3.0, "wer": 0.1, "file": f"base/0{n}-a #1.wav"} for n in (1, 2, 3)],
        "voice": [{"mos": 3.9, "wer": 0.5}] * 3,
    }
    rows = compare(told)
    stats["comparison"], stats["compared"] = rows, {"base": told["base"]}
    stats["judges"] = {"mos": {"by": "distillmos 1", "seconds": 2.25, "failed": 1, "reason": "no sound"}}
    stats["summary"]["verdict"] = verdict(rows, 0, 2, 0.25)
    figures = {"samples": 3, "stopped": 3, "failed": 0, "similarity": 0.8, "cer": None}
    lost = {"lost": True, "why": "similarity 40 %, the base's 80 %", "expected": False}
    rows = [
        {"ability": "cloning", "label": "Cloning", "base": figures, "voice": {**figures, "similarity": 0.4}, **lost},
        {"ability": "instructions", "label": "Instructions", "base": None, "voice": {"rate_change": 0.31}},
        {"label": "of another version"},
        "damaged",
    ]
    stats["kept"] = {"rows": rows, "left_out": {"preset": "there are none"}}
    stats["warnings"] = [f"Cloning: lost in training, {ATTACK}"]
    path.write_text(json.dumps(stats))


def test_what_the_base_could_do_is_listed_with_both_models_figures_and_what_is_lost_is_marked(tmp_path: Path):
    settings = fill(tmp_path)
    judged(settings)
    html, page = made(settings)
    for expected in ("similarity 80 %; 3 of 3 stop, 0 fail a check", "similarity 40 %; 3 of 3 stop", "rate +31 %",
                     "lost: similarity 40 %, the base's 80 %", "cannot be told", "Not asked: preset: there are none",
                     "Cloning: lost in training"):  # fmt: skip
        assert expected in page.text
    assert "of another version" not in page.text and "damaged" not in page.text
    assert "<script>document.title" not in html


def test_the_verdict_comes_first_and_the_voice_stands_beside_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = fill(tmp_path)
    judged(settings)
    _, page = made(settings)
    said = (
        "Beside the base model cloning it: better in naturalness (+0.90) and worse in errors of words (+40.0 points)."
    )
    assert page.text.index(said) < page.text.index("What it sounds like")
    assert capsys.readouterr().out.strip().endswith(said)  # and last in the log
    assert "+0.90, better" in page.text and "target (2.50 / 3.50 / 4.20)" in page.text
    assert "below the minimum (40.0 % / 25.0 % / 15.0 %)" in page.text
    assert "mos: distillmos 1, 2.2 s (1 clips not judged: no sound)" in page.text
    assert [one["src"] for one in page.all("audio")][1] == "../samples/base/01-a%20%231.wav"


def test_every_figure_that_a_check_looks_at_has_a_cell_and_the_bad_one_is_marked(tmp_path: Path):
    settings = fill(tmp_path)
    path = settings.paths.samples / "stats.json"
    stats = json.loads(path.read_text())
    stats["samples"][0] |= {"flatness": 0.4, "problems": ["noise: its spectrum is flat (0.40)"], "passed": False}
    stats["samples"][1] |= {"flatness": 0.4}  # as its recordings: not found bad
    path.write_text(json.dumps(stats))
    html, page = made(settings)
    assert re.findall(r'<td class="bad">([^<]*)</td>', html) == ["✗ no", "✗ 0.400"]
    of_a_waveform = {check.figure for check in (*checks.SILENCE, *checks.CHECKS)} & set(
        checks.measured(measure(np.zeros(9), 24_000), Heard())
    )
    assert of_a_waveform == set(checks.LABELS)
    assert all(label in page.text for label, _ in checks.LABELS.values())


def test_the_stages_are_those_that_made_this_page(tmp_path: Path):
    """The state of a report is of the one before, and its counts are of other samples."""
    settings = fill(tmp_path)
    old = {"stage": "report", "seconds": 0.5, "finished": "2026-01-01T00:00:00", "counts": {"samples": 77, "failed": 0}}
    (settings.paths.state / "report.json").write_text(json.dumps(old))
    html, _ = made(settings)
    assert '<th scope="row">train</th>' in html
    assert '<th scope="row">report</th>' not in html and "samples: 77" not in html


def test_a_page_comes_out_of_an_empty_work_directory(tmp_path: Path):
    html, page = made(Settings(work_dir=tmp_path))
    for section in ("No samples yet", "No training log yet", "No figures about the data yet", "No stage has finished"):
        assert section in html
    assert page.all("audio") == [] and page.all("svg") == []


def test_a_sound_that_is_gone_or_too_large_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = fill(tmp_path)
    monkeypatch.setattr(embedded, "MOST", len(made(settings)[1].all("audio")[0]["src"]))
    _, page = made(settings)
    assert [one["src"][:11] for one in page.all("audio")] == ["data:audio/", "../samples/"]
    next(settings.paths.samples.glob("01*")).unlink()
    assert [one["src"][:11] for one in made(settings)[1].all("audio")] == ["../samples/"] * 2


def test_the_page_is_written_anew_at_each_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While training, from the logs alone: speech of an earlier run is not shown as if it were this one's."""
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    settings = fill(tmp_path)
    with live.page(settings):
        time.sleep(0.1)
        assert not settings.paths.report.exists(), "nothing new yet"
        with settings.paths.validation_log.open("a") as log:
            log.write('{"step": 400, "loss": 0.125, "talker_loss": 1.0}\n')
        while not settings.paths.report.exists():
            time.sleep(0.01)
    page = Page(settings.paths.report.read_text(encoding="utf-8"))
    assert "Training is in progress" in page.text and "0.125" in page.text
    assert page.all("audio") == []


def test_what_was_measured_on_training_rows_is_not_called_validation(tmp_path: Path):
    """Without validation rows the log of validations holds losses on training rows, which any memory makes small."""
    settings = fill(tmp_path)
    assert "Best validation loss" in made(settings)[1].text
    log = [{"step": step, "loss": 1 / step, "split": "train"} for step in (100, 200)]
    settings.paths.validation_log.write_text("".join(json.dumps(one) + "\n" for one in log))
    page = made(settings)[1]
    assert (
        "Best loss on training rows" in page.text and "as there are no validation rows: 0.01 at step 100" in page.text
    )
    assert "validation: 0" not in page.text and "Best validation" not in page.text


def test_the_page_is_named_after_those_who_speak(tmp_path: Path):
    """SPEAKER_NAME is the name for rows that name none, and may be nobody's."""
    settings = fill(tmp_path, speaker_name="speaker")
    summary = {"speakers": {"emil": {"rows": 3}, "ada": {"rows": 3}}}
    (settings.paths.prepared / "summary.json").write_text(json.dumps(summary))
    html, page = made(settings)
    assert "Voices “ada”, “emil”" in page.text and "<title>Voices ada, emil: training report</title>" in html


def test_judges_that_judged_nothing_and_warnings_are_told_without_any_figure(tmp_path: Path):
    settings = fill(tmp_path)
    path = settings.paths.samples / "stats.json"
    stats = json.loads(path.read_text())
    deaf = {"by": "a recogniser", "rated": 0, "kept": 0, "failed": 0, "seconds": 0.0, "reason": "out of memory"}
    path.write_text(json.dumps({**stats, "judges": {"intelligibility": deaf}, "warnings": ["Cloning: lost"]}))
    page = made(settings)[1]
    assert "intelligibility: a recogniser judged nothing: out of memory" in page.text and "Cloning: lost" in page.text


def test_figures_have_words_and_units_and_no_notation_of_a_program(tmp_path: Path):
    settings = fill(tmp_path)
    quality = {"durations": [{"from": 0.0, "to": 0.5, "rows": 3}, {"from": 30.0, "to": None, "rows": 1}]}
    settings.paths.quality.write_text(json.dumps(quality))
    path = settings.paths.samples / "stats.json"
    stats = json.loads(path.read_text())
    stats["summary"] |= {"stopped_by_eos": 1}
    stats["samples"][0]["asymmetry"] = -0.001
    path.write_text(json.dumps(stats))
    page = made(settings)[1]
    assert "0–0.5: 3, from 30: 1" in page.text
    assert "word error rate 12.5 % · stopped by themselves 1" in page.text
    assert "-0.00" not in page.text


def test_sentences_of_training_are_told_from_unseen_ones(tmp_path: Path):
    settings = fill(tmp_path)
    path = settings.paths.samples / "stats.json"
    stats = json.loads(path.read_text())
    for one, origin in zip(stats["samples"], ("train", "test"), strict=True):
        one["origin"] = origin
    stats["by_origin"] = by_origin(stats["samples"])
    path.write_text(json.dumps(stats))
    html, page = made(settings)
    assert "non-streaming · training sentence" in page.text and "non-streaming · unseen text" in page.text
    assert '<th scope="col">Training sentences</th><th scope="col">Unseen texts</th>' in html
    assert re.search(r">Fail a check</th><td>0</td><td>1</td>", html)


def test_damaged_pieces_do_not_stop_the_page(tmp_path: Path):
    settings = fill(tmp_path)
    judged(settings)
    whole = json.loads((settings.paths.samples / "stats.json").read_text())
    for damage in ({"comparison": [{"figure": "mos"}, 3]}, {"compared": [1], "judges": {"mos": 1}, "summary": None}):
        (settings.paths.samples / "stats.json").write_text(json.dumps({**whole, **damage}))
        assert "What it sounds like" in made(settings)[1].text
    (settings.paths.samples / "stats.json").write_text('{"samples": [{"file"')
    settings.paths.quality.write_text("[]")
    settings.paths.training_log.write_text('{"step": 1, "loss": NaN}\nnonsense\n[]\n{"step": null}\n')
    _, page = made(settings)
    assert "not finite" in page.text and "No samples yet" in page.text


def test_a_step_that_a_resumed_run_logs_again_counts_once(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 2, "loss": 5}\n{"step": 3, "loss": 4}\n{"step": 2, "loss": 1}\n')
    assert [(one["step"], one["loss"]) for one in report.read_log(log)] == [(2, 1), (3, 4)]


def test_texts_of_the_data_are_inert(tmp_path: Path):
    html, page = made(fill(tmp_path))
    assert page.all("script") == [] and page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert ATTACK in page.text
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert "<script" not in html


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path):
    html, page = made(fill(tmp_path))
    used = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert used and all(value.startswith(("data:audio/mpeg;base64,", "../data/")) for value in used)
    assert "http://" not in html and "https://" not in html and "url(" not in html


def test_the_token_is_not_on_the_page_whatever_way_it_came(tmp_path: Path):
    (tmp_path / "token").write_text("s3cret-without-a-prefix\n")
    by_variable = fill(tmp_path / "a", hf_token=TOKEN, test_texts=f"say {TOKEN}")
    by_file = fill(tmp_path / "b", hf_token_file=tmp_path / "token", ref_text="s3cret-without-a-prefix")
    unreadable = fill(tmp_path / "c", hf_token_file=tmp_path / "none", test_texts=TOKEN)
    for settings in (by_variable, by_file, unreadable):
        html, page = made(settings)
        assert TOKEN not in html and "s3cret" not in html
        assert "HF_TOKEN" in page.text and "***" in page.text


def test_everything_that_is_seen_can_be_heard_or_read_out(tmp_path: Path):
    html, page = made(fill(tmp_path))
    assert page.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in one.get("content", "") for one in page.all("meta"))
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        for target in attributes.get("aria-labelledby", "").split():
            assert target in identifiers
    assert all("scope" in one for one in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert "prefers-color-scheme: dark" in html


def drawing(*lines: Line) -> ElementTree.Element:
    return ElementTree.fromstring(str(charts.line_chart("Loss <of> it", lines, "c")))


def test_a_chart_shows_every_finite_value_inside_its_frame_and_says_what_it_left_out():
    rng = np.random.default_rng(0)
    points = [(step, 10 ** rng.uniform(-4, 1)) for step in range(1000)] + [(1000, math.nan), (1001, math.inf)]
    svg = drawing(Line("training", points, "train"), Line("validation", [(5, 1e-5)], "validation"))
    assert svg.attrib["role"] == "img"
    assert "2 values are not finite" in "".join(svg.itertext())
    assert "logarithmic" in "".join(svg.itertext())
    polylines = [one.attrib["points"].split() for one in svg.iter("polyline")]
    assert 100 < len(polylines[0]) <= charts.MOST_POINTS
    for x, y in (map(float, point.split(",")) for points in polylines for point in points):
        assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM


def test_higher_values_are_drawn_higher_and_later_steps_further_right():
    svg = drawing(Line("training", [(1, 3.0), (2, 1.0), (3, 2.0)], "train"))
    (line,) = (one.attrib["points"].split() for one in svg.iter("polyline"))
    (x1, y1), (x2, y2), (x3, y3) = (tuple(map(float, point.split(","))) for point in line)
    assert x1 < x2 < x3 and y1 < y3 < y2


@pytest.mark.parametrize("points", [[(7, 2.5)], [(1, 0.0), (2, 0.0)], [(1, -1.0), (2, 1e9)], [(1, 1e-9), (2, 2e-9)]])
def test_odd_values_make_a_drawing_too(points: list[tuple[float, float]]):
    assert len(list(drawing(Line("training", points, "train")).iter("polyline"))) == 1


def test_no_finite_value_is_no_chart():
    assert charts.line_chart("Loss", [Line("training", [(1, math.nan)], "train")], "c") is None


def chromium(*arguments: str, page: Path, profile: Path) -> str:
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update"]  # fmt: skip
    command = [str(CHROMIUM), *switches, f"--user-data-dir={profile}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_page_and_runs_nothing_in_it(tmp_path: Path):
    settings = fill(tmp_path / "work")
    report.run(settings)
    shot = tmp_path / "page.png"
    size = ["--window-size=1200,2400", f"--screenshot={shot}"]
    dom = chromium("--dump-dom", page=settings.paths.report, profile=tmp_path / "profile")
    assert "<title>Voice speaker: training report</title>" in dom  # the script of a text would have changed it
    chromium(*size, page=settings.paths.report, profile=tmp_path / "profile")
    assert shot.stat().st_size > 20_000
