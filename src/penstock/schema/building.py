"""From shapes to Python types: the private twin that validates, and classes for descriptions without their code."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union

import msgspec

from penstock.schema.reading import INT_MAX, INT_MIN
from penstock.schema.shapes import Field, Shape, Type

_CLASSES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "decimal": Decimal,
    "str": str,
    "bytes": bytes,
    "date": date,
    "datetime": datetime,
    "duration": timedelta,
    "uuid": uuid.UUID,
}


class Builder:
    """Builds each class once, however often a shape refers to it."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def class_of(self, shape: Shape) -> Any:
        """A class that decodes what the shape says and refuses everything else.

        It is a subclass of the shape's own class, so that its checks (``__post_init__``) run and its attributes exist.
        """
        if id(shape) not in self._made:
            self._made[id(shape)] = _dataclass(self, shape) if _is_dataclass(shape) else _struct(self, shape)
        return self._made[id(shape)]

    def hint(self, kind: Type) -> Any:
        """The type annotation of `kind`, with its limits: integers fit in 64 bits, datetimes are aware."""
        found = self._bare(kind)
        return Optional[found] if kind.optional else found  # noqa: UP045 - a value, not an annotation

    def _bare(self, kind: Type) -> Any:
        limits = dict(kind.limits)
        if kind.kind == "struct":
            return self.class_of(kind.shape)
        if kind.kind == "union":
            return Union[tuple(self.class_of(s) for s in kind.members)]  # noqa: UP007 - a value, not an annotation
        if kind.kind in {"enum", "literal"}:
            return kind.cls or Literal[kind.values]
        if kind.kind == "datetime":
            return Annotated[datetime, msgspec.Meta(tz=True)]
        if kind.kind == "list":
            assert kind.item is not None
            found: Any = list[self.hint(kind.item)]
        elif kind.kind == "dict":
            assert kind.item is not None
            found = dict[str, self.hint(kind.item)]
        else:
            found = _CLASSES[kind.kind]
        if kind.kind == "int":
            limits = _bounded(limits)
        return Annotated[found, msgspec.Meta(**limits)] if limits else found


def _bounded(limits: dict[str, Any]) -> dict[str, Any]:
    out = dict(limits)
    if "gt" not in out:
        out["ge"] = max(INT_MIN, out.get("ge", INT_MIN))
    if "lt" not in out:
        out["le"] = min(INT_MAX, out.get("le", INT_MAX))
    return out


def _is_dataclass(shape: Shape) -> bool:
    return shape.cls is not None and dataclasses.is_dataclass(shape.cls)


def _struct(builder: Builder, shape: Shape) -> Any:
    fields: list[Any] = []
    for f in shape.fields:
        hint = builder.hint(f.type)
        if f.required:
            fields.append((f.name, hint, msgspec.field(name=f.wire)))
        elif f.factory is not None:
            fields.append((f.name, hint, msgspec.field(name=f.wire, default_factory=f.factory)))
        else:
            fields.append((f.name, hint, _default(f)))
    return msgspec.defstruct(
        shape.name,
        fields,
        bases=None if shape.cls is None else (shape.cls,),
        tag_field=shape.tag_field,
        tag=shape.tag,
        forbid_unknown_fields=shape.closed,
        kw_only=True,
    )


def _default(field: Field) -> Any:
    return msgspec.field(name=field.wire, default=field.default)


def _dataclass(builder: Builder, shape: Shape) -> Any:
    assert shape.cls is not None
    own = {f.name: f for f in dataclasses.fields(shape.cls)}
    fields: list[Any] = []
    for f in shape.fields:
        old = own[f.name]
        if old.default_factory is not dataclasses.MISSING:
            new: Any = dataclasses.field(default_factory=old.default_factory)
        elif old.default is not dataclasses.MISSING:
            new = dataclasses.field(default=old.default)
        else:
            new = dataclasses.field()
        fields.append((f.name, builder.hint(f.type), new))
    frozen = shape.cls.__dataclass_params__.frozen
    return dataclasses.make_dataclass(shape.name, fields, bases=(shape.cls,), kw_only=True, frozen=frozen)
