"""How large the rows of columns are: what a topic's largest event is compared with when nothing is written as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def row_over(table: pa.RecordBatch, limit: int) -> tuple[int, int] | None:
    """The longest row (its number and its bytes) when it has more than `limit` bytes, else None.

    Costs a few passes over the columns' offsets, and nothing while all rows together are within the limit.
    """
    if table.nbytes <= limit:
        return None
    pc = _compute()
    sizes = [_sizes(column) for column in table.columns]
    if sum(size if isinstance(size, int) else pc.max(size).as_py() or 0 for size in sizes) <= limit:
        return None  # not even the longest values of all columns together pass it
    total = _sum(sizes, table.num_rows)
    longest = int(pc.max(total).as_py())
    return None if longest <= limit else (int(pc.index(total, longest).as_py()), longest)


def _compute() -> Any:
    import pyarrow.compute as pc  # noqa: PLC0415  loaded on use: plain publishes have no columns

    return pc


def _number(value: int) -> pa.Scalar[Any]:
    """A number as Arrow's functions take it: of a bare one they look for pandas and dateutil, again for each."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.scalar(value, pa.int64())


def _sum(sizes: Any, count: int) -> Any:
    """Row by row the sum of what `_sizes` says of columns."""
    import pyarrow as pa  # noqa: PLC0415

    fixed, varying = 0, None
    for size in sizes:
        if isinstance(size, int):
            fixed += size
        else:
            varying = size if varying is None else _compute().add(varying, size)
    if varying is None:
        return pa.repeat(_number(fixed), count)
    return _compute().add(varying, _number(fixed))


def _sizes(column: Any) -> Any:  # noqa: PLR0911  one kind after the other
    """The bytes of each value, or one number when all have the same."""
    import pyarrow as pa  # noqa: PLC0415

    kind, pc = column.type, _compute()
    if isinstance(column, pa.ExtensionArray):
        return _sizes(column.storage)
    if pa.types.is_dictionary(kind):
        return _sizes(column.dictionary_decode())
    if pa.types.is_struct(kind):
        return _sum(map(_sizes, column.flatten()), len(column))
    if pa.types.is_fixed_size_list(kind):
        return _sizes(column.cast(pa.list_(kind.value_type)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _of_lists(column)
    if pa.types.is_null(kind):
        return 0
    try:
        return max(1, kind.bit_width // 8)
    except ValueError:  # of varying width
        return pc.fill_null(pc.cast(pc.binary_length(column), pa.int64()), 0)


def _of_lists(column: Any) -> Any:
    """Each list's bytes: the difference of what lies before its end and before its start."""
    import pyarrow as pa  # noqa: PLC0415

    pc = _compute()
    if isinstance(column, pa.MapArray):
        column = column.cast(pa.list_(pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])))
    ends = pc.cast(column.offsets, pa.int64())
    first, last = ends[0].as_py(), ends[-1].as_py()
    sizes = _sizes(column.values.slice(first, last - first))
    if isinstance(sizes, int):
        return pc.multiply(pc.subtract(ends[1:], ends[:-1]), _number(sizes))
    before = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(sizes)])
    at = pc.take(before, pc.subtract(ends, _number(first)))
    return pc.subtract(at[1:], at[:-1])
