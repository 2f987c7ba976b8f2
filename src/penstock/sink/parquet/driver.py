"""Results as a directory of Parquet files; the commit is a manifest per partition.

The order of acts: temporary files written and synced, manifest n+1 linked (compare-and-set), files linked under their
final names. A new owner links an empty manifest first, then finishes what the last one has left, then removes
temporary files of earlier claims.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from penstock.channel.api import Owned
from penstock.errors import ConfigError, Fenced, LogRegressed, PenstockError, RefusedByTarget
from penstock.sink.api import Claim, Staged
from penstock.sink.parquet.config import ParquetSink
from penstock.sink.parquet.errors import io_failed, translated
from penstock.sink.parquet.layout import Manifest, part_name, tag_of
from penstock.sink.parquet.manifests import Manifests
from penstock.sink.parquet.stage import Stage
from penstock.sink.room import no_room

_CLAIMS_MAX = 100


class ParquetDirectory:
    """A `Sink`. Delivery guarantee: effectively-once; D2 on a local disk; order per partition within a file.

    After `IOFailed` the partition is no longer held and must be claimed again (under a newer epoch); after `SinkFull`
    no partition is: all of them give up the room that their temporary files take.
    """

    def __init__(self, config: ParquetSink) -> None:
        self.name = f"parquet:{config.path}"
        self.roll = config.roll
        self.together = False
        self._config = config
        self._root = Path(config.path)
        self._held: dict[tuple[str, int], _Held] = {}

    def claim(self, claim: Claim) -> int:
        """See `Sink`."""
        key = (claim.owned.topic, claim.owned.partition)
        if key in self._held:
            self._held.pop(key).let_go()
        manifests = Manifests(self._root, claim.pipeline, claim.owned.partition)
        try:
            manifests.prepare()
            mine = _claimed(manifests, claim)
            manifests.finish(mine)
            manifests.remove_strays(mine.number)
            manifests.prune(mine.number)
        except OSError as exc:
            raise io_failed(exc, str(self._root)) from exc
        self._held[key] = _Held(manifests, mine, self._config.zstd_level)
        return mine.end

    def write(self, staged: Staged) -> None:
        """See `Sink`."""
        with self._holding(staged.owned) as held:
            held.write(staged)

    def commit(self, owned: Owned) -> int:
        """See `Sink`. May be called again after any exception but `Fenced` and `IOFailed`."""
        with self._holding(owned) as held:
            return held.commit()

    def close(self) -> None:
        """See `Sink`."""
        for held in self._held.values():
            held.let_go()
        self._held.clear()

    @contextmanager
    def _holding(self, owned: Owned) -> Generator[_Held]:
        key = (owned.topic, owned.partition)
        held = self._held.get(key)
        if held is None or held.last.epoch != owned.epoch:
            msg = f"{self.name}: epoch {owned.epoch} does not hold partition {owned.partition} of {owned.topic} here"
            raise Fenced(msg)
        try:
            yield held
        except Fenced:
            self._abandon(key)
            raise
        except OSError as exc:
            if no_room(exc):
                self.close()
            else:
                self._abandon(key)
            raise self._lost_or_failed(held, exc) from exc

    def _abandon(self, key: tuple[str, int]) -> None:
        """Stop without removing a file: the newer owner may have found them committed."""
        self._held.pop(key).stage.abandon()

    def _lost_or_failed(self, held: _Held, exc: OSError) -> PenstockError:
        """A new owner removes our temporary files: then a missing file means that we are fenced."""
        try:
            newest = held.manifests.newest()
        except OSError:
            newest = None
        if newest is not None and newest.number > held.last.number and newest.epoch > held.last.epoch:
            return _fenced(held.last, newest)
        return io_failed(exc, str(self._root))


class _Held:
    """One partition as this process has claimed it: the last manifest it linked, and what is staged above it."""

    def __init__(self, manifests: Manifests, last: Manifest, zstd_level: int) -> None:
        self.manifests = manifests
        self.last = last
        self._tag = tag_of(last.epoch, last.number)
        self._staged_end = last.end
        self._columns = dict(last.columns)
        self._finished = True
        self._committing = False
        self.stage = Stage(manifests.scratch, self._tag, zstd_level=zstd_level, naming=self._name)

    def write(self, staged: Staged) -> None:
        if staged.first != self._staged_end or staged.end < staged.first:
            msg = f"offsets [{staged.first}, {staged.end}) do not follow {self._staged_end}"
            raise ValueError(msg)
        assert not self._committing, "commit again before writing on: its outcome is open"
        schema = staged.table.schema
        columns = {field.name: str(field.type) for field in schema}
        self._require_columns(schema, columns)
        try:
            self.stage.add(staged.first, staged.end, staged.table)
        except pa.ArrowException as exc:
            what = f"Parquet cannot hold offsets [{staged.first}, {staged.end}) of {self.last.topic} ({columns})"
            raise translated(exc, what) from exc
        self._columns.update(columns)
        self._staged_end = staged.end

    def commit(self) -> int:
        self._finish()
        if self._staged_end == self.last.end:
            return self.last.end
        self._committing = True
        last = self.last
        manifest = Manifest(
            number=last.number + 1,
            pipeline=last.pipeline,
            topic=last.topic,
            partition=last.partition,
            log=last.log,
            incarnation=last.incarnation,
            epoch=last.epoch,
            first=last.end,
            end=self._staged_end,
            files=self.stage.seal(),
            columns=self._columns,
        )
        if not self.manifests.append(manifest, self._tag, again=True):
            raise _fenced(last, self.manifests.newest())
        self.last = manifest
        self._finished = False
        self._committing = False
        self.stage.clear()
        self._finish()
        return manifest.end

    def let_go(self) -> None:
        """Remove what is staged, unless its commit may have gone through: then the next owner decides."""
        if self._committing and self._may_be_linked():
            self.stage.abandon()
        else:
            self.stage.drop()

    def _may_be_linked(self) -> bool:
        try:
            return self.manifests.newest_number() > self.last.number
        except OSError:
            return True

    def _finish(self) -> None:
        if self._finished:
            return
        self.manifests.finish(self.last)
        self.manifests.prune(self.last.number)
        self._finished = True

    def _require_columns(self, schema: pa.Schema, columns: dict[str, str]) -> None:
        if len(columns) != len(schema):
            doubled = next(name for name in schema.names if schema.names.count(name) > 1)
            msg = f"column {doubled} comes twice; expected every name once: rename one"
            raise RefusedByTarget(msg)
        for name, found in columns.items():
            expected = self._columns.get(name, found)
            if found != expected:
                msg = (
                    f"column {name} is {found}; the files in {self.manifests.root} have {expected}, and a reader of "
                    "the directory needs one type: write to another directory or rename the column"
                )
                raise RefusedByTarget(msg)

    def _name(self, first: int, end: int) -> str:
        return part_name((self.last.pipeline, self.last.topic, self.last.log, self.last.partition), first, end)


def _claimed(manifests: Manifests, claim: Claim) -> Manifest:
    """Link an empty manifest with the claim's epoch on top of the newest one, whichever that turns out to be."""
    for _ in range(_CLAIMS_MAX):
        newest = manifests.newest()
        mine = _claim_on(newest, claim, manifests)
        if manifests.append(mine, tag_of(mine.epoch, mine.number), again=False):
            return mine
    msg = f"{manifests.home}: {_CLAIMS_MAX} claims were overtaken; another owner is at work"
    raise Fenced(msg)


def _claim_on(newest: Manifest | None, claim: Claim, manifests: Manifests) -> Manifest:
    owned = claim.owned
    first = Manifest(
        number=1,
        pipeline=claim.pipeline,
        topic=owned.topic,
        partition=owned.partition,
        log=claim.log,
        incarnation=claim.incarnation,
        epoch=owned.epoch,
        first=claim.floor,
        end=claim.floor,
    )
    if newest is None:
        return first
    # Epochs of another log say nothing: which log it is comes first.
    if (newest.log, newest.incarnation) == (claim.log, claim.incarnation) and newest.epoch > owned.epoch:
        raise _fenced(first, newest)
    _require_history(newest, claim, manifests.root)
    return Manifest(
        number=newest.number + 1,
        pipeline=claim.pipeline,
        topic=owned.topic,
        partition=owned.partition,
        log=claim.log,
        incarnation=claim.incarnation,
        epoch=owned.epoch,
        first=newest.end,
        end=newest.end,
        unfinished=manifests.unfinished(newest),
        columns=newest.columns,
    )


def _require_history(newest: Manifest, claim: Claim, root: Path) -> None:
    where = f"{root}: pipeline {claim.pipeline}, partition {claim.owned.partition}"
    if (newest.pipeline, newest.topic) != (claim.pipeline, claim.owned.topic):
        msg = f"{where} holds topic {newest.topic}, not {claim.owned.topic}; use another directory or pipeline name"
        raise ConfigError(msg, path="sink.pipeline")
    way_out = "restore the log's newer copy, or write to a new directory; nothing was changed"
    if (newest.log, newest.incarnation) != (claim.log, claim.incarnation):
        found, expected = f"{newest.log}/{newest.incarnation}", f"{claim.log}/{claim.incarnation}"
        msg = f"{where} was written from log {found} (log/incarnation), this one is {expected}: {way_out}"
        raise LogRegressed(msg)
    if newest.end > claim.tip:
        msg = f"{where} holds offsets up to {newest.end}, the log ends at {claim.tip}: {way_out}"
        raise LogRegressed(msg)


def _fenced(mine: Manifest, newest: Manifest | None) -> Fenced:
    holder = "another owner" if newest is None else f"epoch {newest.epoch}"
    msg = (
        f"{holder} has partition {mine.partition} of {mine.topic} in pipeline {mine.pipeline}; epoch {mine.epoch} stops"
    )
    return Fenced(msg)
