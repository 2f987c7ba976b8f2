"""Calls of handlers in other processes, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
import pytest

from penstock.channel.sealed import Sealed
from penstock.delivery.deadletter import text_of
from penstock.delivery.once import Marks
from penstock.delivery.retry import Retries, Retry
from penstock.engine import remote
from penstock.engine.calling import Sealing
from penstock.engine.context import Context
from penstock.engine.results import Cause
from penstock.errors import PermanentError, Reject, Throttled, TransientError
from penstock.event.envelope import NewEvent
from tests.unit.engine.engine_kit import Bill, Kit, Order

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Odd(Exception):
    """With arguments that it needs."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(code)
        self.why = why

    def __str__(self) -> str:
        return f"odd {self.why}"


def there_and_back(error: BaseException, program: dict[str, str] | None = None) -> Exception:
    said = remote.decode_said(remote.encode_said(remote.Raised.of(error, text_of(error))))
    assert isinstance(said, remote.Raised)
    return said.error(program or {})


def raised(error: Exception) -> Exception:
    """The error with a traceback."""
    try:
        raise error
    except Exception as exc:  # noqa: BLE001
        return exc


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("x"), OSError(2, "gone", "file"), Odd(3, why="indeed"), Reject("no"),
     PermanentError("never"), Throttled("wait", retry_after_s=2.0), TimeoutError(),
     UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_exception_is_of_its_class_and_says_the_same(error: Exception) -> None:
    back = there_and_back(raised(error))
    assert isinstance(back, type(error))
    assert type(back).__name__ == type(error).__name__
    assert text_of(back) == text_of(error)


async def test_an_iterator_at_its_end_is_told_of_as_that() -> None:
    async def call() -> None:
        raise there_and_back(raised(StopIteration("nothing left")))

    with pytest.raises(Exception, match=r"^nothing left$") as found:
        await call()
    assert type(found.value).__name__ == "StopIteration"


async def test_results_and_what_lies_beside_them_arrive(kit: Kit) -> None:
    into = await kit.topic("orders", Order, partitions=1)
    when = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    results = [
        Order(1, "ann", 1),
        NewEvent(
            data=Order(2, "bob", 2), key=UUID(int=7), time=when, headers={"a": "b"}, subject="s", traceparent=TRACE
        ),
        NewEvent(data=Order(3, "cid", 3)),
    ]
    said = remote.decode_said(remote.encode_said(remote.Given.of(Sealing(into).all(results))))
    assert isinstance(said, remote.Given)
    bob = NewEvent(
        data=None, key=str(UUID(int=7)).encode(), time=when, headers={"a": "b"}, subject="s", traceparent=TRACE
    )
    assert said.results() == [
        Sealed(b'{"id":1,"customer":"ann","amount":1}'),
        Sealed(b'{"id":2,"customer":"bob","amount":2}', bob, beside=2),
        Sealed(b'{"id":3,"customer":"cid","amount":3}', NewEvent(data=None)),
    ]
    with pytest.raises(PermanentError, match="id: 'mine'"):
        remote.Given.of(Sealing(into).all([NewEvent(data=Order(1, "ann", 1), id="mine")]))
    none = remote.decode_said(remote.encode_said(remote.Given.of(Sealing(None).all(results))))
    assert isinstance(none, remote.Given)
    assert none.results() == [Sealed(b"")] * 3


async def test_what_arrives_is_sealed_and_stays_as_it_is(kit: Kit) -> None:
    """Another struct than the topic's, a whole number where a fraction is expected: no bytes are made of it anew."""
    into = await kit.topic("bills", Bill, partitions=1)
    there = Sealing(into).all([More(1, "ann", 2, "more"), {"total": 1, "id": 2, "customer": "bob"}])  # type: ignore[arg-type]
    said = remote.decode_said(remote.encode_said(remote.Given.of(there)))
    assert isinstance(said, remote.Given)
    assert Sealing(into).all(said.results()) == there
    assert [one.body for one in there] == [
        b'{"id":1,"customer":"ann","total":2,"more":"more"}',
        b'{"total":1,"id":2,"customer":"bob"}',
    ]


async def test_what_lies_beside_results_arrives_as_what_it_is_a_kind_of(kit: Kit) -> None:
    class Text(str):
        __slots__ = ()

    class Moment(datetime):
        pass

    into = await kit.topic("orders", Order, partitions=1)
    order, when = Order(1, "ann", 1), Moment(2013, 1, 1, 5, 0, 0, 7, tzinfo=timezone(timedelta(hours=-5)))
    headers: Any = MappingProxyType({Text("a"): Text("b")})
    result = NewEvent(data=order, key=Text("k"), subject=Text("s"), time=when, headers=headers)
    given = remote.decode_said(remote.encode_said(remote.Given.of(Sealing(into).all(result))))
    assert isinstance(given, remote.Given)
    (one,) = given.results()
    assert one.event == NewEvent(data=None, key=b"k", subject="s", time=when, headers={"a": "b"})


class More(Bill):
    more: str


class Bare(Exception):
    """Made in an unusual way."""

    def __new__(cls, code: int, why: str) -> Any:
        return super().__new__(cls, code, why)

    def __init__(self, code: int, why: str) -> None:
        super().__init__(code)


class Final(Exception):
    """Nobody's base."""

    def __init_subclass__(cls) -> None:
        raise TypeError("no")


@dataclass(frozen=True)
class Frozen(Exception):
    """As it is."""

    code: int


def test_classes_that_cannot_be_made_from_nothing() -> None:
    for error in (Bare(1, "x"), Frozen(2), ExceptionGroup("two", [ValueError("a"), KeyError("b")])):
        back = there_and_back(raised(error))
        assert isinstance(back, type(error))
        assert text_of(back) == text_of(error)
    back = there_and_back(raised(Final("x")))
    assert (type(back).__name__, str(back)) == ("Final", "x")


@pytest.mark.parametrize("kind", [ValueError, Reject])
def test_half_a_surrogate_is_an_escape(kind: type[Exception]) -> None:
    back = there_and_back(raised(kind("name \udcff")))
    assert isinstance(back, kind)
    assert str(back) == "name \\udcff"


def test_a_policy_for_its_type_applies() -> None:
    retries = Retries.of({Odd: Retry(7), OSError: Retry(5), Exception: Retry(2)}, path="retry")
    for error, attempts in ((Odd(1, why="x"), 7), (FileNotFoundError("x"), 5), (ValueError("x"), 2)):
        assert retries.for_error(there_and_back(error)).attempts == attempts


def test_a_class_of_the_program_and_one_that_nobody_knows() -> None:
    """There the program has another name; and what was made inside a function is an exception all the same."""

    class Hidden(Exception):
        pass

    said = remote.Raised("__penstock_program__", "Odd", "odd", "")
    assert isinstance(said.error({"__penstock_program__": __name__}), Odd)
    assert not isinstance(said.error({}), Odd)
    back = there_and_back(Hidden("x"))
    assert type(back).__name__ == "Hidden"
    assert not isinstance(back, TransientError)


def test_the_stack_is_that_of_where_it_was_raised() -> None:
    cause = Cause.of(there_and_back(raised(ValueError("far away"))), 1)
    assert cause.error == "ValueError"
    assert cause.reason == "far away"
    assert __file__ in cause.stack
    assert "raise error" in cause.stack


class Names(msgspec.Struct):
    """Not an exception, and asked for as one."""


def test_no_other_class_is_raised() -> None:
    assert type(remote.Raised(__name__, "Names", "x", "").error({})).__mro__[1] is Exception
    assert type(remote.Raised("builtins", "KeyboardInterrupt", "x", "").error({})).__mro__[1] is Exception


@pytest.mark.parametrize("result", [None, [], [None], 1, [1, None, 2], (1, 2), iter([1, None])], ids=repr)
def test_results_one_by_one(result: Any) -> None:
    expected = {"None": 0, "[]": 0, "[None]": 0, "1": 1, "[1, None, 2]": 2, "(1, 2)": 2}
    assert len(Sealing(None).all(result)) == expected.get(repr(result), 1)


async def test_a_context_tells_the_same_there(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer", partitions=1)
    events = [Order(number, "ann", number) for number in range(5)]
    attributes = {"id": [None, "own", None, None, None], "headers": [None, {"a": "b"}, None, None, None]}
    await kit.publish_batches(topic.pack([topic.encode(event) for event in events], attributes=attributes).batches)
    (delivered,) = await kit.channel.read("orders", 0, 0, events_max=10)
    for offset in range(5):
        here = Context(delivered, offset, 3, topic, redriven=1)
        sent = remote.encode_call(remote.Call.of(topic.encode(events[offset]), delivered, here))
        there = remote.decode_call(sent).context(topic, Marks())
        assert there.event() == here.event()
        assert (there.id, there.headers, there.attempt, there.redriven) == (here.id, here.headers, 3, 1)
