"""Rows are run interleaved in a directory of their own, and what was measured becomes results and a table."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.__main__ import arguments, chosen, main
from bench.disk import filesystem_of
from bench.report import budget_text, load, merged, number, save, table
from bench.row import Budget, Figure, Figures, NotBuilt, Row
from bench.rows import all_rows
from bench.runner import Result, name_of, results_of, run_row


class Scripted(Row):
    """A row whose figures are given; notes every call."""

    name = "scripted"
    workload = "none"
    figures = (Figure("rate", "events/s", "higher", Budget(0.5)),)

    def __init__(self, values: list[float], floors: list[float]) -> None:
        self.values, self.floors = values, floors
        self.calls: list[str] = []

    def setup(self, directory: Path, *, quick: bool) -> None:
        self.directory = directory
        (directory / "data").write_bytes(b"x")
        self.calls.append(f"setup quick={quick}")

    def floor(self) -> Figures:
        self.calls.append("floor")
        return {"rate": self.floors.pop(0)}

    def measure(self) -> Figures:
        self.calls.append("measure")
        if not self.values:
            msg = "the part"
            raise NotBuilt(msg)
        return {"rate": self.values.pop(0)}

    def close(self) -> None:
        self.calls.append("close")


def run(row: Row, home: Path, pairs: int) -> list[Result]:
    return run_row(row, home, pairs=pairs, quick=False, progress=lambda _: None)


def test_floor_and_figure_take_turns_and_the_warm_up_is_not_counted(tmp_path: Path) -> None:
    row = Scripted([999, 6, 4, 9], [1, 10, 10, 10])
    (result,) = run(row, tmp_path, 3)
    assert row.calls == ["setup quick=False", *["floor", "measure"] * 4, "close"]
    assert result.pairs == [(6, 10), (4, 10), (9, 10)]
    assert (result.value, result.floor, result.ratio, result.met) == (6, 10, 0.6, True)
    assert not row.directory.exists()


def test_a_missing_product_still_shows_its_floor(tmp_path: Path) -> None:
    row = Scripted([], [1, 20, 30, 10])
    (result,) = run(row, tmp_path, 3)
    assert row.calls.count("measure") == 1
    assert result.pairs == [(None, 20), (None, 30), (None, 10)]
    assert (result.value, result.floor, result.ratio, result.met) == (None, 20, None, None)
    assert result.note == "not built yet: the part"


def test_a_failing_row_is_closed_and_leaves_nothing_behind(tmp_path: Path) -> None:
    row = Scripted([1], [])
    with pytest.raises(IndexError):
        run(row, tmp_path, 1)
    assert row.calls[-1] == "close"
    assert list(tmp_path.iterdir()) == []


class Either(Scripted):
    """Two budgets of which one is enough."""

    figures = (
        Figure("rate", "events/s", "higher", Budget(30), floor="slow", label="slow"),
        Figure("rate", "events/s", "higher", Budget(0.4), floor="fast", label="fast"),
    )
    any_of = True


@pytest.mark.parametrize(("slow", "fast", "met"), [(1, 1000, True), (10, 200, True), (10, 1000, False)])
def test_one_of_two_budgets_is_enough(slow: float, fast: float, *, met: bool) -> None:
    floors: list[Figures] = [{"slow": slow, "fast": fast}]
    results = results_of(Either([], []), values=[{"rate": 100}], floors=floors, quick=False, missing="")
    assert [(r.name, r.met) for r in results] == [("scripted/slow", met), ("scripted/fast", met)]


@pytest.mark.parametrize(("value", "met"), [(0.25, True), (0.26, False)])
def test_a_budget_may_limit_the_value_itself(value: float, *, met: bool) -> None:
    row = Scripted([], [])
    row.figures = (Figure("start", "s", "lower", Budget(0.25, of="value")),)
    floors: list[Figures] = [{"start": 0.01}]
    (result,) = results_of(row, values=[{"start": value}], floors=floors, quick=True, missing="")
    assert (result.met, result.quick, budget_text(result)) == (met, True, "≤ 0.25 s")


def result(name: str, value: float | None = 1.0) -> Result:
    return Result(
        name=name,
        workload="w",
        value=value,
        unit="ms",
        better="lower",
        floor=1.0,
        pairs=[(value, 1.0)],
        ratio=value,
        budget=1.5,
        budget_of="ratio",
        met=None if value is None else value <= 1.5,
    )


def test_results_survive_the_file_with_all_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    results = [result("a"), result("b", None)]
    save(path, results)
    assert load(path) == results
    (first, _) = msgspec.json.decode(path.read_bytes())
    asked = {"name", "workload", "value", "unit", "better", "floor", "pairs", "ratio", "budget", "met"}
    assert asked <= set(first)
    assert first["pairs"] == [[1.0, 1.0]]


def test_a_file_of_another_layout_counts_as_no_results(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text('{"old": 1}')
    assert load(tmp_path / "bench.json") == load(tmp_path / "missing.json") == []


def test_measuring_one_row_again_keeps_the_others() -> None:
    after = merged([result("a"), result("b")], [result("c"), result("b", 2.0)])
    assert [(r.name, r.value) for r in after] == [("a", 1.0), ("b", 2.0), ("c", 1.0)]


def test_the_table_says_met_not_met_and_not_built() -> None:
    lines = table([result("a"), result("b", 2.0), result("c", None)]).splitlines()
    assert [line.rsplit("  ", 1)[1] for line in lines[1:]] == ["met", "NOT MET", "not built yet"]
    assert "≤ 1.5 x" in lines[1]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.12345, "0.123"), (999.4, "999"), (17_654_321, "17,700,000")]
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_the_file_system_is_that_of_the_longest_mount_point() -> None:
    mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/a\\040b xfs rw 0 0\n"
    assert filesystem_of(Path("/home/x"), mounts) == "ext4"
    assert filesystem_of(Path("/tmp/x"), mounts) == "tmpfs"
    assert filesystem_of(Path("/tmpfile"), mounts) == "ext4"
    assert filesystem_of(Path("/tmp/a b/c"), mounts) == "xfs"


def test_fewer_than_five_pairs_need_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(["--quick", "--pairs", "1"]).pairs == 1
    assert arguments([]).pairs == 5
    with pytest.raises(SystemExit):
        arguments(["--pairs", "4"])
    assert "--pairs 4: expected at least 5" in capsys.readouterr().err


def test_rows_are_chosen_by_the_start_of_their_name() -> None:
    rows = all_rows()
    assert [row.name for row in chosen(rows, ["publish-t", "cli"])] == ["publish-tasks", "cli-cold-start"]
    assert chosen(rows, []) == rows
    with pytest.raises(SystemExit, match="--only nope: no such row; the rows are publish-columns"):
        chosen(rows, ["nope"])


def test_the_budgets_are_the_design_s() -> None:
    budgets = {name_of(row, f): (f.better, f.budget.limit, f.budget.of) for row in all_rows() for f in row.figures}
    assert budgets == {
        "publish-columns": ("higher", 0.8, "ratio"),
        "publish-one-by-one": ("higher", 0.2, "ratio"),
        "publish-tasks/sync-per-event": ("higher", 30, "ratio"),
        "publish-tasks/in-memory-future": ("higher", 0.4, "ratio"),
        "handle-columns": ("higher", 0.5, "ratio"),
        "handle-rows": ("higher", 0.4, "ratio"),
        "handle-async": ("higher", 0.2, "ratio"),
        "handle-into": ("higher", 0.4, "ratio"),
        "filter-project": ("higher", 0.5, "ratio"),
        "latency/p50": ("lower", 1.5, "ratio"),
        "latency/p99": ("lower", 3, "ratio"),
        "latency-async/p50": ("lower", 2, "ratio"),
        "latency-async/p99": ("lower", 3, "ratio"),
        "latency-beside-bulk/p99": ("lower", 10, "value"),
        "latency-beside-bulk/bulk": ("higher", 0.9, "ratio"),
        "cli-cold-start": ("lower", 0.25, "value"),
        "fail-once": ("higher", 0.7, "ratio"),
        "fail-once-kept": ("higher", 0.9, "ratio"),
        "blocked-key": ("higher", 0.9, "ratio"),
        "blocked-key/memory": ("lower", 50, "value"),
        "side-by-side": ("higher", 0.9, "ratio"),
        "upkeep/p99": ("lower", 5, "ratio"),
        "take-over/kill -9": ("lower", 200.0, "value"),
        "take-over/SIGSTOP": ("lower", 2200.0, "value"),
        "four-workers": ("higher", 1.6, "ratio"),
        "two-publishers": ("higher", 0.8, "ratio"),
    }


def test_a_row_that_fails_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, whole = Scripted([], []), Scripted([1, 2], [1, 4])
    broken.name = "broken"
    out = tmp_path / "bench.json"
    monkeypatch.setattr("bench.__main__.all_rows", lambda: [broken, whole])
    monkeypatch.setattr("sys.argv", ["bench", "--quick", "--pairs", "1", "--out", str(out)])
    with pytest.raises(SystemExit, match="failed: broken"):
        main()
    assert [(result.name, result.ratio) for result in load(out)] == [("scripted", 0.5)]
    assert "IndexError" in capsys.readouterr().err
