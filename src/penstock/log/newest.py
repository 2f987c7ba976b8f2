"""Looking for where the newest of a sequence begin, from its end."""

from __future__ import annotations

from collections.abc import Callable


def begin_of_newest(end: int, is_new: Callable[[int], bool]) -> int:
    """The first of the numbers below `end` from which on all are new; `end` when the last one is not.

    They are taken to be old first and then new. Where a clock has jumped they were so more than once: then it is one
    of these places, and where what has come since the jump tells, it is the last.
    """
    first, step = end, 1
    while first > 0:
        before = max(0, end - step)
        if not is_new(before):
            break
        first, step = before, 2 * step
    else:
        return 0
    low = before + 1
    while low < first:
        middle = (low + first) // 2
        low, first = (low, middle) if is_new(middle) else (middle + 1, first)
    return first
