"""Writes a file in one step: who opens its name finds what was there or all that is new, and never less.

Nothing of the process is touched for that: no umask, no working folder. What was there keeps its mode, its access list and,
where the system lets that happen, its owner.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import IO, Any

# What a file is called while it is written, where the system cannot write one without a name.
_PREFIX, _SUFFIX = ".polyglot-bridge-", ".tmp"
_ACCESS_LIST = "system.posix_acl_access"


def replace(path: str | bytes | os.PathLike[Any], write: Callable[[IO[bytes]], object]) -> None:
    """Puts what `write` writes where a path leads to.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        The file. A link is followed.
    write : callable
        Called with a file that is open for writing bytes; perhaps a second time, with another one.

    Raises
    ------
    OSError
        As `open` and the other calls of the system raise it; what was there is as it was, and there is no other file.
    """
    path = os.fsdecode(path)
    if not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    target = os.path.realpath(path)
    old: os.stat_result | None = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(target)
    if old is not None and not stat.S_ISREG(old.st_mode):
        code = errno.EISDIR if stat.S_ISDIR(old.st_mode) else errno.EINVAL
        raise OSError(code, "no regular file", path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}")
    # The system takes the umask off. What was there is never more open than it was: its owner alone sees it being written.
    mode = 0o666 if old is None else old.st_mode & 0o600
    try:
        if not _without_a_name(temporary, target, old, mode, write):
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                _fill(file, target, old, write)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = path
        raise
    _sync(folder)


def _fill(file: IO[bytes], target: str, old: os.stat_result | None, write: Callable[[IO[bytes]], object]) -> None:
    if old is not None and os.name == "posix":
        _inherit(file.fileno(), target, old)
    write(file)
    file.flush()
    os.fsync(file.fileno())


def _without_a_name(
    temporary: str, target: str, old: os.stat_result | None, mode: int, write: Callable[[IO[bytes]], object]
) -> bool:
    """Writes a file that has no name until it is whole, so that nothing is left of it when the process is killed. False
    where the system cannot do that: Linux can, on most file systems.
    """
    flags = getattr(os, "O_TMPFILE", 0)
    if not flags:
        return False
    try:
        handle = os.open(os.path.dirname(temporary), flags | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError:
        # What is wrong with the folder itself, an attempt with a name tells better.
        return False
    with open(handle, "wb") as file:
        name = f"/proc/self/fd/{handle}"
        # Before Linux 5.19 some file systems forget the umask here, and never where there is a name.
        forgotten = old is None and os.fstat(handle).st_mode & 0o666 == 0o666
        if forgotten or not os.path.exists(name):
            return False
        _fill(file, target, old, write)
        try:
            # With a folder's handle, although the name needs none, Python makes the call that follows links.
            os.link(name, temporary, src_dir_fd=handle)
        except OSError:
            return False
    return True


def _inherit(handle: int, target: str, old: os.stat_result) -> None:
    """Gives a file the owner, the access list and the mode of another, as far as they may be given and mean the same."""
    made = os.fstat(handle)
    if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except OSError:
            with contextlib.suppress(OSError):
                os.fchown(handle, -1, old.st_gid)
        made = os.fstat(handle)
    mode = stat.S_IMODE(old.st_mode)
    if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
        mode &= 0o777
    same_group = made.st_gid == old.st_gid
    if not _inherit_access_list(handle, target, same_group) or not same_group:
        # Another group may do what everybody may.
        mode &= ~0o070 | mode << 3 & 0o070
    os.fchmod(handle, mode)


def _inherit_access_list(handle: int, target: str, same_group: bool) -> bool:
    """Whether the bits of the mode for a group mean the same for both files now."""
    if not hasattr(os, "getxattr"):
        return True
    try:
        found = os.getxattr(target, _ACCESS_LIST)
    except OSError:
        # There is none. One that the folder gave to the new file would be more than there was.
        with contextlib.suppress(OSError):
            os.removexattr(handle, _ACCESS_LIST)
        return True
    try:
        if same_group:
            os.setxattr(handle, _ACCESS_LIST, found)
    except OSError:
        return False
    return same_group


def _sync(folder: str) -> None:
    """Writes a folder's names to the disk, where the system opens folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems have no such call for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(handle)
