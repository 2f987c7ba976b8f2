"""What the store keeps from one transaction to the next is believed only while nobody else has written."""

from __future__ import annotations

import apsw
import pytest

from penstock.log.api import Append, Appended, Begin, Begun, Refusal
from penstock.log.store import CommitFailed, Store
from tests.unit.log.logs import append, block, declare_in, in_memory


def first(store: Store, request: Append) -> list[int]:
    """Where it was stored."""
    (answer,), _ = store.apply([request], now_us=0)
    assert isinstance(answer, Appended), answer
    assert not answer.repeated
    return list(answer.first)


def test_two_who_write_in_turn_see_each_other() -> None:
    one, (pid,) = in_memory()
    other = Store(one.db)
    for sequence in range(4):
        assert first(one, append(2 * sequence, block(pid, b"a"))) == [4 * sequence]
        assert first(one, append(sequence, block(pid, b"b"), producer="q")) == [4 * sequence + 1]
        assert first(other, append(2 * sequence + 1, block(pid, b"c", b"d"))) == [4 * sequence + 2]


def test_an_epoch_that_another_has_begun_ends_the_lower_ones() -> None:
    one, (pid,) = in_memory()
    first(one, append(0, block(pid, b"a")))
    (begun,), _ = Store(one.db).apply([Begin("p", after=0)], now_us=0)
    assert isinstance(begun, Begun)
    (answer,), _ = one.apply([append(1, block(pid, b"b"))], now_us=0)
    assert isinstance(answer, Refusal)
    assert answer.conflict == "epoch"
    (again,), _ = one.apply([Begin("p", after=begun.epoch)], now_us=0)
    assert again == Begun(begun.epoch + 1)
    assert first(one, append(0, block(pid, b"b"), epoch=begun.epoch + 1)) == [1]


def test_what_was_rolled_back_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, (pid,) = in_memory()
    first(store, append(0, block(pid, b"a")))

    def failing() -> None:
        raise CommitFailed

    with monkeypatch.context() as patched:
        patched.setattr(store, "_commit", failing)
        with pytest.raises(CommitFailed):
            store.apply([append(1, block(pid, b"b"))], now_us=0)
    assert first(store, append(1, block(pid, b"b"))) == [1]


def test_a_topic_that_is_declared_meanwhile_is_seen() -> None:
    store, (pid,) = in_memory()
    first(store, append(0, block(pid, b"a")))
    (new,), _ = store.write(lambda db: declare_in(db, "u", 1))
    assert first(store, append(1, block(new, b"a"), block(pid, b"b"))) == [0, 1]


def test_while_nobody_else_writes_nothing_is_read_twice() -> None:
    store, (pid,) = in_memory()
    for sequence in range(2):
        first(store, append(sequence, block(pid, b"a")))
    seen: list[str] = []

    def note(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        seen.append(sql)
        return True

    store.db.exec_trace = note
    first(store, append(2, block(pid, b"a")))
    assert [sql for sql in seen if "SELECT" in sql] == ["SELECT next, chk FROM partition WHERE pid = ?"]
