"""Fields that are personal: what is shown of an event with them, and of a text that may quote them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast

import msgspec

from penstock.schema.building import CLASSES
from penstock.schema.shapes import Shape, Type

HIDDEN = "[personal]"
Hide = Callable[[str], str]
"""Takes what is personal of one event out of a text."""
Leaf = tuple[Type, Any]
_TEXT = Type(kind="str")
# A value stands as a whole between what is no digit and no Latin letter: other scripts write words without blanks. In a
# text that Python or JSON shows, such as what a KeyError says, a line break before it ends with a letter.
_BEFORE = r"(?:(?<![0-9A-Za-z])|(?<=\\[bfnrt])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
_BEHIND = r"(?![0-9A-Za-z])"


class Hiding:
    """Hides what is personal in events of a shape, given as JSON has them."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    @classmethod
    def of(cls, shape: Shape) -> Hiding | None:
        """None where nothing of the shape is personal."""
        return cls(shape) if _has_personal(shape) else None

    def covers(self, field: str) -> bool:
        """Whether this field, by its name in Python, is personal or holds what is."""
        return any(f.name == field and is_personal(f.type) for f in self._shape.fields)

    def shown(self, event: Any) -> Any:
        """The event with HIDDEN in the place of what is personal, and of what the shape does not know.

        An event of an older version may have had personal fields that are gone.
        """
        return _shown_struct(self._shape, event)

    def shown_body(self, body: bytes) -> bytes:
        """`shown` of an event's bytes; of bytes that are no event nothing is."""
        try:
            event = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return HIDDEN.encode()
        return msgspec.json.encode(self.shown(event))

    def from_texts(self, body: bytes) -> Hide:
        """What hides, in texts, each personal value of the event with these bytes, where it stands as a whole."""
        try:
            event = _as_written(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return as_it_is  # no handler has seen its values
        forms = {form for kind, value in _personal_struct(self._shape, event) for form in _forms(kind, value)} - {""}
        return partial(_without, sorted(forms, key=len, reverse=True)) if forms else as_it_is


def as_it_is(text: str) -> str:
    """Hides nothing."""
    return text


_as_written = msgspec.json.Decoder(float_hook=str).decode
"""Numbers with a point, and large ones, as the event writes them: so they are quoted where they are refused."""


def _without(longest_first: Sequence[str], text: str) -> str:
    """The text without these forms: an expression of the few that are in it, for of thousands it takes seconds."""
    there = [re.escape(form) for form in longest_first if form in text]
    return re.sub(f"{_BEFORE}(?:{'|'.join(there)}){_BEHIND}", HIDDEN, text) if there else text


def _has_personal(shape: Shape) -> bool:
    return any(is_personal(field.type) for field in shape.fields)


def is_personal(kind: Type) -> bool:
    """Whether it is personal, or something in it is."""
    inner = kind.item is not None and is_personal(kind.item)
    return kind.personal or inner or any(map(_has_personal, kind.members))


def _shown(kind: Type, value: Any) -> Any:
    if value is None or not is_personal(kind):
        return value
    if kind.personal:
        return HIDDEN
    if kind.kind == "list" and isinstance(value, list):
        return [_shown(cast("Type", kind.item), one) for one in cast("list[Any]", value)]
    if kind.kind == "dict" and isinstance(value, dict):
        return {name: _shown(cast("Type", kind.item), one) for name, one in cast("dict[str, Any]", value).items()}
    shape = _member(kind, value)
    return HIDDEN if shape is None else _shown_struct(shape, value)


def _shown_struct(shape: Shape, value: Any) -> Any:
    if not isinstance(value, dict):
        return HIDDEN
    types = {field.wire: field.type for field in shape.fields}
    return {
        name: one if name == shape.tag_field else _shown(types[name], one) if name in types else HIDDEN
        for name, one in cast("dict[str, Any]", value).items()
    }


def _member(kind: Type, value: Any) -> Shape | None:
    """Which of the shapes of a struct or a union the value is of."""
    if not isinstance(value, dict):
        return None
    if kind.kind == "struct":
        return kind.shape
    return next((m for m in kind.members if cast("dict[str, Any]", value).get(cast("str", m.tag_field)) == m.tag), None)


def _personal(kind: Type, value: Any) -> Iterator[Leaf]:
    """Every leaf that is personal, with its type."""
    if value is None or not is_personal(kind):
        return
    if kind.personal:
        yield from _leaves(kind, value)
    elif isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from _personal(cast("Type", kind.item), one)
    elif kind.kind == "dict" and isinstance(value, dict):
        for one in cast("dict[str, Any]", value).values():
            yield from _personal(cast("Type", kind.item), one)
    elif (shape := _member(kind, value)) is not None:
        yield from _personal_struct(shape, value)


def _personal_struct(shape: Shape, value: Any) -> Iterator[Leaf]:
    if isinstance(value, dict):
        for field in shape.fields:
            yield from _personal(field.type, cast("dict[str, Any]", value).get(field.wire))


def _leaves(kind: Type, value: Any) -> Iterator[Leaf]:
    """All that is in a value of this type, which is personal as a whole; text where it is not as the type says."""
    if isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from _leaves(kind.item or _TEXT, one)
    elif isinstance(value, dict):
        shape = _member(kind, value)
        types = {} if shape is None else {field.wire: field.type for field in shape.fields}
        for name, one in cast("dict[str, Any]", value).items():
            if shape is None:  # names are what somebody said, too
                yield _TEXT, name
            yield from _leaves(types.get(name) or kind.item or _TEXT, one)
    elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield kind, value


def _forms(kind: Type, value: Any) -> set[str]:
    """How a value may stand in a text: as it is, as Python shows it, as JSON does."""
    forms = _written(str(value))
    try:
        made = msgspec.convert(value, kind.cls or CLASSES.get(kind.kind, str), strict=False)
    except msgspec.ValidationError:
        return forms
    forms |= {str(made), repr(made)}
    if isinstance(made, datetime):
        forms.add(made.isoformat())
    elif isinstance(made, bytes):
        forms |= {made.decode(errors="backslashreplace"), repr(made)[2:-1]}
    return forms


def _written(text: str) -> set[str]:
    """A text as it is, and as it stands within one that Python or JSON shows, in ASCII or not."""
    beside = repr(text + "'\"")[1:-4]  # with both quotes in the text, one of them is escaped
    inside = {text, repr(text)[1:-1], beside, ascii(text)[1:-1]}
    return inside | {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


__all__ = ["HIDDEN", "Hide", "Hiding", "as_it_is", "is_personal"]
