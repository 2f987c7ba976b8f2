"""What a filter needs of a table: which columns it reads, and which range of one column can match at all.

Arrow does not show the inside of a filter expression, so it is asked instead: does it bind without this column, and
can it be true under the guarantee that a column lies in a range? The answers are Arrow's own, so a range that is left
out holds no matching row; one that is kept may hold none. Source: partition pruning, `SimplifyWithGuarantee` in Arrow.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def columns_of(expression: ds.Expression, schema: pa.Schema) -> list[str]:
    """The columns of `schema` that the filter reads, in the schema's order.

    Raises:
        pyarrow.ArrowInvalid: the filter reads a column that the schema does not have.
    """
    _bind(expression, schema)
    needed: list[str] = []
    for index, name in enumerate(schema.names):
        try:
            _bind(expression, schema.remove(index))
        except pa.ArrowInvalid:
            needed.append(name)
    return needed


def _bind(expression: ds.Expression, schema: pa.Schema) -> None:
    ds.Scanner.from_batches(pa.RecordBatchReader.from_batches(schema, []), filter=expression)


class Possible:
    """Whether a filter can be true while one column lies within given bounds (or is null)."""

    def __init__(self, expression: ds.Expression, schema: pa.Schema, column: str) -> None:
        self._expression = expression
        self._schema = schema
        self._type = schema.field(column).type
        self._column = ds.field(column)
        self._files = pyarrow.fs.LocalFileSystem()
        self._format = ds.IpcFileFormat()

    def within(self, low: int, high: int) -> bool:
        """Whether a row with the column in [low, high], in the column's own unit, or null, can match."""
        lowest, highest = (pa.scalar(value, pa.int64()).cast(self._type) for value in (low, high))
        column = self._column
        # Each bound with its own "or null": this is the form in which Arrow knows a column that may be null.
        guarantee = ((column >= lowest) | column.is_null()) & ((column <= highest) | column.is_null())
        fragment = self._format.make_fragment("", filesystem=self._files, partition_expression=guarantee)
        dataset = ds.FileSystemDataset([fragment], self._schema, self._format, self._files)
        return any(True for _ in dataset.get_fragments(self._expression))

    def span(self, low: int, high: int) -> tuple[int, int] | None:
        """The smallest range found in [low, high] outside of which no row matches; None when none can match."""
        if not self.within(low, high):
            return None
        below, first = low, high
        while below < first:  # nothing matches in [low, below - 1]; something may in [low, first]
            middle = (below + first) // 2
            if self.within(low, middle):
                first = middle
            else:
                below = middle + 1
        last, above = first, high
        while last < above:  # nothing matches in [above + 1, high]
            middle = (last + above + 1) // 2
            if self.within(middle, high):
                last = middle
            else:
                above = middle - 1
        return first, above
