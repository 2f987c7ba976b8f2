"""The Parquet directory beyond the contract: names, columns, bounded manifests, and damage that is told."""

from __future__ import annotations

import errno
from importlib import import_module
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.channel.api import Owned
from penstock.errors import (
    ConfigError,
    CorruptionError,
    Fenced,
    IOFailed,
    PenstockError,
    RecordDamaged,
    RefusedByTarget,
)
from penstock.sink.api import Claim, Sink, Staged
from penstock.sink.parquet import manifests, parquet
from penstock.sink.parquet.errors import ARROW
from penstock.sink.parquet.layout import Manifest, Part, claim_number_of, decoded, encoded, home_of, part_name, tag_of
from penstock.system.points import hooked

OWNED = Owned("delays", 0, 1)


def claim(epoch: int = 1, *, pipeline: str = "p", topic: str = "delays") -> Claim:
    return Claim(pipeline, Owned(topic, 0, epoch), "log", 1, 0, 1000)


def opened(place: Path, epoch: int = 1) -> Sink:
    sink = parquet(place).open()
    sink.claim(claim(epoch))
    return sink


def put(sink: Sink, first: int, end: int, **columns: list[object]) -> int:
    batch = pa.RecordBatch.from_pydict(columns or {"id": list(range(first, end))})
    sink.write(Staged(OWNED, first, end, batch))
    return sink.commit(OWNED)


def home(place: Path) -> Path:
    return place / "_penstock" / home_of("p") / "0"


def test_files_are_zstd_with_statistics_and_large_row_groups(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    rows = 150_000
    batch = pa.RecordBatch.from_pydict({"id": pa.array(range(rows))})
    for first in range(0, rows, 1000):
        end = min(first + 1000, rows)
        sink.write(Staged(OWNED, first, end, batch.slice(first, end - first)))
    sink.commit(OWNED)
    (file,) = tmp_path.glob("*.parquet")
    assert file.name == part_name(("p", "delays", "log", 0), 0, rows)
    meta = pq.read_metadata(file)
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [132_000, 18_000], (
        "131,072 rows and what came with them"
    )
    column = meta.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert column.statistics.min == 0


def test_a_changed_schema_begins_a_new_file(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    sink.write(Staged(OWNED, 0, 2, pa.RecordBatch.from_pydict({"id": [0, 1]})))
    sink.write(Staged(OWNED, 2, 3, pa.RecordBatch.from_pydict({"id": [2], "more": ["x"]})))
    assert sink.commit(OWNED) == 3
    ends = sorted(path.stem.split("-")[2:] for path in tmp_path.glob("*.parquet"))
    assert ends == [["0", "0", "2"], ["0", "2", "3"]]


def test_a_column_keeps_its_type_across_owners(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    put(sink, 0, 1, id=[1])
    sink.close()
    sink = parquet(tmp_path).open()
    sink.claim(claim(2))
    with pytest.raises(RefusedByTarget, match=r"column id is string; .* have int64"):
        sink.write(Staged(Owned("delays", 0, 2), 1, 2, pa.RecordBatch.from_pydict({"id": ["x"]})))
    sink.close()


def test_doubled_columns_are_refused(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(RefusedByTarget, match="column a comes twice"):
        opened(tmp_path).write(Staged(OWNED, 0, 1, batch))


def test_the_number_of_manifests_is_bounded(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    for offset in range(3 * manifests.KEPT):
        assert put(sink, offset, offset + 1) == offset + 1
    sink.close()
    assert len(list(home(tmp_path).glob("*.json"))) == manifests.KEPT
    assert len(list(home(tmp_path).glob("*.done"))) == manifests.KEPT
    for epoch in range(2, 3 * manifests.KEPT):
        opened(tmp_path, epoch).close()
    assert len(list(home(tmp_path).iterdir())) == 2 * manifests.KEPT + 1
    assert list((home(tmp_path) / "tmp").iterdir()) == []
    assert sorted(pq.read_table(tmp_path)["id"].to_pylist()) == list(range(3 * manifests.KEPT))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0", "x" * 201, "ä", "a b", "a\n"])
def test_names_that_are_no_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 200"):
        parquet(tmp_path / "lake").open().claim(claim(pipeline=name))
    assert not (tmp_path / "lake").exists()


def test_folders_differ_where_the_disk_folds_case() -> None:
    assert home_of("Con").lower() != home_of("con").lower()
    assert home_of("x" * 200).startswith("x" * 200 + "-")


def test_a_pipeline_keeps_its_topic(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(ConfigError, match="holds topic delays, not arrivals"):
        parquet(tmp_path).open().claim(claim(2, topic="arrivals"))


def test_a_file_removed_by_others_after_the_commit_is_theirs(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    put(sink, 0, 3)
    sink.close()
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    sink = parquet(tmp_path).open()
    assert sink.claim(claim(2)) == 3
    sink.close()


def test_a_committed_file_that_nobody_has_seen_is_missed(tmp_path: Path) -> None:
    """Control: with the mark of completion the loss would pass unseen; without it the claim stops."""
    sink = opened(tmp_path)
    put(sink, 0, 3)
    sink.close()
    (home(tmp_path) / "2.done").unlink()
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    with pytest.raises(CorruptionError, match="gone under this and its temporary name"):
        parquet(tmp_path).open().claim(claim(2))
    (home(tmp_path) / "2.done").touch()
    (home(tmp_path) / "3.done").touch()
    parquet(tmp_path).open().claim(claim(3))


def test_another_file_under_a_final_name_is_not_overwritten(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    other = tmp_path / part_name(("p", "delays", "log", 0), 0, 3)
    other.write_bytes(b"not ours")
    with pytest.raises(CorruptionError, match="other content"):
        put(sink, 0, 3)
    assert other.read_bytes() == b"not ours"
    other.unlink()
    assert sink.commit(OWNED) == 3, "moved away: the commit goes on"
    assert pq.read_table(tmp_path)["id"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("damage", [b"{}", b"", b"flip"])
def test_a_damaged_manifest_is_never_used(tmp_path: Path, damage: bytes) -> None:
    sink = opened(tmp_path)
    put(sink, 0, 3)
    sink.close()
    path = home(tmp_path) / "2.json"
    path.write_bytes(path.read_bytes().replace(b'"end": 3', b'"end": 2') if damage == b"flip" else damage)
    with pytest.raises(RecordDamaged, match=r"2\.json"):
        parquet(tmp_path).open().claim(claim(2))


def test_a_manifest_of_another_format_is_refused() -> None:
    manifest = Manifest(1, "p", "t", 0, "log", 1, 1, 0, 0, format=2)
    with pytest.raises(RecordDamaged, match="format 2"):
        decoded(encoded(manifest), "1.json")


def test_a_disk_that_fails_lets_the_partition_go(tmp_path: Path) -> None:
    def fail(name: str) -> None:
        if name.startswith("files.sync:"):
            raise OSError(errno.EIO, "Input/output error", name)

    sink = opened(tmp_path)
    with hooked(fail), pytest.raises(IOFailed, match="claim the partition again"):
        put(sink, 0, 3)
    with pytest.raises(Fenced, match="does not hold"):
        sink.commit(OWNED)
    again = parquet(tmp_path).open()
    assert again.claim(claim(2)) == 0
    again.close()
    assert list((home(tmp_path) / "tmp").iterdir()) == []


def test_a_disk_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> bool:
        raise OSError(errno.EPERM, "Operation not permitted", str(target))

    monkeypatch.setattr(manifests, "link_once", refuse)
    with pytest.raises(ConfigError, match="hard links"):
        opened(tmp_path)


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (home(tmp_path) / "tmp" / "notes.txt").write_text("mine")
    (home(tmp_path) / "tmp" / f"{tag_of(1, 1)}-0.part").write_text("stray")
    (home(tmp_path) / "tmp" / f"{tag_of(9, 99)}-0.part").write_text("a newer owner's")
    opened(tmp_path, 2).close()
    assert sorted(path.name for path in (home(tmp_path) / "tmp").iterdir()) == ["e9-c99-0.part", "notes.txt"]


def test_every_arrow_error_has_a_meaning() -> None:
    names = {
        name
        for name, value in vars(import_module("pyarrow.lib")).items()
        if isinstance(value, type) and issubclass(value, pa.ArrowException) and value.__name__ == name
    }
    assert names <= set(ARROW), f"unmapped: {names - set(ARROW)}"
    assert all(issubclass(meaning, PenstockError) for meaning in ARROW.values())


parts = st.builds(Part, st.text(), st.text(), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**32 - 1))


@given(st.lists(parts), st.integers(0, 2**62), st.dictionaries(st.text(), st.text()))
def test_manifests_survive_as_bytes(files: list[Part], end: int, columns: dict[str, str]) -> None:
    manifest = Manifest(2, "p", "t", 0, "log", 1, 1, 0, end, files=tuple(files), columns=columns)
    assert msgspec.structs.replace(decoded(encoded(manifest), "x"), check=0) == manifest


def test_claim_numbers_are_read_from_temporary_names() -> None:
    assert claim_number_of(f"{tag_of(3, 17)}-0.part") == 17
    assert claim_number_of("e3-17.part") is None
