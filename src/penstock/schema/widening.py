"""Whether a column may be stored as another type: only where every value stays what it is, or is refused."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

Kind = Callable[[pa.DataType], bool]

# Conversions within one of these are looked at value by value: what does not fit is refused, nothing is rounded.
_CHECKED: tuple[Kind, ...] = (
    pa.types.is_integer,
    pa.types.is_decimal,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_duration,
)


def difference(found: pa.DataType, wanted: pa.DataType) -> str:  # noqa: PLR0911 - one line per kind of type
    """What must be done with a column of type `found` before it can be stored as `wanted`; empty when it can.

    Args:
        found: the type of the column there is.
        wanted: the type it is to be stored as.
    """
    if found.equals(wanted) or pa.types.is_null(found):
        return ""
    if pa.types.is_dictionary(found):
        return difference(found.value_type, wanted)
    if pa.types.is_timestamp(found) and pa.types.is_timestamp(wanted):
        return _of_times(found, wanted)
    if _is_list(found) and _is_list(wanted):
        return difference(found.value_type, wanted.value_type)
    if pa.types.is_map(found) and pa.types.is_map(wanted):
        return difference(found.key_type, wanted.key_type) or difference(found.item_type, wanted.item_type)
    if pa.types.is_struct(found) and pa.types.is_struct(wanted):
        return _of_structs(found, wanted)
    return "" if _one_kind(found, wanted) else "cast it, as with .cast(…)"


def _one_kind(found: pa.DataType, wanted: pa.DataType) -> bool:
    if _is_text(found) or _is_binary(found):
        return _is_text(found) == _is_text(wanted) and _is_binary(found) == _is_binary(wanted)
    if pa.types.is_floating(wanted):  # an integer that no float holds is refused
        narrower = pa.types.is_floating(found) and found.bit_width <= wanted.bit_width
        return narrower or pa.types.is_integer(found)
    return any(kind(found) and kind(wanted) for kind in _CHECKED)


def _of_times(found: pa.DataType, wanted: pa.DataType) -> str:
    if (found.tz is None) == (wanted.tz is None):
        return ""
    if wanted.tz is None:
        return "take the zone off, as with .dt.replace_time_zone(None)"
    return 'times without a zone name no moment; say which zone they are in, as with .dt.replace_time_zone("UTC")'


def _of_structs(found: pa.DataType, wanted: pa.DataType) -> str:
    names = [field.name for field in found]
    if names != [field.name for field in wanted]:
        return "give it the same fields in the same order"
    for index, name in enumerate(names):
        reason = difference(found.field(index).type, wanted.field(index).type)
        if reason:
            return f"its field {name}: {reason}"
    return ""


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return plain or pa.types.is_fixed_size_binary(kind)
