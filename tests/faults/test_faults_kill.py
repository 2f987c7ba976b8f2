"""Kill -9 before acts on the disk: what was acked is there, nothing contradicts, the job runs to its end."""

from __future__ import annotations

from tests.faults import appwork, explore, logwork
from tests.faults.report import FaultReport, Tally

POINTS = 20


def _counted(outcome: explore.Outcome, tally: Tally) -> None:
    tally.points += sum(visit.died for visit in outcome.visits)
    for visit in outcome.visits:
        where = f"killed before act {visit.at} ({visit.act})"
        tally.note(where, lost=visit.lost)
        tally.contradicts(where, visit.wrong)


def test_killed_anywhere_and_run_again(seed: int, fault_report: FaultReport) -> None:
    tally = fault_report("A1", "B9")
    outcome = explore.explored(explore.Plan(logwork.Job(batches=4), points=POINTS, seed=seed))
    _counted(outcome, tally)
    assert tally.clean, tally.told


def test_killed_at_every_commit_and_run_again(seed: int, fault_report: FaultReport) -> None:
    """The named points stand before and behind each transaction: here a step that is not one whole would show."""
    tally = fault_report("A1")
    outcome = explore.explored(explore.Plan(logwork.Job(batches=4), named=("log.",), seed=seed))
    _counted(outcome, tally)
    assert tally.clean, tally.told


def test_killed_while_the_log_is_made(seed: int, fault_report: FaultReport) -> None:
    tally = fault_report("A3")
    job = logwork.Job(batches=2)
    kinds = ("create", "mkdir", "rename", "sync", "sync_directory", "unlink", "truncate")
    outcome = explore.explored(explore.Plan(job, points=20, seed=seed, kinds=kinds))
    _counted(outcome, tally)
    assert tally.clean, tally.told


def test_killed_during_a_checkpoint(seed: int, fault_report: FaultReport) -> None:
    tally = fault_report("A13")
    job = logwork.Job(batches=6, checkpoint_pages=8)
    outcome = explore.explored(explore.Plan(job, points=POINTS, seed=seed, kinds=("write", "sync", "truncate")))
    _counted(outcome, tally)
    assert tally.clean, tally.told


def test_the_whole_way_killed_anywhere_and_run_again(seed: int, fault_report: FaultReport) -> None:
    """Publish → handler → dead letters, Parquet and DuckDB: every order once everywhere, in order per customer."""
    tally = fault_report("A1", "B9", "G1")
    outcome = explore.explored(explore.Plan(appwork.Job(), points=4, seed=seed))
    _counted(outcome, tally)
    assert tally.points >= 2
    assert tally.clean, tally.told


def test_killed_between_a_sink_and_the_log(seed: int, fault_report: FaultReport) -> None:
    """The target has it and the log does not know yet, and the other way round: everything is there once."""
    tally = fault_report("G1")
    named = ("duckdb.commit", "parquet.finished", "files.link", "duckdb.rows")
    outcome = explore.explored(explore.Plan(appwork.Job(), points=5, seed=seed, named=named))
    _counted(outcome, tally)
    assert tally.points >= 3
    assert tally.clean, tally.told


def test_the_whole_way_in_a_crash_loop(seed: int, fault_report: FaultReport) -> None:
    """One directory, many lives, each of them cut off."""
    tally = fault_report("A1", "B9", "G1")
    outcome = explore.explored(explore.Plan(appwork.Job(orders=60), points=6, seed=seed, loop=True))
    _counted(outcome, tally)
    assert tally.points >= 3
    assert tally.clean, tally.told
