"""The command line as a process of its own: how fast it starts, how it ends, what it loads."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.cli import exits
from tests.unit.cli.test_cli_doing import PROGRAM

PENSTOCK = [sys.executable, "-m", "penstock.cli"]
HEAVY = ("pyarrow", "polars", "duckdb", "rich", "apsw", "numpy", "asyncio")
LIMIT_S = 20.0


@contextmanager
def _started(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block."""
    with subprocess.Popen(
        [*PENSTOCK, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def _ran(folder: Path) -> Path:
    """The program's folder after a whole run."""
    _program(folder)
    subprocess.run([*PENSTOCK, "run", "shop.py", "--until-idle"], cwd=folder, check=True, capture_output=True)
    return folder


def _program(folder: Path) -> Path:
    (folder / "pyproject.toml").write_text("")
    (folder / "shop.py").write_text(PROGRAM)
    (folder / "in.ndjson").write_text("".join(f'{{"id":{n},"customer":"c{n % 3}"}}\n' for n in range(1000)))
    return folder


def test_it_starts_fast(tmp_path: Path) -> None:
    """Within 0.25 s. Measured as time on the processor, which other work on the machine does not lengthen."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(5):
        subprocess.run([*PENSTOCK, "--help"], cwd=tmp_path, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert taken / 5 <= 0.25


@pytest.mark.parametrize("arguments", [["--help"], ["topics", "--help"], ["run", "--help"], ["query", "--help"]])
def test_help_loads_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    """Not even rich."""
    code = f"import sys; from penstock.cli.entry import outcome; outcome({arguments!r}); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in said.stdout.splitlines()[-1].split()}
    assert loaded & set(HEAVY) == set()


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    told = {"_PENSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": "penstock d", "COMP_CWORD": "1"}
    said = subprocess.run(PENSTOCK, cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, check=False)
    assert [line.partition(",")[2] for line in said.stdout.splitlines()] == ["demo", "dlq", "doctor"]


def test_sigterm_drains(tmp_path: Path) -> None:
    """What was in hand is committed, the report is printed, and the exit code says that all is well."""
    with _started("run", "shop.py", cwd=_program(tmp_path)) as running:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            counted = [*PENSTOCK, "query", "--csv", "SELECT count(*) FROM good"]
            looked = subprocess.run(counted, cwd=tmp_path, capture_output=True, text=True, check=False)
            if looked.stdout.split() == ["count_star()", "900"]:
                break
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == exits.DONE, err
    assert "check" in out
    assert "Traceback" not in err


def test_a_second_one_shares_and_takes_over(tmp_path: Path) -> None:
    """Each partition says who has it; when one process is killed, the other has all."""
    folder = _program(tmp_path)
    with _started("run", "shop.py", cwd=folder) as first:
        _until_owned(folder, {first.pid})
        with _started("run", "shop.py", cwd=folder) as second:
            _until_owned(folder, {first.pid, second.pid})
            first.kill()
            _until_owned(folder, {second.pid})
            second.send_signal(signal.SIGTERM)
            second.communicate(timeout=LIMIT_S)
            assert second.returncode == exits.DONE


def _until_owned(folder: Path, pids: set[int]) -> None:
    deadline = time.monotonic() + LIMIT_S
    wanted = {f"process {pid}" for pid in pids}
    while time.monotonic() < deadline:
        asked = [*PENSTOCK, "groups", "check", "--json"]
        said = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False).stdout
        if said and {part["owner"] for part in json.loads(said)["groups"][0]["partitions"]} == wanted:
            return
    pytest.fail(f"expected {wanted}: {said}")


def test_workers_under_one_parent(tmp_path: Path) -> None:
    """A worker that is killed is replaced; SIGTERM drains all of them; what they did is added up."""
    folder = _program(tmp_path)
    with _started("run", "shop.py", "--workers", "2", "--json", cwd=folder) as parent:
        children = _until_workers(folder, 2)
        os.kill(int(children.pop()), signal.SIGKILL)
        assert len(_until_workers(folder, 2) & children) == 1
        parent.send_signal(signal.SIGTERM)
        out, err = parent.communicate(timeout=LIMIT_S)
    assert parent.returncode == exits.DONE
    assert "was killed by signal 9" in err
    assert {part["name"] for part in json.loads(out)["parts"]} >= {"check"}


def test_workers_whose_program_prints(tmp_path: Path) -> None:
    """What a program or a handler prints is not taken for what a worker says; it goes to standard error."""
    folder = _program(tmp_path)
    printing = PROGRAM.replace(
        "    if order.id", "    print('order', order.id)\n    os.system('echo below')\n    if order.id"
    )
    (folder / "shop.py").write_text(f"import os\nprint('loaded')\n{printing}")
    (folder / "in.ndjson").write_text('{"id":1,"customer":"c"}\n')
    with _started("run", "shop.py", "--workers", "2", "--until-idle", "--json", cwd=folder) as parent:
        out, err = parent.communicate(timeout=LIMIT_S)
    assert parent.returncode == exits.DONE, err
    assert {part["name"]: part["events"] for part in json.loads(out)["parts"]}["check"] == 1
    assert (err.count("loaded\n"), err.count("order 1\n"), err.count("below\n")) == (3, 1, 1)


def test_a_report_is_one_document_whatever_the_program_prints(tmp_path: Path) -> None:
    folder = _program(tmp_path)
    printing = PROGRAM.replace("    if order.id", "    print(1)\n    if order.id")
    (folder / "shop.py").write_text(f"print('loaded')\n{printing}")
    ran = [*PENSTOCK, "run", "shop.py", "--until-idle"]
    said = subprocess.run([*ran, "--json"], cwd=folder, capture_output=True, text=True, check=True)
    assert {part["name"] for part in json.loads(said.stdout)["parts"]} >= {"check"}
    assert said.stderr.count("loaded\n") == 1
    assert subprocess.run(ran, cwd=folder, capture_output=True, text=True, check=True).stdout.startswith("loaded\n")


def test_workers_whose_children_outlive_them(tmp_path: Path) -> None:
    """What a handler has forked holds its worker's pipes open; the worker is replaced when it dies all the same."""
    folder = _program(tmp_path)
    fatal = f"    if not os.fork():\n        time.sleep({LIMIT_S})\n    os._exit(9)\n    if order.id"
    (folder / "shop.py").write_text(f"import os, time\n{PROGRAM.replace('    if order.id', fatal)}")
    (folder / "in.ndjson").write_text('{"id":1,"customer":"c"}\n')
    with _started("run", "shop.py", "--workers", "2", "--until-idle", cwd=folder) as parent:
        assert parent.wait(LIMIT_S / 2) == exits.DONE
    asked = [*PENSTOCK, "dlq", "list", "--json"]
    assert "check" in subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True).stdout


def _until_workers(folder: Path, count: int) -> set[str]:
    """The processes that have partitions of the group, once there are so many that are called workers."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        asked = [*PENSTOCK, "groups", "check", "--json"]
        said = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False).stdout
        found = set(re.findall(r'"owner": "worker \d \(process (\d+)\)"', said))
        if len(found) == count:
            return found
    pytest.fail(said)


@pytest.mark.parametrize(
    "arguments", [["tail", "good", "--from", "earliest", "--json"], ["query", "--json", "FROM good, good AS other"]]
)
def test_a_reader_that_goes_away(tmp_path: Path, arguments: list[str]) -> None:
    """`penstock tail … | head -1`: no complaint about the closed pipe."""
    with _started(*arguments, cwd=_ran(tmp_path)) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("{")
        running.stdout.close()
        assert running.wait(timeout=LIMIT_S) == exits.OUTPUT_CLOSED
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_a_process_without_standard_streams(tmp_path: Path) -> None:
    folder = _ran(tmp_path)
    publish, query = f"{shlex.join([*PENSTOCK, 'publish', 'orders'])} <&-", shlex.join([*PENSTOCK, "query", "-"])
    for line, code, said in (
        (publish, exits.DONE, "nothing to publish\n"),
        (f"{publish} >&-", exits.DONE, "nothing to publish\n"),
        (f"{publish} >&- 2>&-", exits.DONE, ""),
        (f"{query} <&-", 2, "no SQL"),
    ):
        ran = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
        assert (ran.returncode, said in ran.stderr) == (code, True), ran.stderr


def test_a_terminal_that_lacks_characters(tmp_path: Path) -> None:
    """Of whatever encoding: what it has not is escaped, in JSON as JSON is; also the ellipsis of a table."""
    folder, told = _ran(tmp_path), {**os.environ, "PYTHONIOENCODING": "latin-1"}

    def said(*arguments: str) -> str:
        ran = subprocess.run([*PENSTOCK, "query", *arguments], cwd=folder, capture_output=True, env=told, check=True)
        return ran.stdout.decode("latin-1")

    assert json.loads(said("--json", "SELECT 'é € 😀' AS a")) == {"a": "é € 😀"}
    assert said("SELECT 'é € 😀' AS a").split("\n")[1] == r"é \u20ac \ud83d\ude00"
    assert said("SELECT repeat('x', 100) AS a").split("\n")[1] == "x" * 59 + r"\u2026"


def test_ctrl_c_ends_following(tmp_path: Path) -> None:
    """At once, with the exit code of an interrupt and without a traceback."""
    with _started("tail", "good", "-f", cwd=_ran(tmp_path)) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == exits.INTERRUPTED
    assert err == "interrupted\n"


def test_ctrl_c_ends_a_long_query(tmp_path: Path) -> None:
    """While DuckDB works, too."""
    sql = "SELECT sum(a.id * b.id % c.id * d.id) FROM good a, good b, good c, good d"
    with _started("query", "--json", sql, cwd=_ran(tmp_path)) as running:
        deadline = time.monotonic() + LIMIT_S
        while _cpu_s(running.pid) < 2 and time.monotonic() < deadline:  # it has begun when it works
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode == exits.INTERRUPTED
    assert err == "interrupted\n"


def _cpu_s(pid: int) -> float:
    told = subprocess.run(["ps", "-o", "cputimes=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return float(told.stdout.strip() or "inf")


_AS_NOBODY = """
import os, sys
from penstock.cli.commands import doctor, groups
from penstock.cli.entry import outcome
import penstock.channel.drivers.embedded, penstock.log.opening, penstock.system
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sys.exit(outcome(sys.argv[1:]))
"""


def test_a_log_that_is_closed_to_this_user(tmp_path: Path) -> None:
    """Whichever file is met first, the error says which, and the way out."""
    log = _ran(tmp_path) / ".penstock" / "shop"
    keeper = 65533 if os.getuid() == 0 else os.getuid()
    for path in (log, *log.rglob("*")):
        os.chown(path, keeper, -1)
    with tempfile.TemporaryDirectory(prefix="penstock-public-") as name:
        public = Path(name)
        public.chmod(0o755)
        shut = Path(shutil.move(log, public / "log"))
        for mode, arguments in (
            (0o000, ["groups"]),
            (0o000, ["doctor"]),
            (0o555, ["doctor", "--accept-loss", "--yes"]),
        ):
            shut.chmod(mode)
            if mode:
                (shut / "turn").chmod(0o000)
            command = [sys.executable, "-c", _AS_NOBODY, *arguments, "--log", str(shut)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == exits.FAILED
            assert done.stderr.startswith(f"error: {shut}/")
            assert "is closed to this user (Permission denied); run this as the user whose it is, or" in done.stderr
        shut.chmod(0o755)
