"""A program under strace: its write-type system calls seen, recorded with their data, or made its last one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.faults.disk import Op
from tests.faults.logwork import ROOT

WRITES = (
    "write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,ftruncate,truncate,fallocate,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,symlinkat"
)
OPENS = "open,openat,creat"
MISSING = (
    "strace is not installed, or may not trace here: the kill points and power-loss states of `make test-long` need it "
    "(Debian: apt-get install strace; in a container: --cap-add=SYS_PTRACE)"
)


def usable() -> bool:
    """Whether strace is there and may trace a program of ours."""
    if not sys.platform.startswith("linux") or shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return done.returncode == 0


class Point(msgspec.Struct, frozen=True):
    """The n-th call of `call` on the file `path` (any file when empty), counted from 1 in each thread."""

    call: str
    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} number {self.number} on {Path(self.path).name or 'any file'}"


class Line(msgspec.Struct, frozen=True):
    """One traced call, when it began and when it had ended; `done` False: this is only its beginning."""

    pid: int
    call: str
    arguments: str
    begun: bool
    ended: bool
    result: int


def run(module: str, place: Path, job: bytes, *options: str, trace: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module PLACE JOB`` under strace with these options, the trace going to a file."""
    command = ["strace", "-f", "-qq", "-o", str(trace), *options]
    program = [sys.executable, "-m", module, str(place), job.decode()]
    return subprocess.run([*command, *program], cwd=ROOT, capture_output=True, text=True, check=False)


_BEGIN = re.compile(r"(\d+) +(\w+)\((.*)$", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_RESULT = re.compile(r"\) += (-?\d+)")


def lines(trace: Path) -> Iterator[Line]:
    """The calls of a trace in the order in which they began and ended; an unfinished one comes twice."""
    waiting: dict[int, str] = {}
    with trace.open() as file:
        for text in file:
            resumed = _RESUMED.match(text)
            if resumed is not None:
                pid, call = int(resumed[1]), resumed[2]
                yield Line(pid, call, waiting.pop(pid, ""), begun=False, ended=True, result=_result(text))
                continue
            begin = _BEGIN.match(text)
            if begin is None:
                continue
            pid, call, rest = int(begin[1]), begin[2], begin[3].rstrip("\n")
            if rest.endswith("<unfinished ...>"):
                waiting[pid] = rest.removesuffix("<unfinished ...>")
                yield Line(pid, call, waiting[pid], begun=True, ended=False, result=0)
            else:
                yield Line(pid, call, rest, begun=True, ended=True, result=_result(text))


def _result(text: str) -> int:
    found = _RESULT.search(text.rstrip("\n"))
    return int(found[1]) if found else 0


_FD = re.compile(r"(-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def _bytes(hexed: str) -> bytes:
    return bytes.fromhex(hexed.replace("\\x", ""))


def points(trace: Path, place: Path) -> list[Point]:
    """Every write-type call on files of the place, as points where a later run can be killed.

    Files whose names are the same in every run are counted one by one; for the others (temporary names) the calls are
    counted over all files.
    """
    calls: Counter[tuple[int, str, str]] = Counter()
    overall: Counter[tuple[int, str]] = Counter()
    found: dict[Point, None] = {}
    for line in lines(trace):
        if not line.begun:
            continue
        overall[line.pid, line.call] += 1
        path = _path_of(line)
        if not path.startswith(f"{place}/") or line.call not in WRITES.split(","):
            continue
        stable = re.search(r"\d|tmp", path.removeprefix(str(place))) is None
        if stable:
            calls[line.pid, line.call, path] += 1
            found[Point(line.call, path, calls[line.pid, line.call, path])] = None
        else:
            found[Point(line.call, "", overall[line.pid, line.call])] = None
    return list(found)


def _path_of(line: Line) -> str:
    fd = _FD.match(line.arguments)
    if fd is not None and fd[1] != "AT_FDCWD":
        return _bytes(fd[2]).decode()
    text = _TEXT.search(line.arguments)
    return _bytes(text[1]).decode() if text else ""


def recorded(trace: Path, place: Path) -> Iterator[Op]:
    """The trace as acts on the files of the place; what the program printed are its acknowledgements.

    A write counts from its beginning, a sync from its end: the least that can have happened.
    """
    sizes: dict[str, int] = {}
    for line in lines(trace):
        if line.result < 0:
            continue
        for op in _ops(line, sizes):
            if op.kind == "ack" or op.path == str(place) or op.path.startswith(f"{place}/"):
                yield op


_SIZED = re.compile(r"\Aftruncate|>, 0, 0, \d+")
"""A call that gives a file its size; of `fallocate` what a new file is given."""


def _ops(line: Line, at: dict[str, int]) -> Iterator[Op]:  # one case per system call
    texts = [_bytes(text) for text in _TEXT.findall(line.arguments)]
    names = [text.decode(errors="replace") for text in texts]
    path = _path_of(line)
    last = line.arguments.rsplit(", ", 1)[-1].split(")")[0]
    match line.call:
        case "openat" | "open" | "creat" if line.ended and ("O_CREAT" in line.arguments or "O_TRUNC" in line.arguments):
            at[path] = 0
            yield Op("open", path, note="truncate" if "O_TRUNC" in line.arguments else "")
        case "write" if line.begun and line.arguments.startswith("1<"):
            yield from (Op("ack", path, note=note) for note in texts[0].decode().split("\n") if note)
        case "write" if line.begun and path in at:
            yield Op("write", path, at[path], texts[0])
            at[path] += len(texts[0])
        case "pwrite64" if line.begun:
            yield Op("write", path, int(last), texts[0])
        case "ftruncate" | "fallocate" if line.begun and _SIZED.search(line.call + line.arguments):
            yield Op("truncate", path, int(last))
        case "fsync" | "fdatasync" if line.ended:
            yield Op("sync", path)
        case "rename" | "link" if line.ended:
            yield Op(line.call, names[0], other=names[1])
        case "renameat" | "renameat2" | "linkat" if line.ended:
            yield Op("link" if line.call == "linkat" else "rename", names[0], other=names[1])
        case "unlink" | "unlinkat" if line.ended:
            yield Op("unlink", names[0])
        case "mkdir" | "mkdirat" if line.ended:
            yield Op("mkdir", names[0])
        case "writev" | "pwritev" | "pwritev2" | "fallocate" | "truncate" | "sync_file_range" if (
            line.begun and path[:1] == "/"
        ):
            msg = f"{line.call} on {path}: the recorder does not know this call; teach it, or states would be wrong"
            raise NotImplementedError(msg)
        case _:
            return
