"""Whether what a disk says means that it has no room: then waiting helps, and nothing is broken."""

from __future__ import annotations

import errno
import os

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_TEXTS = tuple(os.strerror(number) for number in _NO_ROOM)


def no_room(exc: OSError) -> bool:
    """The disk is full, or the user's share of it is."""
    return exc.errno in _NO_ROOM


def says_no_room(text: str) -> bool:
    """The same of a library's message, when the library hands on no number."""
    return any(found in text for found in _TEXTS)
