"""Convert a Hub dataset that is a loading script to Parquet, once, by running its script where it can do no harm.

The repo's files are downloaded by this process, which has the token, when the script asks for them. The script runs in
another one, without a token, by `confine.py`; what it leaves is looked at before it is used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config.settings import Settings, environment
from job.core import console, files
from job.core.errors import NO_CONNECTION, BadInput, Unreachable
from job.core.redact import one_line
from job.fetch.scripted import child, confine, own_environment

_HERE = Path(__file__).parent
_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*?)(?:-\d{5}-of-\d{5})?\.parquet", re.ASCII)
#: What a script and `datasets` look for beside it without asking.
_FIRST = ("*.py", "README.md", "dataset_infos.json")
#: Downloads side by side.
_DOWNLOADS = 8
_ENVIRONMENT_BYTES = 1 << 29
_ERROR_BYTES = 1 << 16


@dataclass(frozen=True)
class Scripted:
    """A dataset with a loading script, at one commit, and the names of its files."""

    settings: Settings
    commit: str
    listing: tuple[str, ...]

    @property
    def name(self) -> str:
        """`owner/name`."""
        return str(self.settings.dataset_name)

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"DATASET_NAME={self.name}"

    @property
    def folder(self) -> Path:
        """Where its Parquet files are once it is converted; another commit, configuration or lock has another one."""
        of = json.dumps([self.name, self.commit, self.settings.dataset_config, own_environment.lock_digest()])
        slug = re.sub(r"[^\w-]+", "-", self.name)[:60]
        return self.settings.paths.scripted / f"{slug}-{files.digest_bytes(of.encode())[:16]}"

    def splits(self) -> dict[str, list[str]] | None:
        """Split -> its Parquet files; None before it is converted."""
        if not self.folder.is_dir():
            return None
        found: dict[str, list[str]] = {}
        for path in sorted(self.folder.glob("*.parquet")):
            if shard := _SHARD.fullmatch(path.name):
                found.setdefault(shard["split"], []).append(str(path))
        return found

    def check(self) -> str:
        """Return what `convert` will do, as a phrase, and refuse a machine on which it cannot.

        Raises:
            BadInput: the kernel cannot confine a script, Python cannot make environments, or the disk is too small.
        """
        import huggingface_hub

        self._confinable()
        if not own_environment.is_made(self.settings.paths.scripted):
            own_environment.check()
        info = huggingface_hub.HfApi().dataset_info(
            self.name, revision=self.commit, files_metadata=True, token=self.settings.token
        )
        size = sum(one.size or 0 for one in info.siblings or ())
        work = self.settings.paths.work
        free = shutil.disk_usage(work).free
        if free < _ENVIRONMENT_BYTES:
            raise BadInput(
                f"WORK_DIR={work} has {free / 1e9:.1f} GB free, but running a loading script takes more than "
                f"{_ENVIRONMENT_BYTES / 1e9:.1f} GB; free some space or set another WORK_DIR"
            )
        return (
            "a loading script, which fetch runs once, confined and without a token, and which may ask for "
            f"{size / 1e9:.2f} GB of its repo; columns and splits show only then"
        )

    def convert(self) -> dict[str, list[str]]:
        """Convert it unless that is done already; return split -> Parquet files.

        Raises:
            BadInput: the script fails, or leaves no Parquet files; the machine cannot confine it.
            Unreachable: the script could not reach an address.
        """
        import huggingface_hub

        done = self.splits()
        if done is not None:
            return done
        self._confinable()
        within = self.settings.paths.scripted
        interpreter = own_environment.make(within, environment())
        own = self.folder.with_name(f".{self.folder.name}{files.TEMPORARY_SUFFIX}")
        shutil.rmtree(own, ignore_errors=True)
        snapshot = huggingface_hub.snapshot_download(
            self.name,
            repo_type="dataset",
            revision=self.commit,
            token=self.settings.token,
            allow_patterns=list(_FIRST),
        )
        console.say("fetch", f"running the loading script of {self.name}, confined to {own}")
        try:
            own.mkdir()
            self._run(interpreter, Path(snapshot), own)
            rows = self._examine(own / "out")
            for path in (own / "out").iterdir():
                files.sync_file(path)
            files.sync_directory(own / "out")
            os.replace(own / "out", self.folder)
        finally:
            shutil.rmtree(own, ignore_errors=True)
        files.sync_directory(within)
        console.say("fetch", f"converted {self.name}: {rows} rows, in {self.folder}")
        return self.splits() or {}

    def _confinable(self) -> None:
        """Refuse a kernel or container that cannot confine a script, by confining a program that does nothing."""
        work = self.settings.paths.work
        command = _confined(sys.executable, [], [], Path(os.devnull), {})
        code, output = child.run(command, {"LANG": "C.UTF-8"}, work if work.is_dir() else Path("/"), lambda _: None)
        if code:
            raise BadInput(
                f"DATASET_TRUST_REMOTE_CODE=true: a loading script cannot be confined here "
                f"({one_line(child.last_line(output))}); it needs Linux 5.13 or newer with Landlock on x86_64 or "
                "aarch64, and a container that allows it"
            )

    def _run(self, interpreter: Path, snapshot: Path, own: Path) -> None:
        env = own_environment.of_script(own, environment())
        if kept_back := child.with_password(environment()):
            console.warn("fetch", f"{', '.join(kept_back)}: holds a password, so the loading script runs without it")
        trusted = [env[name] for name in child.CERTIFICATES if name in env]
        for directory in (own / "home", own / "tmp"):
            directory.mkdir()
        given = {"folder": str(snapshot), "name": self.name, "config": self.settings.dataset_config}
        repo = snapshot.parent.parent  # the snapshot's files are links to blobs beside it
        failed: list[Exception] = []
        channel = child.Channel(lambda asked: self._download(asked, failed))
        spec = {**given, "out": str(own / "out"), "ask": channel.theirs}
        program = _HERE / "script_to_parquet.py"
        command = _confined(str(interpreter), [str(own)], [str(repo), *trusted], program, spec)

        def still(seconds: float) -> None:
            written = child.size_of(own) / 1e9
            console.say("fetch", f"the loading script has run for {seconds / 60:.0f} min and written {written:.2f} GB")

        code, output = child.run(command, env, own, still, channel)
        if failed:
            raise failed[0]
        if code:
            raise self._failed(code, output, own / "error")

    def _download(self, asked: Any, failed: list[Exception]) -> list[str] | None:
        """Download files and folders of the repo; return those that it has. None if a download failed."""
        import huggingface_hub

        wanted = [str(path) for path in asked] if isinstance(asked, list) else []
        listing = set(self.listing)
        there = {path: [path] if path in listing else self._below(path) for path in wanted}

        def get(name: str) -> None:
            huggingface_hub.hf_hub_download(
                self.name, name, repo_type="dataset", revision=self.commit, token=self.settings.token
            )

        names = [name for found in there.values() for name in found]
        if names:
            console.say("fetch", f"downloading what the loading script asks for: {len(names)} of {len(listing)} files")
        try:
            with ThreadPoolExecutor(_DOWNLOADS) as threads:
                list(threads.map(get, names))
        except Exception as error:  # told by the main thread, which waits for the script
            failed.append(error)
            return None
        return [path for path, found in there.items() if found]

    def _below(self, folder: str) -> list[str]:
        return [name for name in self.listing if name.startswith(f"{folder}/")]

    def _failed(self, code: int, output: str, told: Path) -> BadInput:
        """The error for a script that failed, in one line: its own last words."""
        failure = _read_error(told)
        text, kinds = failure.get("text", ""), set(failure.get("kinds", ()))
        config = configuration_problem(text, self.settings)
        if config is not None:
            return BadInput(config)
        if code == confine.NOT_CONFINED or not failure:
            if code == -9:
                return BadInput(f"{self.where}: its loading script was killed; use a machine with more memory")
            last = child.last_line(output)
        else:
            last = f"{child.printable(failure['type'])}: {child.last_line(text)}"
        line = f"{self.where}: its loading script fails: {one_line(last, self.settings.secrets)}"
        if "No space left" in text:
            return BadInput(f"{line}; make room in WORK_DIR={self.settings.paths.work}")
        if kinds & NO_CONNECTION:
            return Unreachable(f"{line}; check the network, then run the same command again")
        return BadInput(f"{line}; use another revision of it, or data that needs no script")

    def _examine(self, out: Path) -> int:
        """Count the rows of what the script has left, which may be anything.

        Raises:
            BadInput: it is not a folder of Parquet files alone.
        """
        import pyarrow
        from pyarrow import parquet

        rows = 0
        try:
            found = sorted(out.iterdir()) if stat.S_ISDIR(out.lstat().st_mode) else []
            for path in found:
                status = path.lstat()
                if not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and _SHARD.fullmatch(path.name)):
                    raise BadInput(f"{self.where}: its loading script leaves {path.name[:80]!r}, not a Parquet file")
                rows += parquet.read_metadata(path).num_rows
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise BadInput(f"{self.where}: its loading script leaves no Parquet files: {one_line(error)}") from None
        if not rows:
            raise BadInput(f"{self.where}: its loading script yields no rows; use data that needs no script")
        return rows


def script_of(name: str, listing: list[str]) -> str | None:
    """The loading script among a repo's files, which `datasets` knows by its name; None if there is none."""
    script = f"{name.rsplit('/', 1)[-1]}.py"
    return script if script in listing else None


def configuration_problem(text: str, settings: Settings) -> str | None:
    """What is wrong with DATASET_CONFIG, if that is what an error of `datasets` is about."""
    name = settings.dataset_name
    if (found := re.search(r"Config name is missing.*?\[(.*?)\]", text, re.DOTALL)) is not None:
        return f"DATASET_NAME={name} has several configurations: set DATASET_CONFIG to one of {_plain(found[1])}"
    if (found := re.search(r"BuilderConfig .*? not found\. Available: \[(.*?)\]", text, re.DOTALL)) is not None:
        return f"DATASET_CONFIG={settings.dataset_config}: {name} has only {_plain(found[1])}"
    return None


def _plain(listed: str) -> str:
    return one_line(child.printable(listed.replace("'", "").replace('"', "")), limit=1000)


def _confined(python: str, write: list[str], read: list[str], program: Path, spec: dict[str, Any]) -> list[str]:
    """The command that runs a program of this folder, confined."""
    rules = {"write": write, "read": read, "parent": os.getpid()}
    return [python, "-I", str(_HERE / "confine.py"), json.dumps(rules), str(program), json.dumps(spec)]


def _read_error(path: Path) -> dict[str, Any]:
    """What `script_to_parquet.py` says about a failure; the script may have written anything there."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _ERROR_BYTES:
            return {}
        told = json.loads(path.read_bytes())
        kinds = [str(kind) for kind in told["kinds"]]
        return {"kinds": kinds, "type": str(told["type"])[:100], "text": str(told["text"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
