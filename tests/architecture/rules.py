"""The ratchets as pure functions: what one source text, lock or file does that the project's style forbids."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

FILE_LINES_MAX = 500
FILE_LINES_NEVER = 800
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 6

# The one list of what only the edges may reach, with its replacement, is ruff's; the checks by AST read it from there.
BANNED: dict[str, str] = {
    name: entry["msg"] for name, entry in PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"].items()
}
BANNED_BUILTINS = {"open": "Take `penstock.system.files`; a source or sink opens its own files at its edge."}
EDGES = ("src/penstock/system/*", "src/penstock/*/drivers/*", "src/penstock/sink/*/*", "src/penstock/source/*")

# Nothing that ships may turn bytes into code, wherever it stands.
DANGEROUS: dict[str, str] = {
    "pickle": BANNED["pickle"],
    "marshal": "Encode with the schema's format (msgspec, Arrow).",
    "shelve": "Keep state in the log; a shelf is pickles.",
    "yaml.load": "Decode with msgspec, or `yaml.safe_load`.",
    "eval": "Take a function or an expression object.",
    "exec": "Take a function.",
    "sqlite3": BANNED["sqlite3"],
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method in `tree`, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def too_long(text: str, *, lines_max: int = FILE_LINES_MAX) -> list[str]:
    """Complain if the file has more lines than it may."""
    lines = len(text.splitlines())
    return [f"{lines} lines, at most {lines_max}: does it hold one idea?"] if lines > lines_max else []


def long_functions(text: str) -> list[str]:
    """Complain of each function longer than the hard stop, docstring included."""
    return [
        f"line {f.lineno}: {f.name} has {f.end_lineno - f.lineno + 1} lines, at most {FUNCTION_LINES_MAX}"
        for f in functions(ast.parse(text))
        if f.end_lineno is not None and f.end_lineno - f.lineno >= FUNCTION_LINES_MAX
    ]


def parameter_lists(text: str) -> list[str]:
    """Complain of more parameters than a reader keeps in mind, and of `**options` handed on unseen."""
    found: list[str] = []
    lines = text.splitlines()
    for f in functions(ast.parse(text)):
        named = [a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) if a.arg not in {"self", "cls"}]
        allowed = (
            "# noqa: PLR0913 - " in lines[f.lineno - 1]
        )  # with the reason beside it, where users read each by name
        if len(named) > PARAMETERS_MAX + allowed:
            found.append(
                f"line {f.lineno}: {f.name} takes {len(named)}, at most {PARAMETERS_MAX}: pass a config value whole"
            )
        if f.args.kwarg is not None and _passes_on(f, f.args.kwarg.arg):
            found.append(f"line {f.lineno}: {f.name} passes **{f.args.kwarg.arg} on: name what it takes")
    return found


def _passes_on(function: Function, name: str) -> bool:
    return any(
        keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == name
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    )


def first_line(text: str) -> list[str]:
    """Complain if the module's docstring does not begin with one whole sentence."""
    docstring = ast.get_docstring(ast.parse(text))
    if not docstring:
        return ["no module docstring: its first line says the one responsibility"]
    first = docstring.splitlines()[0]
    return [] if first.endswith((".", "?", "!")) else [f"the docstring's first line is no whole sentence: {first!r}"]


def is_edge(path: str) -> bool:
    """Whether the file at the repository path `path` is where the outer world is reached."""
    return any(fnmatch(path, edge) for edge in EDGES)


def banned_calls(text: str, *, names: dict[str, str]) -> list[str]:
    """Complain of each import or call of one of `names`, under whatever alias, with what to take instead.

    Names are dotted (`time`, `uuid.uuid4`) or built in (`open`). `asyncio.sleep(0)`, which only yields, is no sleep.
    """
    tree = ast.parse(text)
    aliases = _aliases(tree)
    found: list[str] = []
    for node in ast.walk(tree):
        for name in _reached(node, aliases):
            hit = next((banned for banned in names if name == banned or name.startswith(banned + ".")), None)
            if hit is not None:
                found.append(f"line {getattr(node, 'lineno', 0)}: {name}: {names[hit]}")
    return found


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name, of all imports."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                top = a.name.partition(".")[0]
                aliases[a.asname or top] = a.name if a.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            aliases.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    return aliases


def _reached(node: ast.AST, aliases: dict[str, str]) -> list[str]:
    """The dotted names that a node imports or calls."""
    match node:
        case ast.Import(names=names):
            return [a.name for a in names]
        case ast.ImportFrom(module=str(module), level=0, names=names):
            return [f"{module}.{a.name}" for a in names]
        case ast.Call(func=ast.Name(id=name)) if name not in aliases:
            return [name]
        case ast.Attribute() | ast.Name():
            dotted = _dotted(node, aliases)
            return [dotted] if "." in dotted else []
        case _:
            return []


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    match node:
        case ast.Name(id=name) if name in aliases:
            return aliases[name]
        case ast.Attribute(value=value, attr=attr):
            front = _dotted(value, aliases)
            return f"{front}.{attr}" if front else ""
        case _:
            return ""


def sleeps(text: str) -> list[str]:
    """Complain of `asyncio.sleep` with anything but a literal 0: simulation runs on its own time."""
    tree = ast.parse(text)
    aliases = _aliases(tree)
    return [
        f"line {node.lineno}: asyncio.sleep: take `System.clock` and await `clock.sleep(seconds)`"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and _dotted(node.func, aliases) == "asyncio.sleep"
        and not (len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]


_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|root)/[\w.]+")
_ADDRESS = re.compile(r"://|--(?:extra-)?index-url|--find-links|--trusted-host|\b[\w-]+\.(?:org|com|io|net|dev)\b")


def machine_paths(text: str) -> list[str]:
    """Complain of each path that only one person's machine has."""
    return [
        f"line {number}: {match.group()}: a path of one machine"
        for number, line in enumerate(text.splitlines(), 1)
        for match in _MACHINE_PATH.finditer(line)
    ]


def addresses(lock: str) -> list[str]:
    """Complain of each download address, index option or host name in a lock: the machine's index is used as it is."""
    return [
        f"line {number}: {line.strip()}: a lock holds versions and hashes only"
        for number, line in enumerate(lock.splitlines(), 1)
        if _ADDRESS.search(line)
    ]


def unlocked(lock: str) -> list[str]:
    """Complain of each requirement that is not pinned to one version with at least one sha256."""
    entries = re.split(r"\n(?=\S)", lock.replace("\\\n", " ").strip())
    return [
        f"{entry.split()[0]}: expected name==version --hash=sha256:…"
        for entry in entries
        if entry and not re.match(r"[\w.-]+==[\w.!+]+ .*--hash=sha256:[0-9a-f]{64}", entry)
    ]
