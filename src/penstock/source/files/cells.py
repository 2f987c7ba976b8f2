"""What stands in one cell of a CSV file, as the value that JSON has for the field."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.errors import DecodeError
from penstock.schema import Field, strict
from penstock.schema.hiding import HIDDEN, is_personal

Convert = Callable[[str], Any]
_INT_CHARS = 40
_INT = re.compile(rf"[+-]?[0-9]{{1,{_INT_CHARS}}}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_JSON_KINDS = frozenset({"list", "dict", "struct", "union"})
_TEXT_KINDS = frozenset({"str", "enum", "literal"})

LEFT_OUT = msgspec.UNSET
"""The cell says nothing: the field takes its default."""


def converter(field: Field, null_values: frozenset[str]) -> Convert | None:
    """From a cell to the field's JSON value; raises ValueError with what was expected. None: the text is the value."""
    convert = _plain(field)
    if convert is not None and is_personal(field.type):
        convert = _untold(convert, field.kind)
    keeps_text = convert is None and field.kind in _TEXT_KINDS
    if field.optional:
        return _nullable(convert, null_values, None)
    if not field.required and not keeps_text:
        return _nullable(convert, null_values, LEFT_OUT)
    return convert if keeps_text else _never_null(convert, null_values)


def _plain(field: Field) -> Convert | None:
    kind = field.kind
    if kind == "int" or (kind in _TEXT_KINDS and field.type.values and isinstance(field.type.values[0], int)):
        return _int
    if kind == "float":
        return _float
    if kind == "bool":
        return _bool
    return _json if kind in _JSON_KINDS else None


def _untold(convert: Convert, kind: str) -> Convert:
    """The same, and what it raises does not quote the cell."""

    def converted(cell: str) -> Any:
        try:
            return convert(cell)
        except ValueError:
            raise ValueError(f"{HIDDEN} is no {kind}") from None

    return converted


def _nullable(convert: Convert | None, null_values: frozenset[str], null: object) -> Convert:
    if convert is None:
        return lambda cell: null if cell in null_values else cell
    return lambda cell: null if cell in null_values else convert(cell)


def _never_null(convert: Convert | None, null_values: frozenset[str]) -> Convert:
    def refused(cell: str) -> ValueError:
        return ValueError(f"{cell!r} stands for null, and the field is not Optional: declare it so, or fill it")

    if convert is not None and not any(map(_reads(convert), null_values)):
        # No null value can be converted, so only what fails has to be looked at.
        def converted(cell: str) -> Any:
            try:
                return convert(cell)
            except ValueError:
                if cell in null_values:
                    raise refused(cell) from None
                raise

        return converted

    def checked(cell: str) -> Any:
        if cell in null_values:
            raise refused(cell)
        return cell if convert is None else convert(cell)

    return checked


def _reads(convert: Convert) -> Callable[[str], bool]:
    def reads(cell: str) -> bool:
        try:
            convert(cell)
        except ValueError:
            return False
        return True

    return reads


def _int(cell: str) -> int:
    if not (cell.isdigit() and len(cell) <= _INT_CHARS and cell.isascii()) and not _INT.fullmatch(cell):
        raise ValueError(f"{_short(cell)} is no integer; expected digits, such as 42")
    return int(cell)


def _float(cell: str) -> float:
    if not _FLOAT.fullmatch(cell):
        raise ValueError(f"{_short(cell)} is no number; expected such as 1.5 or 2e6 (no thousands separators, no NaN)")
    value = float(cell)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"{_short(cell)} is beyond the largest float")
    return value


def _bool(cell: str) -> bool:
    value = _BOOLS.get(cell.lower())
    if value is None:
        raise ValueError(f"{_short(cell)} is no bool; expected true, false, 1 or 0")
    return value


def _json(cell: str) -> msgspec.Raw:
    body = cell.encode()
    try:
        strict.verify(body)
        return msgspec.Raw(msgspec.json.format(body, indent=-1))
    except (DecodeError, msgspec.DecodeError) as exc:
        raise ValueError(f"{_short(cell)}: expected JSON: {exc}") from exc


def _short(cell: str, chars_max: int = 60) -> str:
    return repr(cell if len(cell) <= chars_max else cell[:chars_max] + "...")
