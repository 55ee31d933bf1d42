"""Take this machine's directories out of what is published: of a path only the last part is left.

The report and `stats.json` on this machine name whole paths, which help whoever runs the job. To anybody else they tell
nothing but user names and how a machine is laid out.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from job.config.settings import Settings

#: What stands for the directories that are left out.
LEFT_OUT = "…/"
#: A path from the root, of two parts or more; not the end of an address, of a relative path or of a tag, nor in base64.
_PATH = re.compile(r"(?:…|(?<![\w:/.…<~+=-])~?)/(?:[\w.@+-]+/)+(?P<last>[\w.@+-]*)")
#: The report's link to a page that is not published.
_QUALITY_PAGE = re.compile(r'<p><a href="\.\./data/quality\.html">[^<]*</a></p>')


def without_places(text: str, settings: Settings) -> str:
    """A published text in which `…/` stands for the directories of each path."""
    for place in sorted(set(_places(settings)), key=len, reverse=True):
        told = LEFT_OUT + place.rpartition("/")[2]
        for written, instead in ((place, told), (html.escape(place), html.escape(told))):
            text = re.sub(re.escape(written) + r"(?![\w-])", instead.replace("\\", r"\\"), text)
    return _PATH.sub(lambda found: LEFT_OUT + found["last"], text)


def report(path: Path, settings: Settings) -> bytes:
    """The report as it is published: without directories, and without a link to a page that is not."""
    return without_places(_QUALITY_PAGE.sub("", path.read_text(encoding="utf-8")), settings).encode()


def _places(settings: Settings) -> Iterator[str]:
    """Directories and files of this machine that a run names; they may have spaces and any letters in them."""
    given = [str(value) for value in settings.public().values() if isinstance(value, str | Path)]
    given += [str(settings.paths.work), str(settings.paths.output)]
    for value in given:
        if value.startswith(("/", "~/")) and "\n" not in value:
            for one in {value.rstrip("/"), str(Path(value).expanduser())}:
                if one.count("/") > 1:
                    yield one
