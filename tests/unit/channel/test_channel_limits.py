"""The largest event of a topic, end to end: long rows, letters longer than their events, and raising the limit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl
import pytest

from penstock import Acked, App, Reject, Rejected
from penstock.errors import DeclaredDifferently


class Blob(msgspec.Struct):
    data: bytes


def test_a_letter_may_be_longer_than_its_event_was_allowed_to_be(tmp_path: Path) -> None:
    app = App("big", path=tmp_path)
    blobs = app.topic("blobs", Blob, event_bytes_max=100_000)

    @app.handle(blobs)
    def reject(blob: Blob) -> None:
        raise Reject("no")

    with app.client() as client:  # as columns it has 100,000 bytes, as JSON a third more
        (answer,) = client.publish_frame(blobs, pl.DataFrame({"data": [b"\xff" * 100_000]}))
    assert isinstance(answer, Acked)
    (part,) = app.run(until_idle=True).parts
    assert (part.events, part.dead) == (1, 1)


def test_one_long_row_of_a_frame_is_rejected_among_short_ones(tmp_path: Path) -> None:
    app = App("big", path=tmp_path)
    blobs = app.topic("blobs", Blob, event_bytes_max=1_000)
    with app.client() as client:
        rows = [b"a"] * 10 + [b"\xff" * 1_001] + [b"a"] * 1_000
        (answer,) = client.publish_frame(blobs, pl.DataFrame({"data": rows}))
        assert isinstance(answer, Rejected)
        assert "event 10 has 1001 bytes" in answer.reason


def test_the_limit_can_be_raised_as_the_rejection_says_and_not_lowered(tmp_path: Path) -> None:
    def declared(size: int) -> App:
        app = App("big", path=tmp_path)
        blobs = app.topic("blobs", Blob, event_bytes_max=size)
        app.flow("same", blobs)
        return app

    small, large = declared(100), declared(10_000)
    with small.client() as client:
        rejected = client.publish("blobs", Blob(b"x" * 200))
        assert isinstance(rejected, Rejected)
        assert "event_bytes_max" in rejected.reason
    small.run(until_idle=True)
    with large.client() as client:
        assert isinstance(client.publish("blobs", Blob(b"x" * 200)), Acked)
    (part,) = large.run(until_idle=True).parts  # the flow's own topic has grown with the topic it reads
    assert (part.events, part.dead) == (1, 0)
    with pytest.raises(DeclaredDifferently, match="may grow and not shrink"), small.client():
        pass
