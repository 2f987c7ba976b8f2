"""What the process answers with: every exit code, in one place."""

from __future__ import annotations

DONE = 0
FAILED = 1  # an error was printed; nothing else is known to have happened
USAGE = 2  # the command line itself is wrong
PARTLY = 3  # done, but not for all that was given: the rest was named
UNKNOWN = 4  # it may or may not have been stored; the message says how to find out
INTERRUPTED = 130  # Ctrl-C
OUTPUT_CLOSED = 141  # whoever read the output went away (`| head`)

TEXT = f"""\
Exit codes: {DONE} done; {FAILED} an error, printed on stderr; {USAGE} wrong usage; {PARTLY} done except for what was
named; {UNKNOWN} the outcome of a publish is unknown; {INTERRUPTED} interrupted; {OUTPUT_CLOSED} the output was closed.
"""
