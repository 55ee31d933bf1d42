"""Write what a dataset's loading script yields as Parquet files, one set a split.

    script_to_parquet.py SPEC

SPEC is a JSON object: `folder` has the repo's files, `name` and `config` say what they are of, `out` is filled. Run by
`confine.py` with datasets 3.6, in an environment in which the job is not installed. Why it failed is left in the file
`error` of `out`'s parent.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any


def convert(folder: Path, name: str, config: str | None, out: Path) -> None:
    """Run the script that `folder` holds; `out` then has `SPLIT.parquet`, or `SPLIT-00000-of-00002.parquet` and so on.

    Sound files are embedded as they are, byte for byte.
    """
    datasets: Any = importlib.import_module("datasets")
    manager: Any = importlib.import_module("datasets.download.download_manager")
    mapped: Any = importlib.import_module("datasets.utils.py_utils").map_nested
    download = manager.DownloadManager.download
    own = re.compile(
        rf"(?:https?://[^/]+/datasets/{re.escape(name)}/(?:resolve|raw|blob)/|hf://datasets/{re.escape(name)}@)[^/]+/(.+)"
    )

    def local(address: Any) -> Any:
        """The file in `folder` for an address of this very repo, which may be private."""
        found = own.fullmatch(str(address).split("?")[0])
        path = folder / found[1] if found else folder
        return str(path) if path.is_file() else address

    def from_here(self: Any, addresses: Any) -> Any:
        return download(self, mapped(local, addresses))

    manager.DownloadManager.download = from_here
    script = folder / f"{name.rsplit('/', 1)[-1]}.py"
    builder = datasets.load_dataset_builder(str(script), name=config, trust_remote_code=True)
    written = out.with_name("written")
    builder.download_and_prepare(str(written), file_format="parquet")
    out.mkdir()
    for split in builder.info.splits:
        start = f"{builder.dataset_name}-{split}"
        for path in sorted(written.iterdir()):
            rest = path.name.removeprefix(start)
            if path.name.startswith(start) and re.fullmatch(r"(-\d{5}-of-\d{5})?\.parquet", rest):
                path.rename(out / f"{split}{rest}")


def main() -> None:
    """Convert; what goes wrong is told to the caller in a file, since a script may print anything."""
    spec = json.loads(sys.argv[1])
    out = Path(spec["out"])
    try:
        convert(Path(spec["folder"]), spec["name"], spec["config"], out)
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
