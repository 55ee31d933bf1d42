"""One request, from recordings to a published voice: every stage real, the Hub a local one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hub.server import WRITE, Hub
from tests.runpod_handler.platform import Platform, deployed
from tests.runpod_handler.worker import RUNPOD, TOP, lines_of


@pytest.mark.slow
def test_a_request_is_a_voice_and_the_same_request_again_is_nothing_to_do(sdk: Path, tmp_path: Path) -> None:
    """The example input of the templates, published: stages, samples and the repo's commit are in the result."""
    volume = tmp_path / "volume"
    volume.mkdir()
    given = json.loads((RUNPOD / "test_input.json").read_text())["input"]
    given["variables"] |= {"HF_REPO_ID": "alice/voice", "BASE_MODEL_ID": "alice/base", "MAX_NEW_TOKENS": 8}
    given["credentials"] = {"hf_token": WRITE}
    with Hub() as hub, Platform() as platform:
        hub.add_repo("model", "alice/base", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
        endpoint = hub.env(tmp_path / "cache")["HF_ENDPOINT"]
        with deployed(sdk, TOP, volume, platform, HF_ENDPOINT=endpoint):
            platform.give("one", given)
            first = platform.result("one", 400)
            platform.give("two", given)
            second = platform.result("two", 120)
        published = {name for _, name in hub.repos}
    assert "error" not in first, first
    result = first["output"][-1]
    assert list(result["stages"]) == [
        "doctor", "fetch", "prepare", "train", "validate", "push", "synthesize", "report",
    ]  # fmt: skip
    assert result["stages"]["train"]["counts"]["steps"] == 2
    assert "alice/voice" in published and result["repo"]["repo"] == "alice/voice"
    assert len(result["repo"]["commit"]) == 40 and result["repo"]["url"].endswith("/alice/voice")
    assert result["samples"]["count"] == len(result["samples"]["files"]) > 0
    assert (Path(result["samples"]["directory"]) / result["samples"]["files"][0]["file"]).is_file()
    assert Path(result["report"]).is_file() and Path(result["output_dir"], "best", "config.json").is_file()
    assert [update["stage"] for update in platform.progress["one"]][-1] in ("synthesize", "report")
    assert WRITE not in json.dumps([first, second, platform.streamed])

    again = second["output"][-1]
    assert again["stages"]["train"] == result["stages"]["train"], "training was not done again"
    assert sum("nothing to do" in line for line in lines_of(second["output"])) >= 6
