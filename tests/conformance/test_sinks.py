"""The sinks keep the sink contract; and the suite is red when a guard is taken out of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import duckdb
import pytest

from penstock.sink.api import Sink
from penstock.sink.duckdb import duckdb_table, wire
from penstock.sink.parquet import manifests, parquet, stage
from penstock.sink.parquet.layout import Manifest
from penstock.system.files import link_once
from penstock.system.points import reached
from penstock.testing.conformance.sink import Row, SinkConformance


class TestParquet(SinkConformance):
    """A reader globs the directory."""

    sink_name = "parquet"

    def make_sink(self, place: Path) -> Sink:
        return parquet(place / "lake").open()

    def read(self, place: Path) -> list[Row]:
        if not list(place.glob("lake/**/*.parquet")):
            return []
        return duckdb.sql(f"SELECT id, text FROM read_parquet('{place}/lake/**/*.parquet')").fetchall()  # pyright: ignore[reportOptionalMemberAccess]


class TestDuckDBUpsert(SinkConformance):
    """One row per id."""

    sink_name = "duckdb, upsert by key"
    key: tuple[str, ...] = ("id",)

    def make_sink(self, place: Path) -> Sink:
        return duckdb_table(place / "t.duckdb", table="delays", key=self.key, wait_s=0).open()

    def read(self, place: Path) -> list[Row]:
        with duckdb.connect(str(place / "t.duckdb")) as connection:
            if not connection.execute(wire.TABLE_COLUMNS, ["delays"]).fetchall():
                return []
            return connection.execute("SELECT id, text FROM delays").fetchall()

    def no_room(self, point: str) -> Exception:
        if point.startswith("duckdb."):
            msg = f'Could not write file "x.duckdb.wal": {os.strerror(errno.ENOSPC)}'
            return duckdb.IOException(msg)
        return super().no_room(point)


class TestDuckDBAppend(TestDuckDBUpsert):
    """One row per event."""

    sink_name = "duckdb, append"
    key = ()


def _overwriting_link(source: Path, target: Path) -> bool:
    """What a rename would be: the last one wins."""
    reached("link")
    if target.suffix == ".json":
        os.replace(source, target)
        return True
    return link_once(source, target)


class TestControls:
    """Each guard that is taken out is found; three guards stand against a late owner, two of them suffice."""

    def test_temporary_names_that_readers_see(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "TEMPORARY", ".parquet")
        with pytest.raises((AssertionError, duckdb.Error)):
            TestParquet().test_a_crash_anywhere_loses_and_doubles_nothing(tmp_path)

    def test_final_names_before_the_manifest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def early(self: manifests.Manifests, manifest: Manifest, tag: str, *, again: bool) -> bool:
            for part in manifest.files:
                os.replace(self.scratch / part.temporary, self.root / part.name)
            return append(self, manifest, tag, again=again)

        append = manifests.Manifests.append
        monkeypatch.setattr(manifests.Manifests, "append", early)
        with pytest.raises(AssertionError):
            TestParquet().test_a_crash_anywhere_loses_and_doubles_nothing(tmp_path)

    def test_a_new_owner_that_does_not_finish(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manifests.Manifests, "unfinished", lambda self, manifest: manifest.files)
        with pytest.raises(AssertionError, match="after a crash at"):
            TestParquet().test_a_crash_anywhere_loses_and_doubles_nothing(tmp_path)

    @pytest.mark.parametrize("looks", [True, False])
    @pytest.mark.parametrize("links", [True, False])
    def test_a_late_owner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, looks: bool) -> None:
        monkeypatch.setattr(manifests.Manifests, "remove_strays", lambda self, claim_number: None)
        monkeypatch.setattr(manifests.Manifests, "unfinished", lambda self, one: (*one.unfinished, *one.files))
        if not links:
            monkeypatch.setattr(manifests, "link_once", _overwriting_link)
        if not looks:
            monkeypatch.setattr(manifests.Manifests, "_is_newest", lambda self, number: True)
        suite = TestParquet()
        if links or looks:
            suite.test_an_owner_overtaken_anywhere_in_its_commit(tmp_path)
        else:
            with pytest.raises(AssertionError, match="overtaken at"):
                suite.test_an_owner_overtaken_anywhere_in_its_commit(tmp_path)

    @pytest.mark.parametrize("looks", [True, False])
    def test_a_pruned_manifest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: bool) -> None:
        monkeypatch.setattr(manifests.Manifests, "remove_strays", lambda self, claim_number: None)
        monkeypatch.setattr(manifests, "KEPT", 1)
        suite = TestParquet()
        if looks:
            suite.test_an_owner_overtaken_anywhere_in_its_commit(tmp_path)
            return
        monkeypatch.setattr(manifests.Manifests, "_is_newest", lambda self, number: True)
        with pytest.raises(AssertionError, match="overtaken at"):
            suite.test_an_owner_overtaken_anywhere_in_its_commit(tmp_path)

    def test_a_position_that_moves_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "ADVANCE", wire.ADVANCE.replace('AND "offset" = ?', "AND -1 <> ?"))
        with pytest.raises(AssertionError):
            TestDuckDBAppend().test_a_commit_that_failed_can_be_repeated(tmp_path)

    def test_a_position_without_a_fence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "ADVANCE", wire.ADVANCE.replace("AND epoch <= ?", "AND -1 <> ?"))
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            TestDuckDBAppend().test_a_fenced_owner_writes_nothing(tmp_path)
