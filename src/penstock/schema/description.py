"""The canonical description of a shape: what the log records, fit for JSON, and the shape again from it."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.schema.shapes import DECIMAL_DIGITS_MAX, Field, Shape, Type


def describe_shape(shape: Shape) -> dict[str, Any]:
    """A struct: kind, name, fields in order; `tag` ([field, value]), `closed` and `omits` only where set."""
    out: dict[str, Any] = {"kind": "struct", "name": shape.name, "fields": [_field(f) for f in shape.fields]}
    if shape.tag_field is not None:
        out["tag"] = [shape.tag_field, shape.tag]
    if shape.closed:
        out["closed"] = True
    if shape.omits:
        out["omits"] = True
    return out


def _field(field: Field) -> dict[str, Any]:
    out: dict[str, Any] = {"name": field.name, "type": _type(field.type)}
    if field.wire != field.name:
        out["wire"] = field.wire
    if field.factory in {list, dict}:
        out["default"] = [] if field.factory is list else {}
    elif field.factory is not None:
        out["made"] = True
    elif not field.required:
        out["default"] = msgspec.to_builtins(field.default)
    return out


def _type(kind: Type) -> dict[str, Any]:
    out: dict[str, Any]
    if kind.kind == "struct":
        out = describe_shape(kind.shape)
    elif kind.kind == "union":
        out = {"kind": "union", "members": [describe_shape(s) for s in kind.members]}
    else:
        out = {"kind": kind.kind}
    if kind.item is not None:
        out["item"] = _type(kind.item)
    if kind.values:
        out["values"] = list(kind.values)
    if kind.scale is not None:
        out |= {"scale": kind.scale, "digits": kind.digits}
    if kind.limits:
        out["limits"] = dict(kind.limits)
    if kind.optional:
        out["optional"] = True
    if kind.personal:
        out["personal"] = True
    return out


def read_description(description: dict[str, Any]) -> Shape:
    """The shape that was described, without the Python classes; see `building.Builder` for classes that stand in."""
    tag_field, tag = description.get("tag", (None, None))
    return Shape(
        name=description["name"],
        fields=tuple(_read_field(f) for f in description["fields"]),
        tag_field=tag_field,
        tag=tag,
        closed=description.get("closed", False),
        omits=description.get("omits", False),
    )


def _read_field(found: dict[str, Any]) -> Field:
    kind = _read_type(found["type"])
    made = "made" in found
    return Field(
        name=found["name"],
        wire=found.get("wire", found["name"]),
        # What a factory makes is known only to the program that has it: for others such a field may be missing.
        type=msgspec.structs.replace(kind, optional=True) if made else kind,
        required=not made and "default" not in found,
        default=found.get("default"),
    )


def _read_type(found: dict[str, Any]) -> Type:
    members: tuple[Shape, ...] = ()
    if found["kind"] == "struct":
        members = (read_description(found),)
    elif found["kind"] == "union":
        members = tuple(read_description(m) for m in found["members"])
    return Type(
        kind=found["kind"],
        optional=found.get("optional", False),
        item=_read_type(found["item"]) if "item" in found else None,
        members=members,
        values=tuple(found.get("values", ())),
        scale=found.get("scale"),
        digits=found.get("digits", DECIMAL_DIGITS_MAX),
        limits=tuple(found.get("limits", {}).items()),
        personal=found.get("personal", False),
    )
