"""The command line: `python -m job <command>`. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from job.core import console, errors, stopping, storage

app = typer.Typer(
    help="Turn recordings into a published, fine-tuned Qwen3-TTS voice. Environment variables drive it; "
    "`settings` lists them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    first: Annotated[str, typer.Option("--from", help="First stage.")] = "doctor",
    last: Annotated[str, typer.Option("--until", help="Last stage.")] = "report",
    launcher: Annotated[int, typer.Option("--launcher", hidden=True)] = 0,
    taking_part: Annotated[int, typer.Option("--nodes", hidden=True)] = 1,
    own_disks: Annotated[bool, typer.Option("--own-disks", hidden=True)] = False,
    attempt: Annotated[int, typer.Option("--attempt", hidden=True)] = 0,
) -> None:
    """Run all stages in order, on all GPUs; finished stages are skipped."""
    _run(first, last, launcher, taking_part, own_disks=own_disks, attempt=attempt)


def _run(
    first: str, last: str, launcher: int = 0, taking_part: int = 1, *, own_disks: bool = False, attempt: int = 0
) -> None:
    """Run stages in this process, or in one process per GPU.

    Args:
        launcher: of those processes, their launcher's process id.
        taking_part: the number of nodes that run these stages; where each has its own disk, only node 0 prepares.
        own_disks: whether each node has a WORK_DIR of its own.
        attempt: how often they have been started before.
    """
    from job import launch, pipeline, stages
    from job.processes import joining, per_node

    settings = _settings()
    if launcher:
        settings = settings.model_copy(update={"num_nodes": taking_part})
        settings = per_node.on_own_disk(settings) if own_disks else settings
        trains = "train" in [stage.name for stage in stages.between(settings, first, last)]
        with joining.joined(settings, launcher, trains=trains, own_disks=own_disks, attempt=attempt) as joined:
            pipeline.run(settings, first, last, joined)
    elif launch.is_spread(settings, first, last):
        launch.run(settings, first, last)
    elif 0 < settings.node_rank < settings.num_nodes:
        console.say("run", f"node {settings.node_rank}: nothing to do here; only node 0 runs this command")
    else:
        pipeline.run(settings, first, last)


def _stage_command(name: str, about: str) -> None:
    def command() -> None:
        _run(name, name)

    app.command(name, help=about)(command)


for _name, _about in {
    "doctor": "Check settings, data, base model, disk, GPU and token before anything is spent.",
    "fetch": "Read the data source and write the raw manifest.",
    "prepare": "Check the audio, encode it, embed the speakers and split off validation rows.",
    "train": "Train and write output/best and output/last.",
    "validate": "Write and check the model card and the checkpoint's files.",
    "push": "Publish to the Hub.",
    "synthesize": "Speak the test texts and measure the speech.",
}.items():
    _stage_command(_name, _about)


@app.command()
def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="With --compare: the runs' work directories.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare these runs on one page.")] = False,
) -> None:
    """Write report/index.html, or with --compare RUN… report/compare.html."""
    if compare != bool(runs):
        raise errors.BadInput("runs are compared by `report --compare RUN RUN…`, their work directories")
    if runs:
        from job.evaluate.compare_runs import compare as side_by_side

        side_by_side(_settings(), runs)
    else:
        _run("report", "report")


@app.command()
def watch() -> None:
    """Show a run in progress: its stage, losses, the time left, and its log."""
    from job.watch import watch as follow

    follow(_settings(quiet=True))


@app.command()
def evaluate() -> None:
    """Speak the test texts again and rewrite the report."""
    from job import pipeline

    pipeline.run(_settings(), "synthesize", "report")


@app.command()
def say(
    text: Annotated[str | None, typer.Argument(help="What to say.")] = None,
    file: Annotated[list[Path] | None, typer.Option(help="A text to read aloud instead; may be given again.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Who says it; by default the checkpoint's first speaker.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="The WAV to write, or with --file a folder; by default said.wav, said in WORK_DIR."),
    ] = None,
) -> None:
    """Speak a text with output/best, and play it if a player is installed; or read files aloud."""
    if (text is None) == (not file):
        raise errors.BadInput('say: give a text (say "Good morning.") or files (--file chapter-1.txt), one of the two')
    if text is None:
        from job.evaluate.narrate import narrate

        narrate(_settings(), file or [], speaker, to)
    else:
        from job.evaluate.say import play
        from job.evaluate.say import say as speak

        play(speak(_settings(), text, speaker, to))


@app.command()
def cloning(
    to: Annotated[Path | None, typer.Argument(help="The folder to write; by default cloning in OUTPUT_DIR.")] = None,
) -> None:
    """Make a model of output/best that clones other people's voices, as the Base models do."""
    from job.model.voices import write_cloning_model

    write_cloning_model(_settings(), to)


@app.command()
def plan() -> None:
    """Estimate steps, memory and hours from the settings and the prepared data."""
    from job import doctor
    from job.estimate.plan import print_plan

    loaded = _settings()
    doctor.check_training(loaded)
    print_plan(loaded)


@app.command()
def settings() -> None:
    """Print a table of all variables: name, aliases, default, meaning."""
    from job.config.settings_table import markdown

    print(markdown(), end="")


@app.command()
def demo() -> None:
    """Train the tiny built-in model on the built-in clips until it recites them."""
    from job.demo_run import run_demo

    run_demo()


@app.command("upload-log", hidden=True)
def upload_log() -> None:
    """Upload the console log, secrets redacted, when UPLOAD_LOGS is true."""
    from job.publish.push import upload_log as upload

    loaded = _settings(quiet=True)  # the run itself has already printed the warnings
    if loaded.upload_logs:
        upload(loaded)


@app.command(hidden=True)
def notify(code: Annotated[int, typer.Argument(help="The run's exit code.")]) -> None:
    """Send a message to NOTIFY_URL that the run has ended with this exit code."""
    from job import notify as messages

    try:
        loaded = _settings(quiet=True)
    except errors.BadInput:  # the run has printed it already
        messages.send_about_settings(os.environ, code)
    else:
        messages.send(loaded, code)


def _settings(*, quiet: bool = False) -> Any:
    from job.config import settings as variables

    loaded = variables.load(quiet=quiet)
    with contextlib.suppress(errors.BadInput):  # of a token that cannot be read: whoever needs it says so
        console.mask(loaded.secrets)
    stopping.set_grace(loaded.grace_seconds)
    return loaded


def main() -> None:
    """Run the command line and exit with the exit code for the kind of failure."""
    try:
        _main()
    except BaseException as error:
        from job.processes import joining

        joining.end_at_once(error)
        raise


def _main() -> None:
    console.mask_tracebacks()
    stopping.install()
    try:
        try:
            _answer()
        finally:  # all that is left is to say why: a signal must not interrupt that
            stopping.ignore()
    except (errors.JobError, errors.StoppedBySignal) as error:
        _fail(str(error), error.exit_code)
    except errors.FollowedRank as error:
        sys.exit(error.exit_code)
    except typer.Exit as request:
        sys.exit(request.exit_code)
    except OSError as error:
        if isinstance(error, PermissionError) and error.filename is not None:
            _fail(_denied(error), errors.BAD_INPUT)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            try:
                if error.filename is not None:  # else it may be a connection's
                    storage.check(error)
            except errors.StorageFailed as failed:
                _fail(str(failed), failed.exit_code)
            raise
        _fail(f"{error.strerror} ({error.filename}); free some space or set WORK_DIR and OUTPUT_DIR", errors.BAD_INPUT)
    except TyperException as error:
        _fail(f"{error}; see python -m job --help", errors.BAD_INPUT)


def _denied(error: PermissionError) -> str:
    from job.config import denied
    from job.config import settings as variables

    try:
        return denied.told(error, variables.load(quiet=True))
    except (errors.BadInput, OSError):
        return denied.told(error, None)


def _answer() -> None:
    """Run the command; a signal's exception that a library turned into another one is restored.

    Raises:
        StoppedBySignal: for any error after a signal has arrived.
    """
    try:
        app(standalone_mode=False)
    except Exception as error:
        if (why := stopping.stopped()) is not None:
            raise errors.StoppedBySignal(why) from error
        raise


def _fail(message: str, code: int) -> NoReturn:
    from job.core.redact import redact

    line = redact(" ".join(message.split()))  # a rejected value may be a URL with a token in it
    if line:  # empty when the process that failed has already printed the reason
        print(console.line("error", "run", line, exit_code=code), file=sys.stderr, flush=True)
    sys.exit(code)
