"""What a user says about files that events are read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Format = Literal["ndjson", "csv"]
Compression = Literal["gzip", "none"]

FORMATS: Mapping[str, Format] = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv"}
GZIP_SUFFIX = ".gz"


class Csv(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How CSV files are written.

    Attributes:
        delimiter: one character between fields.
        null_values: what stands for None in fields that are Optional, or that have a default; other fields of text keep
            it as text, and in any other field it is bad.
        names: the columns in order, for files without a header line; empty: the first line is the header.
        rename: column in the file to field of the type, where they differ.
        unknown: what to do with a column that is no field of the type.
        bom: accept a UTF-8 byte order mark at the beginning (as Excel writes it); refused otherwise.
    """

    delimiter: str = ","
    null_values: tuple[str, ...] = ("", "NA")
    names: tuple[str, ...] = ()
    rename: Mapping[str, str] = {}
    unknown: Literal["refuse", "ignore"] = "refuse"
    bom: bool = False


class Gzip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may come out of a gzip file; beyond it the source stops.

    Attributes:
        bytes_max: bytes in all.
        ratio_max: bytes for each byte that went in.
    """

    bytes_max: int = 1 << 40
    ratio_max: int = 250


CSV_DEFAULT = Csv()
GZIP_DEFAULT = Gzip()


class FilesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which files, and how they are read. `format` and `compression` None: by each file's suffix."""

    pattern: str
    format: Format | None = None
    compression: Compression | None = None
    follow: bool = False
    csv: Csv = CSV_DEFAULT
    gzip: Gzip = GZIP_DEFAULT
