"""How a plain client publishes: in its caller's thread, which may be interrupted anywhere, or in one of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from penstock.app.declared import Program
from penstock.app.opened import Numbering, Opened, open_app
from penstock.app.outbox import Parcel, assemble, leave_out
from penstock.app.plan import plan_topics
from penstock.channel import api
from penstock.errors import Closed, OutcomeUnknown, TransientError
from penstock.system.pipe import LOOK_S, Baton, Ended, Signal, Worker
from penstock.system.ports import real_system

R = TypeVar("R")

NOT_OPEN = "the client is not open: use it with `with app.client() as client` (in a forked child too)"


class Publisher:
    """Publishes one parcel after the other. May be called from any thread, and be interrupted anywhere (Ctrl-C).

    Its thread opens the log, publishes what was sent, and lets the log go. A caller that waits for its answer publishes
    by itself when nobody else does, which saves the way to another thread and back. It takes no lock for that: it has
    the baton, under a token of its own. However it ends, it gives the baton back, or says that it has not; then the
    thread, which is never interrupted, undoes what was left in the log and gives the baton back for it.
    """

    def __init__(self, app: Program, name: str | None) -> None:
        self._app = app
        self._name = name
        self._baton = Baton()  # who has it publishes, and the numbers are its own
        self._forsaken: deque[object] = deque()
        self._held = ExitStack()
        self._worker = Worker(name="penstock-publish", last=self._let_go)
        self.failure: Exception | None = None
        """Why the log could not be let go in order."""

    def open(self) -> Opened:
        """Open the app's log and declare its topics there.

        Raises:
            PenstockError: why it cannot be opened; it has been let go.
        """
        self._worker.start()
        return self.ask(self._open)

    def _open(self) -> Opened:
        try:
            system = real_system()
            self._held.callback(system.offload.close)
            self._runner = self._held.enter_context(asyncio.Runner())
            opened = self._runner.run(open_app(self._app, plan_topics(self._app), system))
            self._held.callback(lambda: self._runner.run(opened.close()))
            self.numbers: Numbering = self._runner.run(opened.numbering(self._name))
        except BaseException:
            self._held.close()
            raise
        self.channel = opened.channel
        return opened

    def _let_go(self) -> None:
        self._have()  # for good
        try:
            self._held.close()
        except Exception as exc:  # noqa: BLE001 - it is raised to who closes the client
            self.failure = exc

    def end(self) -> None:
        """Let the log go, as soon as what was asked for is done; returns at once."""
        self._worker.end()

    def close(self) -> None:
        """Do what was asked for, then let the log go; may be called twice, and again when it was interrupted."""
        self._worker.close()

    def put(self, work: Callable[[], object]) -> None:
        """Have it done in the thread; returns at once. It must not raise."""
        self._worker.put(work)

    def ask(self, work: Callable[[], R]) -> R:
        """Have it done in the thread, and wait for what it returns or raises.

        Raises:
            Closed: the client was closed meanwhile.
        """
        try:
            return self._worker.call(work)
        except Ended:
            raise Closed(NOT_OPEN) from None

    def wait_for(self, signal: Signal) -> None:
        """Wait for what sets the signal.

        Raises:
            Closed: the client was closed meanwhile.
        """
        try:
            self._worker.wait_for(signal)
        except Ended:
            raise Closed(NOT_OPEN) from None

    # -- in the caller's thread ------------------------------------------------------------------------------------

    def publish(self, parcels: Sequence[Parcel]) -> None:
        """Publish and note the answer in every parcel.

        Raises:
            PenstockError: nothing was stored, and why; or its parcel's.
        """
        me = object()
        try:  # without another one inside: the instruction that begins that belongs to neither
            self._await(me)
            done = self._attempted(parcels)
            self._baton.give(me)
        except BaseException:
            # CPython looks for signals when a function begins, jumps back or has called another; so none comes between
            # here and the end of the first call, of one in C. The second wakes: without it somebody looks later.
            self._forsaken.append(me)
            self._worker.put(self._recover)
            raise
        if isinstance(done, Exception):
            raise done
        if not done:
            self.ask(lambda: self.send(parcels))

    def _await(self, me: object) -> None:
        """Take the baton."""
        while not self._baton.take(me):
            if self._worker.ended.is_set():
                raise Closed(NOT_OPEN)
            if self._forsaken:
                self._worker.put(self._recover)
            self._baton.wait(LOOK_S)

    def _attempted(self, parcels: Sequence[Parcel]) -> bool | Exception:
        """Whether it was published or, as an ordinary error, why it cannot be; an interrupt is raised."""
        try:
            return self._published_at_once(parcels)
        except Exception as exc:  # noqa: BLE001 - raised by the caller
            return exc

    def _published_at_once(self, parcels: Sequence[Parcel]) -> bool:
        """Publish, unless it takes more than that: then it is left to the thread."""
        numbers = self.numbers
        if numbers.unsure:
            return False
        batches = assemble(parcels)
        if not batches:
            return True
        publish = api.Publish(numbers.producer, numbers.epoch, numbers.sequence, batches)
        numbers.unsure = True
        try:
            answer = self.channel.publish_at_once(publish)
        except TransientError as exc:
            numbers.unsure = isinstance(exc, OutcomeUnknown)
            raise
        if answer is None:
            numbers.unsure = False
            return False
        if numbers.settle(answer):
            leave_out(parcels, answer)
            return False
        for parcel in parcels:
            parcel.settle(publish, answer)
        return True

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Give the baton back for who was interrupted while having it."""
        while self._forsaken:
            owner = self._forsaken.popleft()
            if self._baton.owner is owner:
                self.channel.forsake()
                self.numbers.unsure = True
                self._baton.give(owner)

    def _have(self) -> None:
        while not self._baton.take(self):
            self._recover()
            self._baton.wait(LOOK_S)

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Publish and note the answer, or the error, in every parcel."""
        self._have()
        try:
            self._send(parcels)
        finally:
            self._baton.give(self)

    def _send(self, parcels: Sequence[Parcel]) -> None:
        try:
            self._sent(parcels)
        except Exception as exc:  # noqa: BLE001 - it is raised to whoever asks for the outcome
            for parcel in parcels:
                parcel.error = exc

    def _sent(self, parcels: Sequence[Parcel]) -> None:
        """Publish under the next numbers. Ended by an error anywhere, it leaves them unsure."""
        numbers = self.numbers
        while batches := assemble(parcels):
            if numbers.unsure:
                self._runner.run(numbers.renew())
            publish = api.Publish(numbers.producer, numbers.epoch, numbers.sequence, batches)
            numbers.unsure = True
            try:
                answer = self.channel.publish_blocking(publish)
            except TransientError as exc:
                numbers.unsure = isinstance(exc, OutcomeUnknown)  # of the others nothing was stored
                raise
            if not numbers.settle(answer):
                for parcel in parcels:
                    parcel.settle(publish, answer)
                return
            leave_out(parcels, answer)
