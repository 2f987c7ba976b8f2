"""Ctrl-C anywhere in the plain client: it can be used further, it can be closed, and what was acked is in the log."""

from __future__ import annotations

import dis
import os
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator
from pathlib import Path
from types import CodeType, MethodDescriptorType

import msgspec
import pytest

from penstock import Acked, App, Client
from penstock.app import client as module
from penstock.app.declared import TopicHandle
from penstock.app.outbox import Receipt
from penstock.app.publisher import Publisher
from tests.faults.interrupts import Storm, deadline, instructions, interrupted_at

POINTS = int(os.environ.get("POINTS", "60"))
"""So many instructions of each call are tried beside those of NEAR; another SEED tries others."""
NEAR = ("/penstock/system/", "/penstock/app/client.py", "/penstock/app/publisher.py", "/threading.py", "/queue.py")
STORM_CALLS = 1500


class Item(msgspec.Struct):
    n: int


class Till:
    """A client that is interrupted, and what it was told of its events."""

    def __init__(self, directory: Path, topic: str = "items") -> None:
        self.app = App("till", path=directory / "log", durability="normal")
        self.items: TopicHandle[Item] = self.app.topic(topic, Item, partitions=1)
        self.offsets: dict[int, int] = {}
        self._receipts: list[tuple[int, Receipt]] = []
        self._next = 0
        self.client: Client = self.app.client()

    def publish(self) -> None:
        n = self._number()
        outcome = self.client.publish(self.items, Item(n))
        assert isinstance(outcome, Acked)
        self.offsets[n] = outcome.offset

    def send(self) -> None:
        n = self._number()
        self._receipts.append((n, self.client.send(self.items, Item(n))))

    def flush(self) -> None:
        self.client.flush()

    def close(self) -> None:
        self.client.close()

    def open(self) -> None:
        self.client.open()

    def _number(self) -> int:
        self._next += 1
        return self._next

    def settle(self) -> None:
        """Note what the receipts tell after a flush or a close: everything."""
        for n, receipt in self._receipts:
            outcome = receipt.outcome
            assert isinstance(outcome, Acked), n
            self.offsets[n] = outcome.offset
        self._receipts.clear()

    def check(self) -> None:
        """Nothing acked is missing or elsewhere, nothing is there twice or made up."""
        stored: list[int] = self.app.read(self.items)["n"].to_list()
        assert [n for n, times in Counter(stored).items() if times > 1] == []
        assert {n: stored[offset] for n, offset in self.offsets.items()} == {n: n for n in self.offsets}
        assert set(stored) <= set(range(1, self._next + 1))


@pytest.fixture
def till(tmp_path: Path) -> Till:
    return Till(tmp_path)


@pytest.fixture
def beside(tmp_path: Path) -> Generator[Till, None, None]:
    """Somebody else who publishes into the same log."""
    made = Till(tmp_path, "beside")
    made.open()
    yield made
    made.close()


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


def use_on(till: Till) -> None:
    """The client that was interrupted still does everything."""
    till.send()
    till.publish()
    till.send()
    till.flush()
    till.settle()


def close(till: Till, *, elsewhere: bool) -> None:
    """Close it here, or in another thread."""
    if elsewhere:
        thread = threading.Thread(target=till.close, daemon=True)
        thread.start()
        thread.join()
    else:
        till.close()
    till.settle()


def from_another(till: Till) -> None:
    """Another client of the same log is hindered by nothing."""
    before, till.client = till.client, till.app.client()
    till.open()
    use_on(till)
    till.close()
    till.client = before


def hold(till: Till) -> None:
    """Keep the thread that publishes busy for a moment, so that who calls must wait."""
    publisher = till.client._publisher
    assert publisher is not None
    publisher.put(lambda: threading.Event().wait(0.01))


def nothing(_till: Till) -> None:
    """It needs none."""


def fill(till: Till) -> None:
    """Send until there is no room."""
    hold(till)
    till.send()
    lane = till.client._lanes[till.items]
    while not lane.full(1):
        till.send()


def send_and_hold(till: Till) -> None:
    hold(till)
    till.send()


Act = Callable[[Till], None]
CALLS: dict[str, tuple[Act, Act]] = {
    "publish": (nothing, Till.publish),
    "publish after sends": (Till.send, Till.publish),
    "send": (nothing, Till.send),
    "send without room": (fill, Till.send),
    "flush": (send_and_hold, Till.flush),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_instruction(
    till: Till, beside: Till, name: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a call: others are not hindered, the client goes on, and it can be closed here or in another thread."""
    prepare, call = CALLS[name]
    monkeypatch.setattr(module, "SENT_BYTES_MAX", 10_000)
    till.open()
    use_on(till)
    call(till)
    prepare(till)
    numbers = some(instructions(lambda: call(till)), chance)
    hit = 0
    for place, number in enumerate(numbers):
        prepare(till)
        with deadline(5):
            hit += interrupted_at(number, lambda: call(till))
            beside.publish()
            if place % 16:
                use_on(till)
            else:
                close(till, elsewhere=place % 32 > 0)
                from_another(till)
                till.open()
    with deadline(5):
        close(till, elsewhere=False)
    till.check()
    beside.check()
    assert hit > len(numbers) / 2  # how often it looks while it waits differs


def test_an_interrupt_at_any_instruction_of_close(till: Till, chance: random.Random) -> None:
    """It is closed by calling it again, and what was sent is stored."""
    till.open()
    till.send()
    total = len(instructions(till.close))
    for place, number in enumerate(chance.sample(range(total), min(POINTS, total))):
        till.settle()
        till.open()
        till.send()
        with deadline(20):
            interrupted_at(number, till.close)
            if place % 3 == 0:  # opened again at once
                till.open()
                use_on(till)
            close(till, elsewhere=place % 4 > 1)
            from_another(till)
    till.check()


def test_an_interrupt_at_any_instruction_of_open(till: Till, chance: random.Random) -> None:
    """It is not open then, and may be opened again."""
    total = len(instructions(till.open))
    numbers = chance.sample(range(total), min(POINTS, total))
    till.close()
    for place, number in enumerate(numbers):
        with deadline(20):
            interrupted_at(number, till.open)
            if place % 2:
                close(till, elsewhere=place % 4 > 1)
            till.open()
            use_on(till)
            till.close()
            from_another(till)
    till.check()


def test_nothing_is_asked_of_signals_before_the_thread_is_told() -> None:
    """As `Publisher.publish` relies on: its handler's first call is one of C, and nothing before looks for signals."""
    code = Publisher.publish.__code__
    handlers = {entry.target for entry in dis.Bytecode(code).exception_entries}  # type: ignore[attr-defined]
    told = [began for target in handlers if "_forsaken" in str(began := _until_called(code, target))]
    assert len(told) == 1
    assert not [name for name, _ in told[0] if "BACKWARD" in name or name.startswith(("RESUME", "CALL", "SEND"))]
    assert [argument for _, argument in told[0] if argument][-1] == "me"
    assert isinstance(deque.append, MethodDescriptorType)


def _until_called(code: CodeType, target: int) -> list[tuple[str, str]]:
    """The instructions from an exception's handler to its first call."""
    found: list[tuple[str, str]] = []
    for instruction in dis.get_instructions(code):
        if instruction.offset >= target:
            if instruction.opname.startswith("CALL"):
                return found
            found.append((instruction.opname, instruction.argrepr))
    return found


def some(files: list[str], chance: random.Random) -> list[int]:
    """Numbers of instructions: all of NEAR, and POINTS of the others."""
    near = [number for number, file in enumerate(files) if any(name in file for name in NEAR)]
    others = sorted(set(range(len(files))) - set(near))
    return sorted([*near, *chance.sample(others, min(POINTS, len(others)))])


def publish_until(till: Till, over: threading.Event) -> None:
    """What another program does meanwhile; an error here fails the test, as that of any thread."""
    while not over.wait(0.001):
        till.publish()


def test_signals_that_really_come(till: Till, beside: Till, chance: random.Random) -> None:
    """Thousands a minute, in the midst of waiting and of what is done about the last one; others publish beside it."""
    over = threading.Event()
    publishing = threading.Thread(target=publish_until, args=(beside, over), daemon=True)
    publishing.start()
    calls: list[Callable[[], None]] = [till.publish, till.send, till.send, till.send, till.flush]
    till.open()
    with deadline(60), Storm(chance, gap_s=0.002) as storm:
        for turn in range(STORM_CALLS):
            storm.interrupted(chance.choice(calls))
            if turn % 100 == 0:
                while storm.interrupted(till.close):
                    pass
                till.settle()
                storm.interrupted(till.open)
                till.close()
                till.open()  # in peace: with an interrupt each millisecond it would never come to its end
        while storm.interrupted(till.close):
            pass
    with deadline(20):
        till.settle()
        from_another(till)
        over.set()
        publishing.join()
    till.check()
    beside.check()
    assert len(beside.offsets) > STORM_CALLS / 100
    assert storm.raised > STORM_CALLS / 20
