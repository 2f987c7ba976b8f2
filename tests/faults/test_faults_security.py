"""Denied by default: names that are paths, bytes that would be code, payloads in logs, text that forges a log line."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from penstock import Acked, App, Reject, Rejected, Retry, parquet
from penstock.app.plan import plan_app
from penstock.channel.api import GroupSpec, LedgerWrite, Owned, Publish, Settle, Step, Subscription, TopicSpec
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.cli import entry, exits
from penstock.cli.options import opened
from penstock.errors import ConfigError, PenstockError
from penstock.event.batch import NewBatch, Rows
from penstock.sink.api import Claim
from penstock.system import real_system
from penstock.telemetry import emit
from tests.architecture import rules
from tests.faults import appwork
from tests.faults.report import FaultReport

NAMES = [
    "../outside",
    "..",
    ".",
    "/etc/cron.d/x",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "",
    "x" * 201,
    "con",
    "NUL.txt",
    "ümlaut",
    " ",
    "$(id)",
]


@pytest.mark.parametrize("name", NAMES)
async def test_names_are_never_paths(tmp_path: Path, name: str, fault_report: FaultReport) -> None:
    tally = fault_report("H9")
    channel = EmbeddedChannel(tmp_path / "in" / "log", system=real_system())
    await channel.open([TopicSpec("fine", partitions=1)])
    before = _files(tmp_path)
    with pytest.raises(ConfigError):
        await channel.open([TopicSpec(name, partitions=1)])
    with pytest.raises(ConfigError):
        await channel.join(Subscription(GroupSpec(name, "fine")))
    await channel.close()
    app = App("fine")
    topic = app.topic("t")
    handle = app.handle(topic, name=name or None)
    for declare in (App, app.topic, lambda text: app.flow(text, topic), lambda text: handle(_nothing)):
        if name or declare in (App, app.topic):
            with pytest.raises(ConfigError):
                declare(name)
    assert _files(tmp_path) == before
    tally.points += 1


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if "log.db" not in p.name)


def _nothing(event: bytes) -> None:
    """A handler that does nothing."""


@pytest.mark.parametrize("name", ["../outside", "/abs/olute", "a/b", "..", "con", "x" * 300])
def test_a_pipeline_s_name_leads_nowhere_in_a_lake(tmp_path: Path, name: str, fault_report: FaultReport) -> None:
    """Whoever uses the sink by itself may name a pipeline as he likes: nothing is written outside the lake."""
    tally = fault_report("H9")
    lake = tmp_path / "in" / "lake"
    sink = parquet(lake).open()
    with suppress(ConfigError):
        sink.claim(Claim(name, Owned("t", 0, 1), "log", 1, floor=0, tip=0))
    sink.close()
    below = sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(lake))
    assert below in ([], [tmp_path / "in"])
    tally.points += 1


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._mark}",)


async def test_a_pickle_planted_everywhere_is_only_bytes(tmp_path: Path, fault_report: FaultReport) -> None:
    """As an event, a key, a header, a ledger value and a note: read back as it was, and nothing ran."""
    tally = fault_report("H10")
    mark = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(mark))
    channel = EmbeddedChannel(tmp_path / "log", system=real_system())
    await channel.open([TopicSpec("t", partitions=1)])
    rows = Rows.of([bomb], {"key": [bomb], "headers": [{"h": bomb.decode("latin1")}]})
    await channel.publish(Publish("p", 0, 0, [NewBatch("t", 0, 1, rows)]))
    intake = await channel.join(Subscription(GroupSpec("g", "t")))
    await intake.next(events_max=10, bytes_max=1000, wait_s=0)
    step = Step("g", Owned("t", 0, 1), Settle(0, 1), ledger=[LedgerWrite("s", bomb, bomb)])
    await intake.commit(step)
    await intake.leave()
    again = await channel.join(Subscription(GroupSpec("g", "t")))
    assigned = await again.next(events_max=10, bytes_max=1000, wait_s=0)
    assert list(assigned.ledger) == [("s", bomb, bomb)]  # type: ignore[union-attr]
    (batch,) = await channel.read("t", 0, 0, events_max=1)
    assert batch.payload.bodies() == [bomb]  # type: ignore[union-attr]
    await channel.close()
    assert not mark.exists()
    tally.points += 1


def test_nothing_in_the_product_turns_bytes_into_code(fault_report: FaultReport) -> None:
    tally = fault_report("H10")
    import penstock  # noqa: PLC0415 - the copy under test, wherever it lies

    sources = sorted(Path(penstock.__file__).parent.rglob("*.py"))
    assert sources
    found = {str(p): rules.banned_calls(p.read_text(), names=rules.DANGEROUS) for p in sources}
    assert {path: complaints for path, complaints in found.items() if complaints} == {}
    tally.points += len(sources)


CANARY = "canary-7f3a91"


class Secret(msgspec.Struct):
    user: str
    token: str
    note: str = ""


def _leaky(place: Path) -> App:
    app = App("leaky", path=place / "log")
    logins = app.topic("logins", Secret, key="user")

    @app.handle(logins, retry=Retry(2, first_s=0))
    def check(login: Secret) -> None:
        if login.user == "reject":
            msg = "refused"
            raise Reject(msg)
        if login.user == "raise":
            msg = "broken"
            raise RuntimeError(msg)

    return app


class Spans:
    """Keeps every span that ends."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def span(self, name: str, fields: dict[str, object], *, error: str | None) -> None:
        self.said.append(f"{name} {fields} {error}")


def said(capsys: pytest.CaptureFixture[str], app: App, *command: str) -> str:
    """All that a command prints about the app's log."""
    capsys.readouterr()
    assert entry.outcome([*command, "--log", str(app.directory)]) in (exits.DONE, exits.PARTLY), command
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_payload_is_in_no_log_counter_span_or_reason(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    fault_report: FaultReport,
) -> None:
    """Secrets travel in payloads: they lie in the log and in dead letters' bodies, and nowhere else."""
    tally = fault_report("H13")
    caplog.set_level(logging.DEBUG)
    spans = Spans()
    emit.collect(spans)
    app = _leaky(tmp_path)
    try:
        with app.client() as client:
            for user in ("fine", "reject", "raise"):
                assert isinstance(client.publish("logins", Secret(user, CANARY)), Acked)
            bad = [Secret("bad", CANARY, note="\ud800"), Secret("big", CANARY, note="x" * 2_000_000), CANARY]
            refused = client.publish_many("logins", bad)
        app.run(until_idle=True)
    finally:
        emit.collect(None)
    assert all(isinstance(outcome, Rejected) for outcome in refused)
    for text in (caplog.text, repr(emit.counters()), *spans.said, *(outcome.reason for outcome in refused)):  # type: ignore[union-attr]
        assert CANARY not in text
        tally.points += 1
    assert "refused" in said(capsys, app, "dlq", "list")
    for command in (["dlq", "list"], ["doctor"], ["groups"], ["topics"]):
        assert CANARY not in said(capsys, app, *command)
        tally.points += 1


def test_the_environment_is_in_no_output(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault_report: FaultReport,
) -> None:
    """Tokens are in the environment: a failing handler's stack and `doctor` show none of it."""
    tally = fault_report("H13")
    monkeypatch.setenv("PENSTOCK_TOKEN", CANARY)
    app = _leaky(tmp_path)
    with app.client() as client:
        client.publish("logins", Secret("raise", "harmless"))
    app.run(until_idle=True)
    for path in app.directory.iterdir():
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()
            tally.points += 1
    assert CANARY not in said(capsys, app, "doctor", "--json")


FORGED = "fine\r\n2030-01-01 ERROR everything is lost\x1b[2J\x1b]0;title\x07\x9b31m\u2028x\x00"


def test_a_log_line_cannot_be_forged(caplog: pytest.LogCaptureFixture, fault_report: FaultReport) -> None:
    tally = fault_report("H19")
    caplog.set_level(logging.INFO, logger="penstock")
    emit.log(logging.WARNING, "group joins again", reason=FORGED)
    (record,) = caplog.records
    line = record.getMessage()
    assert not set(line) & {chr(code) for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
    assert line.startswith("group joins again reason=fine\\x0d\\x0a2030")
    tally.points += 1


class Word(msgspec.Struct):
    text: str


def test_the_terminal_cannot_be_steered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault_report: FaultReport
) -> None:
    """A reason that a handler took from its input, listed for people."""
    tally = fault_report("H19")
    app = App("words", path=tmp_path / "log")
    words = app.topic("words", Word)

    @app.handle(words, retry=Retry(1))
    def say(word: Word) -> None:
        raise Reject(word.text)

    with app.client() as client:
        assert isinstance(client.publish("words", Word(FORGED)), Acked)
    app.run(until_idle=True)
    (letter,) = [f"say/{p}/0" for p in range(4) if appwork.contents_of(app.directory, "say.dead", p)]
    for command in (["dlq", "list"], ["tail", "words"], ["dlq", "show", letter]):
        text = said(capsys, app, *command).replace("\n", "")
        assert not set(text) & {"\x1b", "\r", "\x07", "\x9b", "\u2028", "\0"}, (command, text)
        tally.points += 1


def test_contents_are_what_was_sent(tmp_path: Path) -> None:
    """Cleaning is for what is shown: the event itself is as it was."""
    app = App("words", path=tmp_path / "log")
    app.topic("words", Word)
    with app.client() as client:
        assert isinstance(client.publish("words", Word(FORGED)), Acked)
    assert appwork.contents(app.directory)["words"] == [{"text": FORGED}]
    with pytest.raises(PenstockError):
        App("..")


def test_dead_letters_are_kept_as_long_as_their_events(tmp_path: Path, fault_report: FaultReport) -> None:
    """Dead letters and commands to redrive are copies of events: what must be gone after a time is gone there too."""
    tally = fault_report("H14")
    app = App("words", path=tmp_path / "log")
    words = app.topic("words", Word, partitions=1)
    app.retain(words, age="7d")
    app.flow("again", words).with_columns(n=pl.col("text").str.len_chars()).to(parquet(tmp_path / "lake"))

    @app.handle(words)
    def say(word: Word) -> None:
        raise Reject("no")

    with app.client() as client:
        client.publish("words", Word(CANARY))
    app.run(until_idle=True)
    specs = plan_app(app).topics
    for name in ("say.dead", "say.redrive", "again.dead", "again.redrive"):
        assert specs[name].retention == specs["words"].retention
        tally.points += 1

    async def recorded() -> Any:
        async with opened(app.directory) as log:
            return log.channel.topic("say.dead").spec.retention

    assert asyncio.run(recorded()) == specs["words"].retention
