"""From Python classes to shapes; what cannot travel is refused by name, with the way out."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect as mi

from penstock.errors import ConfigError
from penstock.schema.shapes import DECIMAL_DIGITS_MAX, Field, Kind, Shape, Type

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
# What msgspec raises for an annotation that it does not understand.
_UNKNOWN = (TypeError, NameError, NotImplementedError)

_PLAIN: dict[type[mi.Type], Kind] = {
    mi.BoolType: "bool",
    mi.UUIDType: "uuid",
    mi.DateType: "date",
    mi.DecimalType: "decimal",
    mi.TimeDeltaType: "duration",
}
_LIMITED: dict[type[mi.Type], tuple[Kind, tuple[str, ...]]] = {
    mi.IntType: ("int", ("gt", "ge", "lt", "le", "multiple_of")),
    mi.FloatType: ("float", ("gt", "ge", "lt", "le", "multiple_of")),
    mi.StrType: ("str", ("min_length", "max_length", "pattern")),
    mi.BytesType: ("bytes", ("min_length", "max_length")),
}
_WAY_OUT: dict[type[mi.Type], str] = {
    mi.AnyType: "Any says nothing to a consumer: name the type",
    mi.TimeType: "a time of day has no instant: use datetime, or timedelta since midnight",
    mi.SetType: "JSON and columns have no sets: use list",
    mi.FrozenSetType: "JSON and columns have no sets: use list",
    mi.VarTupleType: "use list",
    mi.TupleType: "use a Struct with a named field for each place",
    mi.CollectionType: "use list",
    mi.NamedTupleType: "use a msgspec Struct or a dataclass",
    mi.TypedDictType: "use a msgspec Struct or a dataclass",
    mi.RawType: "raw JSON says nothing to a consumer: use bytes, or str that holds the JSON",
    mi.ExtType: "use bytes",
    mi.ByteArrayType: "use bytes",
    mi.MemoryViewType: "use bytes",
    mi.NoneType: "a field that is always None says nothing: leave it out",
}


def read_class(cls: Any) -> Shape:
    """The shape of a msgspec Struct or a dataclass.

    Raises:
        ConfigError: not such a class, or a field's type cannot travel; the path names the field.
    """
    if not (isinstance(cls, type) and (issubclass(cls, msgspec.Struct) or dataclasses.is_dataclass(cls))):
        found = f"the class {cls.__name__}" if isinstance(cls, type) else repr(cls)
        raise ConfigError(f"{found} is neither a msgspec Struct nor a dataclass: declare the event as one of them")
    name = cls.__name__
    shape = _shape(_info(cls, name), name, ())
    if not shape.fields:
        msg = "no fields: an event says at least one thing, such as when it happened"
        raise ConfigError(msg, path=name)
    return shape


def _info(cls: type, path: str) -> mi.Type:
    try:
        return mi.type_info(cls)
    except _UNKNOWN as exc:
        for name, hint in _hints(cls).items():
            try:
                mi.type_info(hint)
            except _UNKNOWN as inner:
                msg = f"{inner}: use one of the types of docs/reference/types.md"
                raise ConfigError(msg, path=f"{path}.{name}") from inner
        away = "use one of the types of docs/reference/types.md"
        if isinstance(exc, NameError):
            away = "declare it at the top level of the module, before the topic; types in a function are not found"
        raise ConfigError(f"{exc}: {away}", path=path) from exc


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:
        return {}


def _shape(info: mi.Type, path: str, above: tuple[type, ...]) -> Shape:
    assert isinstance(info, mi.StructType | mi.DataclassType)
    cls: Any = info.cls
    if not isinstance(cls, type):
        msg = f"{cls} is generic: declare a class that inherits from it, such as class Name({cls}): ..."
        raise ConfigError(msg, path=path)
    if cls in above:
        msg = f"{cls.__name__} contains itself; columns have no recursion: refer to the inner one by its key"
        raise ConfigError(msg, path=path)
    if isinstance(info, mi.StructType) and info.array_like:
        msg = f"{cls.__name__} is array_like; a consumer of JSON could not add or drop fields: take array_like away"
        raise ConfigError(msg, path=path)
    fields = tuple(_field(f, f"{path}.{f.name}", (*above, cls)) for f in info.fields)
    if isinstance(info, mi.StructType):
        return Shape(
            name=cls.__name__,
            fields=fields,
            cls=cls,
            tag_field=info.tag_field,
            tag=info.tag,
            closed=info.forbid_unknown_fields,
            omits=cls.__struct_config__.omit_defaults,
        )
    if any(not f.init for f in dataclasses.fields(cls)):
        name = next(f.name for f in dataclasses.fields(cls) if not f.init)
        msg = "field(init=False) cannot be set from an event: make it a property"
        raise ConfigError(msg, path=f"{path}.{name}")
    return Shape(name=cls.__name__, fields=fields, cls=cls)


def _field(info: mi.Field, path: str, above: tuple[type, ...]) -> Field:
    if info.name.startswith("_"):
        msg = "a name with a leading underscore is reserved for columns of the log itself: choose another"
        raise ConfigError(msg, path=path)
    kind = _type(info.type, path, above)
    has_default = info.default is not msgspec.NODEFAULT
    field = Field(
        name=info.name,
        wire=info.encode_name,
        type=kind,
        required=info.required,
        default=info.default if has_default else None,
        factory=None if info.default_factory is msgspec.NODEFAULT else info.default_factory,
    )
    if has_default and info.default is None and not kind.optional:
        msg = f"the default is None, which is no {kind.kind}: declare it Optional, or take another default"
        raise ConfigError(msg, path=path)
    return field


def _type(info: mi.Type, path: str, above: tuple[type, ...]) -> Type:
    if type(info) in _PLAIN:
        return Type(kind=_PLAIN[type(info)])
    if type(info) in _LIMITED:
        kind, names = _LIMITED[type(info)]
        return Type(kind=kind, limits=_limits(info, names))
    if isinstance(info, mi.EnumType | mi.LiteralType | mi.DateTimeType):
        return _simple(info, path)
    for compound, read in _COMPOUND.items():
        if isinstance(info, compound):
            return read(info, path, above)
    way_out = _WAY_OUT.get(type(info), "use one of the types of docs/reference/types.md")
    found = getattr(getattr(info, "cls", None), "__name__", type(info).__name__.removesuffix("Type"))
    msg = f"type {found} cannot travel as JSON and as a column: {way_out}"
    raise ConfigError(msg, path=path)


def _simple(info: mi.EnumType | mi.LiteralType | mi.DateTimeType, path: str) -> Type:
    if isinstance(info, mi.EnumType):
        values = tuple(member.value for member in info.cls)
        return Type(kind="enum", cls=info.cls, values=_values(values, path))
    if isinstance(info, mi.LiteralType):
        values = tuple(v for v in info.values if v is not None)
        return Type(kind="literal", values=_values(values, path), optional=None in info.values)
    if info.tz is False:
        msg = "a naive datetime is no instant: take tz=False away and give every value a time zone"
        raise ConfigError(msg, path=path)
    return Type(kind="datetime")


def _annotated(info: mi.Metadata, path: str, above: tuple[type, ...]) -> Type:
    inner = _type(info.type, path, above)
    extra = info.extra or {}
    if extra.get("personal"):
        inner = msgspec.structs.replace(inner, personal=True)
    if inner.kind == "decimal" and "scale" in extra:
        return msgspec.structs.replace(inner, scale=extra["scale"], digits=extra.get("precision", DECIMAL_DIGITS_MAX))
    return inner


def _limits(info: mi.Type, names: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, getattr(info, name)) for name in names if getattr(info, name) is not None)


def _values(values: tuple[Any, ...], path: str) -> tuple[str | int, ...]:
    kinds = {type(v) for v in values}
    if kinds not in ({str}, {int}):
        found = ", ".join(sorted(k.__name__ for k in kinds)) or "no value"
        msg = f"values of {found}; a column has one type: use only str or only int"
        raise ConfigError(msg, path=path)
    if kinds == {int} and not all(INT_MIN <= v <= INT_MAX for v in values):
        msg = "a value beyond 64 bits: use smaller numbers, or str"
        raise ConfigError(msg, path=path)
    return values


def _list(info: mi.ListType, path: str, above: tuple[type, ...]) -> Type:
    item = _type(info.item_type, f"{path}[]", above)
    return Type(kind="list", item=item, limits=_limits(info, ("min_length", "max_length")))


def _dict(info: mi.DictType, path: str, above: tuple[type, ...]) -> Type:
    key = info.key_type
    if not isinstance(key, mi.StrType) or _limits(key, ("min_length", "max_length", "pattern")):
        msg = "a dict's keys are names in JSON: use dict[str, ...] without constraints on the key"
        raise ConfigError(msg, path=path)
    item = _type(info.value_type, f"{path}{{}}", above)
    return Type(kind="dict", item=item, limits=_limits(info, ("min_length", "max_length")))


def _struct(info: mi.StructType | mi.DataclassType, path: str, above: tuple[type, ...]) -> Type:
    shape = _shape(info, path, above)
    if not shape.fields:
        msg = f"{shape.name} has no fields, which Parquet cannot hold: give it one, or use a bool"
        raise ConfigError(msg, path=path)
    return Type(kind="struct", members=(shape,))


def _union(info: mi.UnionType, path: str, above: tuple[type, ...]) -> Type:
    rest = [t for t in info.types if not isinstance(t, mi.NoneType)]
    optional = len(rest) < len(info.types)
    if len(rest) == 1:
        return msgspec.structs.replace(_type(rest[0], path, above), optional=True)
    members = [t for t in rest if isinstance(t, mi.StructType)]
    if len(members) < len(rest):
        msg = "a union of other things than tagged structs: use one type, or Structs with tag=True"
        raise ConfigError(msg, path=path)
    shapes = tuple(_shape(t, path, above) for t in members)
    tag_field = shapes[0].tag_field
    for shape in shapes:
        if str(shape.tag) == tag_field:
            msg = f"the tag {shape.tag} is also the name of the tag's field: choose another tag or tag_field"
            raise ConfigError(msg, path=path)
    return Type(kind="union", members=shapes, optional=optional)


_COMPOUND: dict[Any, Callable[[Any, str, tuple[type, ...]], Type]] = {
    mi.Metadata: _annotated,
    mi.UnionType: _union,
    mi.ListType: _list,
    mi.DictType: _dict,
    mi.StructType: _struct,
    mi.DataclassType: _struct,
}
