"""Write what a dataset's loading script yields as Parquet files, one set a split.

    script_to_parquet.py SPEC

SPEC is a JSON object: `folder` has the script of the repo `name`, `config` is one of its configurations, `out` is
filled. `ask` are two file descriptors: the job answers there, and downloads files of the repo into `folder`. Run by
`confine.py` with datasets 3.6, in an environment in which the job is not installed. Why it failed is left in the file
`error` of `out`'s parent.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class Repo:
    """The files of the dataset's own repo, which the job downloads when they are asked for."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.folder = Path(spec["folder"])
        name = re.escape(spec["name"])
        web = rf"https?://[^/]+/datasets/{name}/(?:resolve|raw|blob)/[^/]+/"
        self._own = re.compile(rf"(?:{web}|hf://datasets/{name}(?:@[^/]+)?/)(?P<path>[^?]+).*")
        self._answers, self._asks = (os.fdopen(number, mode) for number, mode in zip(spec["ask"], "rw", strict=True))

    def local(self, addresses: list[Any]) -> dict[str, str]:
        """Address -> file or folder here, for those of `addresses` that are in this repo, which may be private."""
        paths = {str(one): path for one in addresses if (path := self._path(str(one))) is not None}
        if not paths:
            return {}
        self._asks.write(json.dumps(sorted(set(paths.values()))) + "\n")
        self._asks.flush()
        there = set(json.loads(self._answers.readline()))
        return {address: str(self.folder / path) for address, path in paths.items() if path in there}

    def _path(self, address: str) -> str | None:
        if found := self._own.fullmatch(address):
            return unquote(found["path"]) if address.startswith("http") else found["path"]
        relative = address.removeprefix(f"{self.folder}/")
        return None if "://" in relative or relative.startswith("/") else os.path.normpath(relative)


def convert(repo: Repo, name: str, config: str | None, out: Path) -> None:
    """Run the repo's script; `out` then has `SPLIT.parquet`, or `SPLIT-00000-of-00002.parquet` and so on.

    Sound files are embedded as they are, byte for byte.
    """
    datasets: Any = importlib.import_module("datasets")
    manager: Any = importlib.import_module("datasets.download.download_manager").DownloadManager
    nested: Any = importlib.import_module("datasets.utils.py_utils").NestedDataStructure
    mapped: Any = importlib.import_module("datasets.utils.py_utils").map_nested
    download = manager.download

    def from_here(self: Any, addresses: Any) -> Any:
        local = repo.local(nested(addresses).flatten())
        return download(self, mapped(lambda one: local.get(str(one), one), addresses))

    manager.download = from_here
    script = repo.folder / f"{name.rsplit('/', 1)[-1]}.py"
    builder = datasets.load_dataset_builder(str(script), name=config, trust_remote_code=True)
    builder.download_and_prepare(str(out), file_format="parquet")
    shards: dict[str, str] = {}
    for split in builder.info.splits:
        shard = re.compile(rf"{re.escape(f'{builder.dataset_name}-{split}')}((?:-\d{{5}}-of-\d{{5}})?\.parquet)")
        shards.update({one.name: split + found[1] for one in out.iterdir() if (found := shard.fullmatch(one.name))})
    for path in list(out.iterdir()):  # renamed where it is: Linux before 5.19 confines each folder by itself
        if path.name in shards:
            path.rename(out / shards[path.name])
        else:
            path.unlink()


def main() -> None:
    """Convert; what goes wrong is told to the caller in a file, since a script may print anything."""
    spec = json.loads(sys.argv[1])
    out = Path(spec["out"])
    try:
        convert(Repo(spec), spec["name"], spec["config"], out)
    except Exception as error:
        traceback.print_exc()
        chain: list[BaseException] = []
        current: BaseException | None = error
        while current is not None and current not in chain:
            chain.append(current)
            current = current.__cause__ or current.__context__
        kinds = sorted({base.__name__ for one in chain for base in type(one).__mro__})
        # `datasets` says "an error occurred while generating" and has the script's own error as the cause
        said = chain[-1] if type(error).__name__ == "DatasetGenerationError" else error
        told = {"kinds": kinds, "type": type(said).__name__, "text": str(said)[:2000]}
        out.with_name("error").write_text(json.dumps(told), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
