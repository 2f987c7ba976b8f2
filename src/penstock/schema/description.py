"""The canonical description of a shape: what the log records, fit for JSON, and the shape again from it."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.schema.shapes import Field, Shape, Type


def describe_shape(shape: Shape) -> dict[str, Any]:
    """A struct: kind, name, fields in order; `tag` ([field, value]) and `closed` only where set."""
    out: dict[str, Any] = {"kind": "struct", "name": shape.name, "fields": [_field(f) for f in shape.fields]}
    if shape.tag_field is not None:
        out["tag"] = [shape.tag_field, shape.tag]
    if shape.closed:
        out["closed"] = True
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
    return out
