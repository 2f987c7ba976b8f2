"""Each ratchet fed a text that breaks it (it must complain) and its nearest innocent twin (it must not)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.architecture import rules

Rule = Callable[[str], list[str]]
INNER = partial(rules.banned_calls, names=rules.BANNED | rules.BANNED_BUILTINS)
SHIPPED = partial(rules.banned_calls, names=rules.DANGEROUS)
HOME = "/" + "root/x"
HASH = "a" * 64

BROKEN: list[tuple[str, Rule, str, str]] = [
    ("file", rules.too_long, "x = 1\n" * 501, "x = 1\n" * 500),
    ("function", rules.long_functions, "def f():\n" + "    x = 1\n" * 70, "def f():\n" + "    x = 1\n" * 69),
    ("method", rules.long_functions, "class C:\n  async def f(self):\n" + "    x\n" * 70, "class C:\n  x = 1\n"),
    ("seven", rules.parameter_lists, "def f(a, b, *, c, d, e, g, h): ...", "def f(self, a, b, *, c, d, e, g): ..."),
    (
        "eight",
        rules.parameter_lists,
        "def f(  # noqa: PLR0913 - why\n  a, b, *, c, d, e, g, h, i): ...",
        "def f(  # noqa: PLR0913 - why\n  a, b, *, c, d, e, g, h): ...",
    ),
    ("options", rules.parameter_lists, "def f(**o):\n    g(**o)", "def f(**o):\n    g(o, **p)"),
    ("no docstring", rules.first_line, "x = 1", '"""One thing."""'),
    ("half a sentence", rules.first_line, '"""One thing\n\nand more."""', '"""One thing.\n\nand more"""'),
    ("import", INNER, "import time", "import timeit"),
    ("from", INNER, "from random import Random", "from penstock.system import random"),
    ("alias", INNER, "import datetime as d\nd.datetime.now()", "import datetime as d\nd.datetime(2013, 1, 1)"),
    ("now", INNER, "from datetime import datetime\ndatetime.now()", "from datetime import datetime\nx = datetime"),
    ("now later", INNER, "from datetime import datetime\nf = datetime.now", "x.datetime.now()"),
    ("uuid4", INNER, "import uuid\nuuid.uuid4()", "import uuid\nuuid.UUID(int=1)"),
    ("submodule", INNER, "import os.path\nimport os\nos.urandom(4)", "import os.path\nos.path.join('a')"),
    ("open", INNER, "open('x')", "log.open('x')\ndef open(): ..."),
    ("sleep", rules.sleeps, "import asyncio\nasyncio.sleep(0.1)", "import asyncio\nasyncio.sleep(0)"),
    ("sleep alias", rules.sleeps, "from asyncio import sleep as s\ns(t)", "clock.sleep(t)"),
    ("pickle", SHIPPED, "from pickle import loads", "import pickled"),
    ("nested", SHIPPED, "def f():\n    import pickle", "def f():\n    import msgspec"),
    ("eval", SHIPPED, "eval('1')", "frame.eval('1')"),
    ("exec", SHIPPED, "exec('x = 1')", "con.execute('x')"),
    ("yaml", SHIPPED, "import yaml\nyaml.load(x)", "import yaml\nyaml.safe_load(x)"),
    ("machine path", rules.machine_paths, f"x = '{HOME}'", "x = 'https://x.example/root/x'"),
    ("address", rules.addresses, "a @ https" + "://x/a.whl", f"a==1 --hash=sha256:{HASH}"),
    ("index", rules.addresses, "--index-url x", "markdown-it-py==1"),
    ("host", rules.addresses, "# from files.example.org", "backports-zstd==1.0"),
    ("range", rules.unlocked, "a>=1\n", f"a==1 \\\n    --hash=sha256:{HASH}\n"),
    ("no hash", rules.unlocked, "a==1\n", f"a==1 ; x == 'y' \\\n    --hash=sha256:{HASH}\n"),
]


@pytest.mark.parametrize(("rule", "broken"), [pytest.param(r, b, id=name) for name, r, b, _ in BROKEN])
def test_complains_of(rule: Rule, broken: str) -> None:
    """The planted break is found."""
    assert rule(broken) != []


@pytest.mark.parametrize(("rule", "innocent"), [pytest.param(r, i, id=name) for name, r, _, i in BROKEN])
def test_leaves_alone(rule: Rule, innocent: str) -> None:
    """The innocent twin passes, so the rule can be kept."""
    assert rule(innocent) == []


def test_the_message_names_the_replacement() -> None:
    """Whoever reads the complaint knows what to take instead."""
    assert "System.clock" in INNER("import time")[0]


@pytest.mark.parametrize(
    ("path", "edge"),
    [
        ("src/penstock/system/ports.py", True),
        ("src/penstock/channel/drivers/embedded/port.py", True),
        ("src/penstock/sink/parquet/stage.py", True),
        ("src/penstock/sink/api.py", False),
        ("src/penstock/engine/step.py", False),
        ("src/penstock/systematic.py", False),
    ],
)
def test_edges(path: str, edge: bool) -> None:
    """Only what stands at the border is excused."""
    assert rules.is_edge(path) is edge
