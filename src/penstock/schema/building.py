"""From shapes to Python types: the private twin that validates, and classes for descriptions without their code."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union

import msgspec

from penstock.errors import ConfigError
from penstock.schema.reading import INT_MAX, INT_MIN
from penstock.schema.shapes import Field, Shape, Type, personal, scale

CLASSES: dict[str, Any] = {
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
        if kind.personal:
            found = Annotated[found, personal]
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
            found = CLASSES[kind.kind]
        if kind.kind == "int":
            limits = _bounded(limits)
        if kind.scale is not None:
            return Annotated[found, scale(kind.scale, kind.digits)]
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
            options = msgspec.field(name=f.wire)
        elif f.factory is not None:
            options = msgspec.field(name=f.wire, default_factory=f.factory)
        elif shape.cls is not None:
            options = msgspec.field(name=f.wire, default=f.default)
        else:
            options = _recorded_default(f, hint)
        fields.append((f.name, hint, options))
    return msgspec.defstruct(
        shape.name,
        fields,
        bases=None if shape.cls is None else (shape.cls,),
        tag_field=shape.tag_field,
        tag=shape.tag,
        forbid_unknown_fields=shape.closed,
        kw_only=True,
        # What comes out of JSON holds no cycle unless the class makes one, so the collector need not know it.
        gc=hasattr(shape.cls, "__post_init__"),
    )


def _recorded_default(field: Field, hint: Any) -> Any:
    """A default from its description; each event gets its own."""
    if isinstance(field.default, list | dict):
        return msgspec.field(name=field.wire, default_factory=lambda: msgspec.convert(field.default, hint))
    return msgspec.field(name=field.wire, default=msgspec.convert(field.default, hint))


def check_defaults(shape: Shape) -> None:
    """That each default is a value of its field's type; what a factory makes is checked when it is published.

    Raises:
        ConfigError: one is not; the path names the field.
    """
    builder = Builder()
    for inner in _shapes(shape):
        for field in inner.fields:
            if field.required or field.factory is not None:
                continue
            path = f"{inner.name}.{field.name}"
            try:
                back = msgspec.json.decode(msgspec.json.encode(field.default), type=builder.hint(field.type))
                same = _plain(back) == _plain(field.default)
            except (TypeError, ValueError, ArithmeticError) as exc:
                msg = f"the default {field.default!r} is no {field.kind} of this type ({exc}): take another"
                raise ConfigError(msg, path=path) from exc
            if not same:
                msg = f"the default {field.default!r} comes back from JSON as {back!r}: take another"
                raise ConfigError(msg, path=path)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _shapes(shape: Shape) -> Iterator[Shape]:
    yield shape
    for field in shape.fields:
        kind: Type | None = field.type
        while kind is not None:
            for member in kind.members:
                yield from _shapes(member)
            kind = kind.item


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
