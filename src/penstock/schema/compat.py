"""Whether a reader with a new schema can read everything that was written with an old one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from penstock.schema.reading import INT_MAX, INT_MIN

Description = dict[str, Any]

# New readers that take every value of the old kind, as JSON and as columns.
_WIDER = {("int", "float"), ("enum", "str"), ("literal", "str"), ("enum", "int"), ("literal", "int")}
# Of each bound: the side it is on, the other bound on that side, and whether it excludes its own value.
_SAME_SIDE = {"ge": (1, "gt", False), "gt": (1, "ge", True), "le": (-1, "lt", False), "lt": (-1, "le", True)}


class Change(msgspec.Struct, frozen=True):
    """One change that breaks: the field's path, what changed, and the way out."""

    path: str
    what: str
    way_out: str


def check_backward(old: Description, new: Description) -> list[Change]:
    """Every change because of which a reader with `new` could not read what was written with `old`; often none."""
    return list(_node(old, new, ""))


def _node(old: Description, new: Description, path: str) -> Iterator[Change]:
    if "columns" in {old["kind"], new["kind"]}:
        yield from _columns(old, new, path)
        return
    if old.get("optional") and not new.get("optional"):
        yield Change(path, "was optional and is required now", "keep it optional")
    if old["kind"] != new["kind"] and not _widened(old, new):
        yield Change(path, f"was {_name(old)} and is {_name(new)} now", "add a field of another name and keep this one")
        return
    if new["kind"] in {"enum", "literal"}:
        yield from _values(old, new, path)
    yield from _limits(old, new, path)
    if new["kind"] == "decimal":
        yield from _decimal(old, new, path)
    if new["kind"] in {"list", "dict"}:
        yield from _node(old["item"], new["item"], path + ("[]" if new["kind"] == "list" else "{}"))
    if new["kind"] == "struct":
        yield from _struct(old, new, path)
    if new["kind"] == "union":
        yield from _union(old, new, path)


def _name(kind: Description) -> str:
    if kind["kind"] == "columns":
        return "a type of columns only"
    return kind["kind"]


def _widened(old: Description, new: Description) -> bool:
    pair = (old["kind"], new["kind"])
    if pair in {("enum", "literal"), ("literal", "enum")}:
        return True
    if pair not in _WIDER:
        return False
    if pair == ("int", "float"):
        return False
    return isinstance(old["values"][0], str) == (new["kind"] == "str")


def _values(old: Description, new: Description, path: str) -> Iterator[Change]:
    gone = [v for v in old["values"] if v not in new["values"]]
    if gone:
        text = ", ".join(map(str, gone))
        yield Change(path, f"the values {text} are gone", "keep them: events that hold them are recorded")


def _limits(old: Description, new: Description, path: str) -> Iterator[Change]:
    before = dict(old.get("limits", {}))
    if old["kind"] == "int":
        before = {"ge": INT_MIN, "le": INT_MAX} | before
    for name, value in new.get("limits", {}).items():
        if not _implied(name, value, before):
            had = old.get("limits", {}).get(name)
            text = f"a new limit {name} = {value}" if had is None else f"the limit {name} was {had} and is {value} now"
            yield Change(path, text, "keep the limit as it was: recorded events may lie beyond the new one")


def _implied(name: str, value: Any, before: Description) -> bool:
    """Whether every value within the limits `before` is within this one."""
    if name in _SAME_SIDE:
        sign, other, strict = _SAME_SIDE[name]
        own, twin = before.get(name), before.get(other)
        if own is not None and sign * own >= sign * value:
            return True
        return twin is not None and (sign * twin > sign * value or (not strict and twin == value))
    if name == "min_length":
        return value <= before.get(name, 0)
    if name == "max_length":
        return name in before and before[name] <= value
    if name == "multiple_of":
        return name in before and before[name] % value == 0
    return before.get(name) == value


def _decimal(old: Description, new: Description, path: str) -> Iterator[Change]:
    if (old.get("scale"), old.get("digits")) != (new.get("scale"), new.get("digits")):
        yield Change(path, "the scale of the decimal changed", "add a field of another name and keep this one")


def _struct(old: Description, new: Description, path: str) -> Iterator[Change]:
    before = {f.get("wire", f["name"]): f for f in old["fields"]}
    now = {f.get("wire", f["name"]): f for f in new["fields"]}
    for wire, field in now.items():
        where = f"{path}.{field['name']}" if path else field["name"]
        had = before.get(wire)
        if had is None:
            if "default" not in field and "made" not in field:
                yield Change(where, "is new and required", "give it a default")
            continue
        if had["name"] != field["name"]:
            yield Change(where, f"was called {had['name']} in columns", "keep the name; rename in JSON only")
        yield from _default(had, field, where, omits=old.get("omits", False))
        yield from _node(had["type"], field["type"], where)
    yield from _unknown(old, new, before, now, path)


def _default(had: Description, field: Description, where: str, *, omits: bool) -> Iterator[Change]:
    """What a field that is missing in an old event would be now; with `omits` each that had its default is."""
    if "default" not in field and "made" not in field:
        if "default" in had or "made" in had:
            yield Change(where, "had a default and has none now", "keep the default: recorded events may lack it")
    elif omits and "default" in had and had["default"] != field.get("default", had):
        what = f"the default was {had['default']!r} and is another now, and omit_defaults left it out of events"
        yield Change(where, what, "keep the default, or add a field of another name")


def _unknown(old: Description, new: Description, before: Description, now: Description, path: str) -> Iterator[Change]:
    """What stands in old events and is no field of the new ones: removed fields, and tags."""
    tag, had_tag = new.get("tag"), old.get("tag")
    if new.get("closed") and not old.get("closed"):
        way_out = "take forbid_unknown_fields away: events may be recorded with some"
        yield Change(path, "unknown fields are refused now", way_out)
    if new.get("closed"):
        gone = [wire for wire in before if wire not in now]
        if had_tag is not None and (tag is None or tag[0] != had_tag[0]):
            gone.append(had_tag[0])
        for wire in gone:
            where = f"{path}.{wire}" if path else wire
            yield Change(where, "is gone while unknown fields are refused", "take forbid_unknown_fields away")
    if tag is not None and tag[0] in before:
        yield Change(path, f"the tag takes the place of the field {tag[0]}", "choose another tag_field")
    if tag is not None and had_tag is not None and tag != had_tag:
        yield Change(path, f"the tag was {had_tag[1]} and is {tag[1]} now", "keep the tag")


def _union(old: Description, new: Description, path: str) -> Iterator[Change]:
    now = {tuple(m["tag"]): m for m in new["members"]}
    for member in old["members"]:
        tag = tuple(member["tag"])
        if tag not in now:
            yield Change(path, f"the member {tag[1]} is gone", "keep it: events that hold it are recorded")
        else:
            yield from _struct(member, now[tag], f"{path}<{tag[1]}>")


def _columns(old: Description, new: Description, path: str) -> Iterator[Change]:
    if old["kind"] != new["kind"]:
        yield Change(path, f"was {_name(old)} and is {_name(new)} now", "write to a topic of another name")
        return
    before = {name: (kind, nullable) for name, kind, nullable in old["fields"]}
    for name, kind, nullable in new["fields"]:
        if name not in before:
            if not nullable:
                yield Change(name, "is new and may not be null", "let it be null")
            continue
        had, was_nullable = before[name]
        if had != kind:
            yield Change(name, f"was {had} and is {kind} now", "write to a topic of another name, or cast it back")
        if was_nullable and not nullable:
            yield Change(name, "could be null and may not be now", "let it be null")
