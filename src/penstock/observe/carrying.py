"""What DuckDB's export to Arrow would change, brought into a form that it keeps, by SQL.

Arrow has no such types, or a narrower one: bits and whole numbers of any length come out as DuckDB's own bytes, times
of day without their offset, the largest numbers negative, and the microseconds of an interval are multiplied by a
thousand in 64 bits, which more than 292 years overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SPAN = "penstock_span"
SPAN_MACRO = f"""
CREATE TEMP MACRO {SPAN}(span) AS
    to_months((12 * datepart('year', span) + datepart('month', span))::INTEGER)
    + to_days((datepart('day', span) + datepart('hour', span) // 24)::INTEGER)
    + to_microseconds((
        datepart('hour', span) % 24 * 3600000000 + datepart('minute', span) * 60000000 + datepart('microsecond', span)
    )::BIGINT)
"""
"""The same length of time with less than a day of it in microseconds. Whoever projects must have made it."""
_AS_TEXT = frozenset({"bignum", "bit", "time with time zone", "uhugeint", "variant"})


def carried(names: Sequence[str], kinds: Sequence[Any]) -> str | None:
    """The columns of a relation as a projection whose rows Arrow can carry; None where it carries them as they are.

    Args:
        names: of the columns, in order; one may be there twice.
        kinds: their DuckDB types.
    """
    made = [_carried(f"#{number}", kind, 0) for number, kind in enumerate(kinds, 1)]
    if not any(made):
        return None
    return ", ".join(
        f"{one or f'#{number}'} AS {_quoted(name)}"
        for number, (one, name) in enumerate(zip(made, names, strict=True), 1)
    )


def _carried(what: str, kind: Any, depth: int) -> str | None:
    """An expression for `what`; None where it is good as it is."""
    made = None
    match kind.id:
        case "interval":
            made = f"{SPAN}({what})"
        case "list" | "array":
            made = _each(what, kind.children[0][1], depth)
        case "map":
            made = _map(what, dict(kind.children), depth)
        case "struct" | "tuple":
            made = _struct(what, kind.children, depth)
        case "union" if any(_carried(what, one, depth) for _, one in kind.children[1:]):  # the first child is the tag
            made = f"{what}::VARCHAR"
        case plain if plain in _AS_TEXT:
            made = f"{what}::VARCHAR"
        case _:
            pass
    return made


def _each(what: str, kind: Any, depth: int) -> str | None:
    name = f"each{depth}"
    one = _carried(name, kind, depth + 1)
    return one and f"list_transform({what}, lambda {name}: {one})"


def _map(what: str, kinds: dict[str, Any], depth: int) -> str | None:
    name = f"each{depth}"
    parts = {part: f"{name}.{part}" for part in ("key", "value")}
    made = {part: _carried(plain, kinds[part], depth + 1) for part, plain in parts.items()}
    if not any(made.values()):
        return None
    entry = ", ".join(f"{part} := {made[part] or plain}" for part, plain in parts.items())
    return f"map_from_entries(list_transform(map_entries({what}), lambda {name}: struct_pack({entry})))"


def _struct(what: str, fields: Sequence[tuple[str, Any]], depth: int) -> str | None:
    plain = [f"struct_extract_at({what}, {number})" for number in range(1, len(fields) + 1)]
    made = [_carried(one, kind, depth) for one, (_, kind) in zip(plain, fields, strict=True)]
    if not any(made):
        return None
    values = [one or as_it_is for one, as_it_is in zip(made, plain, strict=True)]
    names = [f"{_quoted(name)} := " if name else "" for name, _ in fields]
    packed = ", ".join(name + value for name, value in zip(names, values, strict=True))
    return f"CASE WHEN {what} IS NULL THEN NULL ELSE {'struct_pack' if names[0] else 'row'}({packed}) END"


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
