"""Which file lies under a name, asked so that nothing else is: the answer costs the file's next write nothing.

Since Linux 6.13 a `stat` that asks for a file's times has its next write take a new one, and every such write then
changes the inode, which its sync must bring to the disk too. A `statx` that asks for the number alone does not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Any

_AT_FDCWD = -100
_STATX_INO = 0x100
_STATX_BYTES = 256
_found = struct.Struct("=I28xQ").unpack_from  # the mask of what was filled in, and the inode number


def _statx() -> Callable[..., Any] | None:
    """The C library's function; None where there is none (macOS, an old library)."""
    try:
        function = ctypes.CDLL(None, use_errno=True).statx
    except (AttributeError, OSError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    function.restype = ctypes.c_int
    return function


_call = _statx()


class Name:
    """A file's name, to be asked again and again which file lies there. Owned by one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._encoded = os.fsencode(path)
        self._buffer = ctypes.create_string_buffer(_STATX_BYTES)

    def inode(self) -> int | None:
        """The number of the file that lies there; None when there is none.

        Raises:
            OSError: it cannot be asked for.
        """
        if _call is not None:
            if _call(_AT_FDCWD, self._encoded, 0, _STATX_INO, self._buffer) == 0:
                filled, number = _found(self._buffer)
                if filled & _STATX_INO:
                    return number
            elif ctypes.get_errno() == errno.ENOENT:
                return None
        try:
            return os.stat(self.path).st_ino
        except FileNotFoundError:
            return None
