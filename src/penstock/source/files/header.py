"""Which column of a CSV file is which field of the type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import ConfigError
from penstock.schema import Schema
from penstock.source.files.cells import Convert, converter
from penstock.source.files.config import Csv


class Column(msgspec.Struct, frozen=True):
    """The column `index`, called `name` in the file, is the field `wire` of the JSON."""

    index: int
    name: str
    wire: str
    convert: Convert | None


class Table(msgspec.Struct, frozen=True):
    """The columns that are fields, in the file's order, and how many a row has in all."""

    columns: tuple[Column, ...]
    width: int


def table_of(names: Sequence[str], schema: Schema[Any], csv: Csv, *, where: str) -> Table:
    """The columns of a file whose header is `names`.

    Raises:
        ConfigError: a name appears twice, is unknown, or is missing; `where` says in which file and line.
    """
    _no_twins(names, where)
    fields = {f.name: f for f in schema.fields} | {f.wire: f for f in schema.fields}
    nulls = frozenset(csv.null_values)
    columns: list[Column] = []
    for index, name in enumerate(names):
        field = fields.get(csv.rename.get(name, name))
        if field is not None:
            columns.append(Column(index, name, field.wire, converter(field, nulls)))
        elif csv.unknown == "refuse" or name in csv.rename:
            msg = (
                f"the column {csv.rename.get(name, name)!r} is no field of {schema.name}, which has "
                f"{', '.join(f.name for f in schema.fields)}: add the field, name the column's with "
                f"Csv(rename={{{name!r}: ...}}), or leave such columns out with Csv(unknown='ignore')"
            )
            raise ConfigError(msg, path=where)
    for index, column in enumerate(columns):
        other = next((c for c in columns[:index] if c.wire == column.wire), None)
        if other is not None:
            msg = f"the columns {other.name!r} and {column.name!r} are the same field of {schema.name}: drop one"
            raise ConfigError(msg, path=where)
    have = {column.wire for column in columns}
    missing = [f.name for f in schema.fields if f.required and f.wire not in have]
    if missing:
        msg = (
            f"no column for {', '.join(missing)} of {schema.name}; found {', '.join(map(repr, names))}: name them with "
            "Csv(rename={'column': 'field'}), or give the fields defaults"
        )
        raise ConfigError(msg, path=where)
    return Table(tuple(columns), len(names))


def _no_twins(names: Sequence[str], where: str) -> None:
    for index, name in enumerate(names):
        first = names.index(name)
        if first < index:
            msg = f"the column {name!r} appears twice (columns {first + 1} and {index + 1}): rename or drop one"
            raise ConfigError(msg, path=where)
