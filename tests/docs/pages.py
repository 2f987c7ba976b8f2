"""Pages of the documentation as programs: their blocks are run in order, and what they print is compared, or written.

A `python` block is run in its page's namespace; with `title="x.py"` it is written to that file instead, or must be that
file where the repository has it. What it prints is the `text` block behind it. In a `console` block each line
`$ command` is run and the lines below are its output; a line `...` stands for any lines. What differs from run to run
(times, sizes, rates, ids) is not compared, nor is what matches a comment `<!-- varies: pattern -->` above the block.

    python -m tests.docs.pages [PAGE ...]      writes what was printed into the pages
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import msgspec

from penstock.cli.entry import outcome

ROOT = Path(__file__).resolve().parents[2]
SHOWN = "~/project"
TIMEOUT_S = 60

_FENCE = re.compile(r"^(```+)(\w*)(.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_VARIES = re.compile(r"<!-- varies: (.+?) -->")
_SHELL = re.compile(r"[|<>&;*?]|\$\(")
_RATE = re.compile(r"^(\S+\s+(?:source|handler|flow|sink)\s+\S+\s+[\d,]+\s+)[\d,]+(?=\s+[\d,]+$)", re.MULTILINE)
_PROGRESS = re.compile(r"^(?:.*\(\d[\d,]*/s\).*|waiting for events)\n", re.MULTILINE)
_MASKS = (
    re.compile(r"\b20[2-9]\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?"),  # when something was recorded
    re.compile(r"\b\d[\d.]* ([kKMGT]?B|s|ms|us)\b"),
    re.compile(r"\b[0-9a-f]{32}\b"),
)


class Block(msgspec.Struct):
    """A fenced block of a page: lines [first, last) hold its text, the fences are around them."""

    kind: str
    title: str
    text: str
    first: int
    last: int
    varies: str = ""


class Shown(msgspec.Struct):
    """What a block should print, as the page says it, and what it printed."""

    block: Block
    expected: str
    printed: str

    @property
    def agrees(self) -> bool:
        """Whether a reader who runs the block sees what the page says."""
        return matches(self.expected, self.printed, varies=self.block.varies)


def pages() -> list[Path]:
    """The README and every page under docs, in a fixed order."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    lines = text.splitlines()
    number, varies = 0, ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            comment = _VARIES.search(lines[number])
            varies = comment[1] if comment else (varies if not lines[number].strip() else "")
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i].rstrip() == fence[1])
        title = _TITLE.search(fence[3])
        body = "".join(line + "\n" for line in lines[number + 1 : end])
        found.append(Block(fence[2], title[1] if title else "", body, number + 1, end, varies))
        number, varies = end + 1, ""
    return found


def matches(expected: str, printed: str, *, varies: str = "") -> bool:
    """Whether `printed` is `expected`, but for what may differ from run to run."""
    want, have = _plain(expected, varies), _plain(printed, varies)
    pattern = r"\n".join(r"(?:.*\n)*?.*" if line == "..." else re.escape(line) for line in want.split("\n"))
    return re.fullmatch(pattern, have) is not None


def _plain(text: str, varies: str) -> str:
    text = _RATE.sub(r"\1~", _PROGRESS.sub("", text))
    for mask in (*_MASKS, *([re.compile(varies, re.MULTILINE)] if varies else ())):
        text = mask.sub("~", text)
    text = re.sub(r"[─│┌┐└┘├┤┬┴┼]+", "|", text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


class Runner:
    """Runs the blocks of one page in a directory of its own. Use as a context manager: the directory is current."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._module = ModuleType("page")
        self._module.__file__ = str(self.directory / "page.py")

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        """With the directory as the current one, its modules importable, and both undone at the end."""
        modules, path = dict(sys.modules), list(sys.path)
        sys.path.insert(0, str(self.directory))
        sys.modules["page"] = self._module  # where types look up the names in their annotations
        try:
            with contextlib.chdir(self.directory):
                yield
        finally:
            sys.path[:] = path
            for name in [name for name, module in sys.modules.items() if name not in modules and self._ours(module)]:
                del sys.modules[name]
            sys.modules.update({name: module for name, module in modules.items() if name not in sys.modules})

    def _ours(self, module: ModuleType) -> bool:
        return str(getattr(module, "__file__", None) or "").startswith(str(self.directory))

    def run(self, found: Sequence[Block]) -> Iterator[Shown]:
        """Run the blocks in order."""
        for number, block in enumerate(found):
            if (ROOT / block.title).is_file():
                yield Shown(block, block.text, (ROOT / block.title).read_text())
            elif block.kind == "python" and block.title:
                file = self.directory / block.title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
                sys.modules.pop(file.stem, None)  # another test's module of this name is not the page's
            elif block.kind == "python":
                after = found[number + 1] if number + 1 < len(found) else None
                printed = self._python(block.text)
                if printed or (after is not None and after.kind == "text" and after.first - block.last <= 3):
                    assert after is not None, f"what this prints is shown nowhere:\n{block.text}"
                    yield Shown(after, after.text, printed)
            elif block.kind == "console":
                yield Shown(block, block.text, self._console(block.text))

    def _python(self, text: str) -> str:
        with _captured() as out:
            exec(compile(text, str(self._module.__file__), "exec", dont_inherit=True), vars(self._module))
        return self._shown(out)

    def _console(self, text: str) -> str:
        return "".join(f"{_prompted(command)}\n{self._command(command)}" for command in commands(text))

    def _command(self, command: str) -> str:
        """A plain `penstock …` runs in this process, which spares its start; anything else in a shell."""
        if command.startswith("penstock ") and not _SHELL.search(re.sub(r'"[^"]*"|\'[^\']*\'', "", command)):
            with _captured() as out:
                outcome(shlex.split(command)[1:])
            return self._shown(out)
        # A reader's pytest has no plugins but its own.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return _PROGRESS.sub("", done.stdout.replace(str(self.directory), SHOWN))

    def _shown(self, out: io.BytesIO) -> str:
        return _PROGRESS.sub("", out.getvalue().decode().replace(str(self.directory), SHOWN))


def commands(text: str) -> list[str]:
    """The commands of a console block; one that ends in a backslash goes on in the next line."""
    joined = re.sub(r"\\\n", "\\\\\0", text)
    return [line[2:].replace("\\\0", "\\\n") for line in joined.splitlines() if line.startswith("$ ")]


def _prompted(command: str) -> str:
    return f"$ {command}"


@contextlib.contextmanager
def _captured() -> Generator[io.BytesIO]:
    """Both streams in one, as a terminal shows them."""
    out = io.BytesIO()
    stream = io.TextIOWrapper(out, write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield out
    stream.detach()


def run_page(page: Path, directory: Path) -> list[Shown]:
    """Run every block of a page; the examples lie beside it, as in the repository."""
    (directory / "examples").mkdir()
    for example in (ROOT / "examples").glob("*.py"):
        (directory / "examples" / example.name).write_text(example.read_text())
    runner = Runner(directory)
    with runner.inside():
        return list(runner.run(blocks(page.read_text())))


def write_page(page: Path) -> int:
    """Write what the blocks print into the page where it differs; returns how many blocks were changed."""
    with tempfile.TemporaryDirectory() as directory:
        shown = [s for s in run_page(page, Path(directory)) if not s.agrees]
    lines = page.read_text().splitlines()
    for one in reversed(shown):
        lines[one.block.first : one.block.last] = [line.rstrip() for line in one.printed.rstrip().splitlines()]
    if shown:
        page.write_text("\n".join(lines) + "\n")
    return len(shown)


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(page) for page in pages()]:
        print(f"{name}: {write_page(Path(name).resolve())} blocks written")
