"""Tell a disk, a mount or a machine that fails from a file that cannot be read: only the latter costs its row."""

from __future__ import annotations

import errno
import os
from itertools import islice
from pathlib import Path

from job.core import inside
from job.core.errors import StorageFailed

#: What the system says when a disk, a network mount or a limit of the process has failed, whatever file was asked for.
_CODES = {
    errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENODEV, errno.ESHUTDOWN,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip
#: Files of a folder that are tried after one of them could not be read, and bytes read at a time.
_TRIED, _AT_ONCE = 3, 1 << 20


def check(error: BaseException, path: Path | str | None = None) -> None:
    """Do nothing if an error of reading a file is the file's own.

    Args:
        error: any; only one of the system is looked at.
        path: the file, if the error does not name it.

    Raises:
        StorageFailed: the machine has failed, and not the file.
    """
    if not isinstance(error, OSError) or error.errno not in _CODES:
        return
    where = error.filename if isinstance(error.filename, str | Path) else path
    if error.errno == errno.EIO and where is not None and _is_alone(Path(where)):
        return  # a damaged part of a disk
    raise StorageFailed(
        f"{where or 'a file'}: {error.strerror}: its disk or mount has failed, or a limit of this machine, and not the "
        "file; when it is mended, the same command goes on"
    ) from error


def check_readable(path: Path) -> None:
    """Read a file to its end: decoders take what the system cannot read for an early end of it.

    Raises:
        StorageFailed: as in `check`.
    """
    try:
        with inside.open_binary(path) as file:
            while file.read(_AT_ONCE):
                pass
    except (OSError, ValueError) as error:
        check(error, path)


def _is_alone(path: Path) -> bool:
    """Whether another file of its folder can be read."""
    try:
        with os.scandir(path.parent) as found:
            for other in islice((one for one in found if one.name != path.name and one.is_file()), _TRIED):
                try:
                    with open(other.path, "rb") as file:
                        file.read(1)
                    return True
                except OSError:
                    continue
    except OSError:
        return False
    return False
