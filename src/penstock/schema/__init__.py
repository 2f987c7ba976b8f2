"""Types of topics: Python classes to JSON and columns and back, checked, described and compared."""

from penstock.schema.columns import ColumnsSchema
from penstock.schema.compat import Change, check_backward
from penstock.schema.hiding import Hide, Hiding
from penstock.schema.recorded import RecordedSchema, schema_from_description
from penstock.schema.schema import Invalid, Schema, schema_of
from penstock.schema.shapes import Field, personal, scale

__all__ = [
    "Change",
    "ColumnsSchema",
    "Field",
    "Hide",
    "Hiding",
    "Invalid",
    "RecordedSchema",
    "Schema",
    "check_backward",
    "personal",
    "scale",
    "schema_from_description",
    "schema_of",
]
