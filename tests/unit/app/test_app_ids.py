"""Topics that record each event id once, as publishers see it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import Acked, App, NewEvent, Rejected, Unknown
from penstock.app.declared import TopicHandle
from penstock.app.outcome import Outcome
from penstock.channel import api
from penstock.errors import ConfigError


class Bid(msgspec.Struct):
    auction: str
    price: int


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("ids", path=tmp_path / "log")


@pytest.fixture
def bids(app: App) -> TopicHandle[Bid]:
    topic = app.topic("bids", Bid, key="auction", partitions=1)
    app.deduplicate(topic, events=1_000)
    return topic


def bid(event_id: str | None, price: int = 1) -> Any:
    return NewEvent(data=Bid("a", price), id=event_id)


def told(outcomes: list[Outcome]) -> list[Any]:
    """Offset and whether it is repeated, or the reason's first words."""
    return [
        (outcome.offset, outcome.repeated) if isinstance(outcome, Acked) else outcome.reason.split(":")[0]
        for outcome in outcomes
        if not isinstance(outcome, Unknown)
    ]


def prices(app: App) -> list[int]:
    return app.read("bids")["price"].to_list()


def test_each_id_is_stored_once(app: App, bids: TopicHandle[Bid]) -> None:
    with app.client() as client:
        assert told(client.publish_many(bids, [bid("a", 1), bid("b", 2), bid(None, 3)])) == [
            (0, False),
            (1, False),
            (2, False),
        ]
        mixed = [bid("c", 4), bid("a", 1), bid("b", 9), bid(None, 3), bid("c", 4), bid("c", 5), Bid("a", 6)]
        assert told(client.publish_many(bids, mixed)) == [
            (3, False), (0, True), "id conflict", (4, False), (3, True), "id conflict", (5, False),
        ]  # fmt: skip
        assert told([client.publish(bids, bid("a", 1))]) == [(0, True)]
        assert told([client.publish(bids, bid("a", 2))]) == ["id conflict"]
        assert told([client.publish(bids, bid("d", 7))]) == [(6, False)]
    assert prices(app) == [1, 2, 3, 4, 3, 6, 7]


def test_another_client_and_another_program_are_told_too(app: App, bids: TopicHandle[Bid], tmp_path: Path) -> None:
    with app.client() as client:
        client.publish(bids, bid("a", 1))
    other = App("other", path=tmp_path / "log")
    topic = other.topic("bids", Bid, key="auction", partitions=1)  # it does not say so itself
    with other.client() as client:
        assert told([client.publish(topic, bid("a", 1))]) == [(0, True)]


def test_the_reason_names_both_events(app: App, bids: TopicHandle[Bid]) -> None:
    with app.client() as client:
        client.publish(bids, bid("order-1", 1))
        outcome = client.publish(bids, bid("order-1", 2))
    assert isinstance(outcome, Rejected)
    assert "'order-1'" in outcome.reason
    assert "offset 0 of partition 0" in outcome.reason


def test_a_bad_event_and_its_twin(app: App, bids: TopicHandle[Bid]) -> None:
    """One that cannot be stored takes the one that is the same with it; others of its id count."""
    bad = NewEvent(data=Bid("a" * 70_000, 1), id="x")
    with app.client() as client:
        outcomes = client.publish_many(bids, [bad, bad, bid("y", 2)])
    assert [type(outcome) for outcome in outcomes] == [Rejected, Rejected, Acked]


def test_together_is_all_or_none(app: App, bids: TopicHandle[Bid]) -> None:
    with app.client() as client:
        client.publish(bids, bid("a", 1))
        pairs = [(bids, bid("a", 1)), (bids, bid("b", 2))]
        assert told(client.publish_together(pairs)) == [(0, True), (1, False)]
        assert told(client.publish_together([(bids, bid("c", 3)), (bids, bid("a", 4))])) == [
            "published together with an event that was refused (bids, 1",
            "id conflict",
        ]
        assert told(client.publish_together([(bids, bid("c", 3))])) == [(2, False)]
    assert prices(app) == [1, 2, 3]


def test_sent_events(app: App, bids: TopicHandle[Bid]) -> None:
    with app.client() as client:
        receipts = [client.send(bids, bid(f"{number % 700}", number % 700)) for number in range(20_000)]
        client.flush()
        outcomes = [receipt.outcome for receipt in receipts]
    acked = [outcome for outcome in outcomes if isinstance(outcome, Acked)]
    assert len(acked) == 20_000
    assert [outcome.offset for outcome in acked] == [number % 700 for number in range(20_000)]
    assert prices(app) == list(range(700))


def test_the_asyncio_client(app: App, bids: TopicHandle[Bid]) -> None:
    async def main() -> list[Outcome]:
        async with app.client() as client:
            found = await client.publish_many(bids, [bid("a", 1), bid("b", 2)])
            found += await asyncio.gather(*(client.publish(bids, bid(name, 1)) for name in ("a", "b", "c", "c")))
            return found + await client.publish_together([(bids, bid("a", 5)), (bids, bid("e", 5))])

    assert told(asyncio.run(main())) == [
        (0, False), (1, False), (0, True), "id conflict", (2, False), (2, True),
        "id conflict", "published together with an event that was refused (bids, 0",
    ]  # fmt: skip
    assert prices(app) == [1, 2, 1]


def test_a_duplicate_beside_a_bad_event_of_another_topic(app: App, bids: TopicHandle[Bid]) -> None:
    """Tasks that share a commit share no fate: one has nothing to store, one has it stored already."""
    others = app.topic("others", Bid, key="auction", partitions=1)

    async def main() -> list[Outcome]:
        async with app.client() as client:
            await client.publish(bids, bid("a", 1))
            large = client.publish(others, Bid("a" * 70_000, 1))
            return list(
                await asyncio.gather(large, *(client.publish(bids, bid(name, n)) for name, n in (("a", 1), ("b", 2))))
            )

    large, *rest = asyncio.run(main())
    assert isinstance(large, Rejected)
    assert told(rest) == [(0, True), (1, False)]
    assert prices(app) == [1, 2]


def test_keys_are_compared_as_the_log_has_them(app: App) -> None:
    """Within one publish as from one to the next: a number is the key that its digits are."""
    raw = app.topic("raw", partitions=1)
    app.deduplicate(raw)
    events = [NewEvent(data=b"x", id="1", key=key) for key in (1, "1", "2")]
    with app.client() as client:
        assert told(client.publish_many(raw, events)) == [(0, False), (0, True), "id conflict"]
        assert told([client.publish(raw, event) for event in events]) == [(0, True), (0, True), "id conflict"]


def test_asked_again_when_the_outcome_is_unknown(
    app: App, bids: TopicHandle[Bid], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was never stored, and whose id came another way meanwhile, is that one, or is to be published again."""
    with app.client() as client:
        publisher: Any = client._publisher
        with monkeypatch.context() as patch:
            patch.setattr(publisher.channel, "publish_at_once", lambda publish: api.Unknown("cut"))
            unknown = client.publish_many(bids, [bid("a", 1), bid("b", 2)])
        assert all(isinstance(outcome, Unknown) for outcome in unknown)
        client.publish(bids, bid("a", 1))
        first, second = (client.resolve(outcome) for outcome in unknown if isinstance(outcome, Unknown))
        assert first == Acked("bids", 0, 0, repeated=True)
        assert isinstance(second, Rejected)
        assert "publish this event again" in second.reason
        assert told([client.publish(bids, bid("b", 2))]) == [(1, False)]


WRONG: list[dict[str, Any]] = [
    {"events": -1}, {"events": 1.5}, {"events": True}, {"time": "soon"}, {"time": 0}, {"time": float("inf")},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_meant(app: App, wrong: dict[str, Any]) -> None:
    topic = app.topic("bids", Bid, key="auction")
    with pytest.raises(ConfigError, match="deduplicate"):
        app.deduplicate(topic, **wrong)


def test_a_horizon_in_event_time_needs_an_event_time(app: App) -> None:
    topic = app.topic("bids", Bid, key="auction")
    with pytest.raises(ConfigError, match=r"deduplicate.time: .*no event time"):
        app.deduplicate(topic, time="1d")
