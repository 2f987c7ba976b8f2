"""What a schema is made of: shapes (structs), their fields, and the kinds of type a field can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal[
    "bool",
    "int",
    "float",
    "decimal",
    "str",
    "bytes",
    "date",
    "datetime",
    "duration",
    "uuid",
    "enum",
    "literal",
    "list",
    "dict",
    "struct",
    "union",
]

DECIMAL_DIGITS_MAX = 38


def scale(places: int, digits: int = DECIMAL_DIGITS_MAX) -> msgspec.Meta:
    """Annotate a Decimal that is stored as a number, as in ``Annotated[Decimal, penstock.schema.scale(2)]``.

    Args:
        places: digits after the point, 0 to `digits`; a value with more is refused, never rounded.
        digits: digits in all, 1 to 38.
    """
    if not (1 <= digits <= DECIMAL_DIGITS_MAX and 0 <= places <= digits):
        msg = f"scale({places}, {digits}): expected 1 to {DECIMAL_DIGITS_MAX} digits, of them 0 or more after the point"
        raise ValueError(msg)
    return msgspec.Meta(extra={"scale": places, "precision": digits})


personal = msgspec.Meta(extra={"personal": True})
"""Annotate what says something of a person, as in ``Annotated[str, penstock.schema.personal]``.

It may stand at a field, an item of a list or a value of a dict. The log records it with the type; what people are shown
of an event, and of texts that quote it, has ``[personal]`` in its place. Stored events are whole.
"""


class Type(msgspec.Struct, frozen=True, kw_only=True):
    """The type of a field, of a list's items or of a dict's values.

    `cls` is the Python class of an enum, None when only its values are known. `limits` are msgspec's constraints by
    their names there (``ge``, ``max_length``, ...). `scale` and `digits` are set for decimals stored as numbers.
    `personal`: see there.
    """

    kind: Kind
    optional: bool = False
    item: Type | None = None
    members: tuple[Shape, ...] = ()
    values: tuple[str | int, ...] = ()
    cls: type | None = None
    scale: int | None = None
    digits: int = DECIMAL_DIGITS_MAX
    limits: tuple[tuple[str, Any], ...] = ()
    personal: bool = False

    @property
    def shape(self) -> Shape:
        """The one shape of a struct."""
        assert self.kind == "struct"
        return self.members[0]


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field: `name` in Python and as a column, `wire` in JSON.

    Without `required` a missing field takes `default`, or what `factory` makes.
    """

    name: str
    wire: str
    type: Type
    required: bool = True
    default: Any = None
    factory: Callable[[], Any] | None = None

    @property
    def kind(self) -> Kind:
        """The kind of the field's type."""
        return self.type.kind

    @property
    def optional(self) -> bool:
        """Whether None is a value of the field."""
        return self.type.optional

    def missing(self) -> Any:
        """The value of the field in an event that does not carry it."""
        assert not self.required
        return self.default if self.factory is None else self.factory()


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A struct or dataclass: its fields in order, its tag in JSON, whether unknown fields are refused (`closed`).

    With `omits` a field that has its default is left out of the JSON.
    """

    name: str
    fields: tuple[Field, ...]
    cls: type | None = None
    tag_field: str | None = None
    tag: str | int | None = None
    closed: bool = False
    omits: bool = False
