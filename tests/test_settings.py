"""Variables: read once, validated, explained, and never leaking a secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.config import settings as variables
from job.config.presets import PRESETS
from job.config.settings_table import BEGIN, END, markdown
from job.core.errors import BadInput
from tests.support.commands import run_job

NAMED = {"TRAIN_JSONL": "rows.jsonl"}  # so that the embedded demo's preset does not apply
ALL_NAMES = [name for v in variables.variables() for name in (v.name, *v.aliases)]


def test_names_and_aliases_are_unique():
    """No two variables share a name."""
    assert len(ALL_NAMES) == len(set(ALL_NAMES))


def test_no_two_names_are_one_typo_apart():
    """A correct name is never taken for a misspelling of another one."""
    for name in ALL_NAMES:
        variables.load({**NAMED, name: ""})


@pytest.mark.parametrize("variable", [v for v in variables.variables() if v.aliases], ids=lambda v: v.name)
def test_aliases_mean_the_same(variable, tmp_path):
    """The names that people bring from other tools set the same variable; the canonical name and alias may agree."""
    sample = {"GRADIENT_ACCUMULATION_STEPS": "3", "NODE_RANK": "1", "LORA_MLP": "false", "UPLOAD_TO_HUB": "false"}
    value = sample.get(variable.name, "0.5" if isinstance(variable.default, float) or "LR" in variable.name else "a/b")
    if variable.name == "MAX_HOURS":
        value = "2"
    expected = getattr(variables.load({**NAMED, variable.name: value}), variable.field)
    assert expected != variable.default
    for alias in variable.aliases:
        assert getattr(variables.load({**NAMED, alias: value, variable.name: value}), variable.field) == expected
        assert getattr(variables.load({**NAMED, alias: value}), variable.field) == expected


def test_aliases_that_disagree_are_refused():
    """LR=1e-4 and LEARNING_RATE=1e-5: neither is silently dropped."""
    with pytest.raises(BadInput, match=r"LEARNING_RATE='1e-5' and LR='1e-4'"):
        variables.load({**NAMED, "LR": "1e-4", "LEARNING_RATE": "1e-5"})


def test_environment_beats_file_beats_preset(tmp_path):
    """Strongest first: environment, .env, preset, default."""
    env_file = tmp_path / "my.env"
    env_file.write_text("PRESET=norwegian-stable\nLORA_R=7\nBATCH_SIZE=9 # a comment\nTEXT_LAYOUT='mixed'\n")
    loaded = variables.load({**NAMED, "ENV_FILE": str(env_file), "BATCH_SIZE": "2"})
    assert (loaded.batch_size, loaded.lora_r, loaded.lora_alpha, loaded.text_layout) == (2, 7, 8, "mixed")
    assert loaded.save_steps == 500


def test_an_alias_overrides_the_preset():
    """PRESET=norwegian-stable sets LEARNING_RATE; the user's LORA_LR wins."""
    assert variables.load({**NAMED, "PRESET": "norwegian-stable", "LORA_LR": "3e-6"}).learning_rate == 3e-6


def test_env_file_is_found_in_the_current_directory(tmp_path, monkeypatch):
    """A plain .env beside the run is read without being named."""
    (tmp_path / ".env").write_text("SPEAKER_NAME=kathrine\n")
    monkeypatch.chdir(tmp_path)
    assert variables.load({}).speaker_name == "kathrine"


def test_missing_env_file_is_refused(tmp_path):
    """A named file that is not there is a mistake."""
    with pytest.raises(BadInput, match="ENV_FILE"):
        variables.load({"ENV_FILE": str(tmp_path / "none.env")})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_hold_known_valid_variables(name):
    """Every preset loads, and consists of declared variables."""
    assert set(PRESETS[name]) <= set(variables.Settings.model_fields)
    variables.load({**NAMED, "PRESET": name})


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(BadInput, match="norwegian-stable"):
        variables.load({**NAMED, "PRESET": "norwegian"})


def test_nothing_named_is_the_demo():
    """`docker run` with no variables tries itself on the embedded model and clips; any name of one's own does not."""
    assert variables.load({}).init_model_path == "demo"
    assert variables.load({"SPEAKER_NAME": "me"}).init_model_path.startswith("Qwen/")


@pytest.mark.parametrize(
    "value", ["en_GB:en", "nb_NO.UTF-8", "C", "C.UTF-8", "POSIX", "ca@valencia", "de_AT:de:en", "pt:"]
)
def test_gettext_language_is_not_ours(capsys, value):
    """Desktops set LANGUAGE=en_GB:en; that is not the language of the recordings."""
    assert variables.load({**NAMED, "LANGUAGE": value}).language == "Auto"
    assert not capsys.readouterr().err


@pytest.mark.parametrize("variable", ["LANG", "LC_ALL", "LC_MESSAGES"])
@pytest.mark.parametrize("value", ["nb_NO", "sw_KE"])
def test_one_locale_is_the_systems_where_the_system_is_set_to_it(capsys, value, variable):
    """Alone it may be either: taken for the speech's, unless the system says the same; and said, both times."""
    assert variables.load({**NAMED, "LANGUAGE": value, variable: f"{value}.UTF-8"}).language == "Auto"
    assert f"LANGUAGE={value}" in capsys.readouterr().err
    assert variables.load({**NAMED, "LANGUAGE": value, variable: "C.UTF-8"}).language == value
    assert f"LANGUAGE={value} is used as the language of the recordings" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["Hausa", "de", "no", "new:My Own Tongue", "new:ab"])
def test_a_language_is_no_locale(capsys, value):
    """Names, codes, and names that are insisted on (whose colon makes them no list)."""
    assert variables.load({**NAMED, "LANGUAGE": value, "LANG": "de_DE.UTF-8"}).language == value
    assert not capsys.readouterr().err


@given(st.sampled_from([n for n in ALL_NAMES if len(n) >= 6]), st.data())
def test_one_typo_is_reported_with_the_right_name(name, data):
    """Any single dropped, doubled, swapped or changed letter of any name is refused with a hint."""
    at = data.draw(st.integers(0, len(name) - 2))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    wrong = data.draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],
                name[:at] + name[at] + name[at:],
                name[:at] + name[at + 1] + name[at] + name[at + 2 :],
                name[:at] + letter + name[at + 1 :],
            ]
        )
    )
    if wrong in ALL_NAMES or len(wrong) < 5:
        return
    with pytest.raises(BadInput, match=re.escape(wrong)):
        variables.load({**NAMED, wrong: "1"})


@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=30))
def test_other_programs_variables_are_left_alone_or_named(name):
    """Whatever else is in the environment either is ignored or refused by name; nothing crashes."""
    try:
        variables.load({**NAMED, name: ""})
    except BadInput as refusal:
        assert name in str(refusal)


@given(st.sampled_from(list(variables.variables())), st.text(max_size=20))
def test_any_value_is_accepted_or_refused_in_one_line(variable, value):
    """Garbage in any variable: either it is a valid value, or one line names the variable."""
    if "\0" in value or variable.name == "ENV_FILE":
        return
    try:
        variables.load({**NAMED, variable.name: value})
    except BadInput as refusal:
        assert variable.name in str(refusal)
        assert "\n" not in str(refusal).replace(repr(value), "")


@pytest.mark.parametrize(("name", "means"), [("LICENSE_LINK", "its address"), ("DEVICE", "`cuda:0`")])
def test_a_value_of_the_wrong_form_is_told_the_right_one_in_words(name, means):
    with pytest.raises(BadInput, match=f"^{name}='%': .*{means}") as refused:
        variables.load({**NAMED, name: "%"})
    assert "^" not in str(refused.value), "no regular expression"


def test_tokens_are_never_shown():
    """Neither printing nor dumping nor a failed validation shows HF_TOKEN."""
    secret = "hf_" + "Zq8" * 11
    loaded = variables.load({**NAMED, "HF_TOKEN": secret})
    assert loaded.token == secret
    for shown in (repr(loaded), str(loaded.public()), str(loaded.fingerprint_values())):
        assert secret not in shown
    with pytest.raises(BadInput) as refusal:
        variables.load({**NAMED, "HF_TOKEN": secret, "MAX_STEPS": "x"})
    assert secret not in str(refusal.value)


def test_token_from_a_file(tmp_path):
    """A mounted secret is read where it is needed, stripped of its newline; a missing one is named."""
    path = tmp_path / "token"
    path.write_text("hf_fromfile\n")
    assert variables.load({**NAMED, "HF_TOKEN_FILE": str(path)}).token == "hf_fromfile"
    with pytest.raises(BadInput, match="HF_TOKEN_FILE"):
        _ = variables.load({**NAMED, "HF_TOKEN_FILE": str(tmp_path / "none")}).token


@pytest.mark.parametrize("text", ["# mine\nhf_abcdefghij\n", "hf_abc defghij", "hf_äöü", "\0hf_abcdefghij"])
def test_what_is_more_than_a_token_is_refused_before_it_is_sent(tmp_path, text):
    """In a header it would be refused by the client, in words that repeat it."""
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"HF_TOKEN_FILE=.* must hold the token alone") as refused:
        _ = variables.load({**NAMED, "HF_TOKEN_FILE": str(path)}).token
    assert "hf_" not in str(refused.value).replace(str(path), "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=r"HF_TOKEN_FILE=.* is not a text file"):
        _ = variables.load({**NAMED, "HF_TOKEN_FILE": str(path)}).token


def test_a_home_directory_in_an_env_file_is_found(tmp_path, monkeypatch):
    """No shell expands `~` there; a log in a folder called `~` is no log."""
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = variables.load({**NAMED, "CONSOLE_LOG": "~/log.txt", "HF_TOKEN_FILE": "~/token"})
    assert (loaded.console_log, loaded.hf_token_file) == (tmp_path / "log.txt", tmp_path / "token")
    with pytest.raises(BadInput, match=r"CONSOLE_LOG=.*no such user"):
        variables.load({**NAMED, "CONSOLE_LOG": "~nobody-of-that-name/log.txt"})


def test_a_token_in_the_wrong_variable_is_not_repeated(capsys):
    """The refusal names the variable; a token in an address is masked in it."""
    secret = "hf_" + "Zq8" * 11
    result = run_job(capsys, ["plan"], {**NAMED, "HF_REPO_ID": f"https://me:{secret}@huggingface.co/me/voice"})
    assert result.code == 2 and result.errors[0].startswith("error: HF_REPO_ID=")
    assert secret not in result.err


@pytest.mark.parametrize("name", ["TRAIN_JSONL", "DATA_DIR", "INIT_MODEL_PATH", "RESUME", "REF_AUDIO_PATH", "WORK_DIR"])
def test_rows_in_place_of_their_file_are_refused_by_name(name):
    """The system's own refusal to look for a file of such a name is no traceback, and not repeated at length."""
    with pytest.raises(BadInput, match=f"^{name}=.*too long for a file name") as refused:
        variables.load({**NAMED, name: '{"audio": "a.wav", "text": "Hello."}' * 100})
    assert len(str(refused.value)) < 400
    variables.load({**NAMED, name: "/".join(["folder"] * 100)})


@pytest.mark.parametrize(("name", "value"), [("SEED", 10**30), ("TEMPERATURE", "inf")])
def test_numbers_that_torch_cannot_take_are_refused(name, value):
    """In minute one, and not by torch in hour ten."""
    with pytest.raises(BadInput, match=f"^{name}="):
        variables.load({**NAMED, name: str(value)})
    variables.load({**NAMED, "SEED": str(2**63 - 1)})


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "0"])
def test_patience_has_an_end(value):
    """A stopped run that nothing ends would be killed without a word."""
    with pytest.raises(BadInput, match="GRACE_SECONDS"):
        variables.load({**NAMED, "GRACE_SECONDS": value})


def test_settings_prints_the_table_of_the_page_of_variables(capsys):
    """`python -m job settings` and the table in docs/variables.md are the same text."""
    page = (Path(__file__).parent.parent / "docs/variables.md").read_text()
    table = page.split(BEGIN)[1].split(END)[0].strip()
    assert table == markdown().strip()
    assert run_job(capsys, ["settings"], {}).out.strip() == table


def test_the_readme_names_variables_with_their_defaults():
    """Its table is a choice from the whole one, in other words, and with the same names and defaults."""
    rows = r"^\| `([A-Z_]+)`.*? \| (.*?) \| .+ \|$"
    defaults = dict(re.findall(rows, markdown(), re.MULTILINE))
    chosen = dict(re.findall(rows, (Path(__file__).parent.parent / "README.md").read_text(), re.MULTILINE))
    assert len(chosen) >= 12 and chosen.items() <= defaults.items()


def test_every_variable_is_used():
    """A variable that nothing reads would be a promise that is not kept."""
    package = Path(__file__).parent.parent / "job"
    source = "\n".join(
        p.read_text()
        for p in package.rglob("*.py")
        if p.name not in ("settings.py", "variables.py", "presets.py", "settings_table.py", "names.py")
    )
    shell = (package.parent / "entrypoint.sh").read_text()
    unused = [
        v.name
        for v in variables.variables()
        if not re.search(rf"\b{v.field}\b", source) and f"s.{v.field}" not in shell and v.name not in INSIDE_SETTINGS
    ]
    assert unused == []


#: Read by settings.py itself.
INSIDE_SETTINGS = {"ENV_FILE", "PRESET", "WORK_DIR", "OUTPUT_DIR", "HF_TOKEN", "HF_TOKEN_FILE", "LOG_FORMAT"}
