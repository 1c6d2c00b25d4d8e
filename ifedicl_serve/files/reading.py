"""Reading files that somebody else wrote: never more than asked for, and never waiting."""

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path | str, limit: int) -> bytes:
    """At most `limit` bytes of a regular file. Raises OSError, also for a pipe or a device.

    Opened without blocking, as opening a pipe would wait for whoever writes to it.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(limit)


def not_utf8_at(path: Path) -> int | None:
    """Where the first byte is that UTF-8 has no place for; None if the file is UTF-8."""
    start = 0
    with path.open("rb") as file:
        for line in file:  # its end is never inside a character
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return start + error.start
            start += len(line)
    return None
