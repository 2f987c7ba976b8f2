"""Work in a forked child, which may be killed there; call it from a process without threads."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")
_KILLED = -9


def in_child(work: Callable[[], T], kind: type[T]) -> T | None:
    """What `work` returns in a forked child; None when the child was killed.

    Raises:
        RuntimeError: the child ended otherwise; with its traceback.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = 1
        try:
            answer = msgspec.json.encode(work())
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
            answer = traceback.format_exc().encode()
        while answer:
            answer = answer[os.write(writer, answer) :]
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == _KILLED:
        return None
    if status:
        raise RuntimeError(answer.decode())
    return msgspec.json.decode(answer, type=kind)
