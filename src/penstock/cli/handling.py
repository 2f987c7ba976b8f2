"""One of the processes in which a plain handler runs side by side with others of its kind: started by the program.

``python -m penstock.cli.handling FILE APP HANDLER PIPE`` loads the program and handles one event after the other.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.app.declared import Handled, Program
from penstock.channel.api import Topic
from penstock.channel.typed import TypedTopic
from penstock.cli.program import load_app
from penstock.delivery.deadletter import text_of
from penstock.delivery.once import digest_of
from penstock.engine import remote
from penstock.engine.calling import OutputRefused, Sealing
from penstock.engine.context import TooLate
from penstock.errors import ConfigError, PenstockError, Rejected
from penstock.system.children import Parent
from penstock.system.pipe import Lock


class AskedMarks:
    """`Context.once` for one call, asked of the parent, which keeps the marks. The handler's threads may ask, too."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._asking = Lock()
        self._over = False

    def end(self) -> None:
        """The call is over: what its threads have asked is answered before, and nothing after."""
        with self._asking:
            self._over = True

    def take(self, token: str | bytes, offset: int) -> bool:
        """See `Takes`."""
        digest_of(token)
        raw = token.encode(errors="surrogatepass") if isinstance(token, str) else token
        with self._asking:
            if self._over:
                raise TooLate
            self._parent.answer(remote.encode_said(remote.Asks(raw)))
            told = next(self._parent.frames())
        if told not in (b"\0", b"\1"):
            raise ValueError(told.decode())
        return told == b"\1"


def main() -> None:
    """Serve the parent, until it ends this process, or a handler does: then at once, whatever threads it has left."""
    code: object = 1
    try:
        _serve()
    except SystemExit as exc:
        code = 0 if exc.code is None else exc.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - whatever ends a program
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def _serve() -> None:
    file, name, handler, pipe = sys.argv[1:]
    parent = Parent(int(pipe))
    Program.runs = False
    try:
        handled = _handler(Path(file), name, handler)
    except PenstockError as exc:
        parent.answer(remote.encode_said(remote.Unable(str(exc))))
        return
    parent.answer(remote.encode_said(remote.Ready(handled.handler.function.__module__)))
    source = TypedTopic(Topic(handled.source.spec), handled.source.schema)
    into = None if handled.into is None else TypedTopic(Topic(handled.into.spec), handled.into.schema)
    sealing = Sealing(into)
    for frame in parent.frames():
        marks = AskedMarks(parent)
        said = _handle(remote.decode_call(frame), handled, source, sealing, marks)
        marks.end()  # before the answer: what the parent sends next is another event
        parent.answer(remote.encode_said(said))


def _handler(file: Path, name: str, handler: str) -> Handled:
    app = load_app(file, name)
    found = app.handlers.get(handler)
    if found is None:
        msg = f"{file} declares no handler {handler!r} when it is loaded; it has {', '.join(app.handlers) or 'none'}"
        raise ConfigError(msg)
    return found


def _handle(
    call: remote.Call, handled: Handled, source: TypedTopic[Any], sealing: Sealing, marks: AskedMarks
) -> remote.Said:
    spec = handled.handler
    try:
        event = source.decode(call.body)
        result = spec.function(event, call.context(source, marks)) if spec.shape.wants_context else spec.function(event)
        sealed = sealing.all(result)
    except Exception as exc:  # noqa: BLE001 - a user's handler may raise anything
        trace = exc.__traceback__  # its first frame is this function
        return remote.Raised.of(exc.with_traceback(trace and trace.tb_next), text_of(exc))
    try:
        return remote.Given.of(sealed)
    except Rejected as exc:
        refused = OutputRefused(text_of(exc))
        return remote.Raised.of(refused, str(refused))


if __name__ == "__main__":
    main()
