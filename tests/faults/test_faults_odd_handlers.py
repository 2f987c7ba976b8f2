"""Plain handlers in processes that do unusual things to them: each costs its own event, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from penstock import App
from tests.faults import appwork
from tests.faults import oddprogram as program
from tests.faults.logwork import ROOT

Letters = dict[str, tuple[str, str, int]]


def start(place: Path, *keys: str, all_: bool = True, env: Mapping[str, float] | None = None) -> subprocess.Popen[str]:
    """Events with these keys, and the program that handles them."""
    app = App("odd", path=place / "log")
    app.topic("items", program.Item, key="key", partitions=1)
    with app.client() as client:
        client.publish_many("items", [program.Item(key, number) for number, key in enumerate(keys)])
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    given = {"PLACE": str(place), "PYTHONPATH": path, **{name: str(value) for name, value in (env or {}).items()}}
    command = [sys.executable, str(Path(program.__file__)), *(["--all"] if all_ else [])]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **given}, stderr=subprocess.PIPE, text=True)


def run(place: Path, *keys: str, env: Mapping[str, float] | None = None) -> tuple[list[str], Letters]:
    """The keys of what was done; and of dead letters by theirs: error, reason, attempts."""
    with start(place, *keys, env=env) as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    done = [event["key"] for event in appwork.contents(place / "log")["done"]]
    dead: Letters = {}
    for (topic, _), payloads in asyncio.run(appwork._payloads(place / "log")).items():
        for rows in payloads if topic == "work.dead" else ():
            for key, headers in zip(rows.attributes["key"], rows.attributes["headers"], strict=True):
                dead[key.decode()] = headers["error"], headers["reason"], int(headers["attempts"])
    return done, dead


def calls(place: Path) -> list[list[str]]:
    """Key, attempt and process of each call."""
    return (
        [line.split(",") for line in (place / "calls").read_text().splitlines()] if (place / "calls").exists() else []
    )


def until(met: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether there is such a process, other than one that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Its children."""
    return [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]


def test_the_time_to_load_the_program_is_no_event_s(tmp_path: Path) -> None:
    """The limit is shorter than a process takes to come up: only what the handler takes counts."""
    keys = [f"k{number}" for number in range(10)]
    done, dead = run(tmp_path, *keys[:5], "slow", *keys[5:], env={"TIMEOUT_S": 0.4, "LOAD_S": 0.6})
    assert sorted(done) == keys
    assert list(dead) == ["slow"]


def test_a_program_that_is_broken_while_it_runs(tmp_path: Path) -> None:
    """No process can be started any more: the run ends and says why, and no other event is charged with it."""
    with start(tmp_path, "a", "break", *(f"some{number}" for number in range(500))) as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "half of a new version" in told
    assert all(b"break" in body for body in appwork.bodies(tmp_path / "log", "work.dead"))


def test_what_it_raises_and_returns_is_told_as_from_the_program_s_own_process(tmp_path: Path) -> None:
    done, dead = run(tmp_path, "surrogate", "rejected", "group", "bare", "wrong", "a")
    assert done == ["a"]
    assert {key: (error, attempts) for key, (error, _, attempts) in dead.items()} == {
        "surrogate": ("ValueError", 2),
        "rejected": ("Reject", 1),
        "group": ("ExceptionGroup", 2),
        "bare": ("Bare", 2),
        "wrong": ("OutputRefused", 1),
    }


def test_its_results_are_stored_as_it_gave_them(tmp_path: Path) -> None:
    """A field that the topic's type does not have is stored as it is where the handler runs in the app's process."""
    assert run(tmp_path, "longer") == (["longer"], {})
    assert [b'"more":"more"' in body for body in appwork.bodies(tmp_path / "log", "done")] == [True]


def test_a_thread_that_outlives_its_call_takes_no_token_from_the_next(tmp_path: Path) -> None:
    assert run(tmp_path, "late", "late") == (["late", "late"], {})


def test_a_process_that_died_while_idle_costs_no_event(tmp_path: Path) -> None:
    with start(tmp_path, "dies later", all_=False) as process:
        until(lambda: len(calls(tmp_path)) == 1, "it is called")
        pid = int(calls(tmp_path)[0][2])
        until(lambda: not alive(pid), "it dies")
        time.sleep(0.1)  # for its program to learn of it
        app = App("odd", path=tmp_path / "log")
        app.topic("items", program.Item, key="key", partitions=1)
        with app.client() as client:
            client.publish_many("items", [program.Item(f"k{number}", number) for number in range(4)])
        until(lambda: len(calls(tmp_path)) >= 5, "the others are called")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert {attempt for _, attempt, _ in calls(tmp_path)} == {"1"}


def test_it_ends_although_threads_of_its_go_on(tmp_path: Path) -> None:
    began = time.monotonic()
    done, dead = run(tmp_path, "thread", "a")
    assert done == ["a"]
    assert dead["thread"] == ("ProcessDied", "the process that handled it died: it ended with code 3", 2)
    assert time.monotonic() - began < 15


def test_a_forked_copy_answers_nothing(tmp_path: Path) -> None:
    """What the copy returns is not taken for the answer of the next event, and it does not stay."""
    keys = [f"k{number}" for number in range(20)]
    done, dead = run(tmp_path, *keys[:10], "fork", *keys[10:])
    assert (sorted(done), dead) == (sorted([*keys, "fork"]), {})


def test_one_that_holds_the_interpreter_lock_ends_with_its_program(tmp_path: Path) -> None:
    with start(tmp_path, "stuck", all_=False) as process:
        until(lambda: len(calls(tmp_path)) == 1, "it is called")
        process.kill()
        process.communicate(timeout=60)
    until(lambda: not alive(int(calls(tmp_path)[0][2])), "it outlives its program")


def test_what_it_has_started_ends_with_a_call_that_is_cut_off(tmp_path: Path) -> None:
    with start(tmp_path, "program", env={"TIMEOUT_S": 1}) as process:
        until(lambda: len(calls(tmp_path)) == 1, "it is called")
        pid = int(calls(tmp_path)[0][2])
        until(lambda: len(children_of(pid)) == 1, "it starts its program")
        (started,) = children_of(pid)
        process.communicate(timeout=60)
    assert not alive(started)


def test_a_signal_to_all_processes_of_a_service_loses_no_attempt(tmp_path: Path) -> None:
    """As a service manager ends a service: what is being handled is finished, and committed."""
    with start(tmp_path, "slow", all_=False) as process:
        until(lambda: len(calls(tmp_path)) == 1, "it is called")
        os.kill(int(calls(tmp_path)[0][2]), signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert [event["key"] for event in appwork.contents(tmp_path / "log")["done"]] == ["slow"]
    assert [attempt for _, attempt, _ in calls(tmp_path)] == ["1"]
