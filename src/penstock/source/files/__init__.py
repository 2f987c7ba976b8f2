"""Files of events: NDJSON and CSV, plain and gzip, read once and resumed where the log says."""

from penstock.source.files.config import Csv, FilesConfig, Gzip
from penstock.source.files.declare import Files, files

__all__ = ["Csv", "Files", "FilesConfig", "Gzip", "files"]
