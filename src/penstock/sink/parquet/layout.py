"""Names of a lake's files, and the manifest as bytes: no input or output happens here."""

from __future__ import annotations

import re
from hashlib import sha256
from zlib import crc32

import msgspec

from penstock.errors import ConfigError, RecordDamaged

HOME = "_penstock"
TEMPORARY = ".part"  # anything that `*.parquet` does not match
MANIFEST = ".json"
FINISHED = ".done"
FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_STRAY = re.compile(r"e\d+-c(\d+)-.+")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Parquet file: its name for readers, its name before the commit, and what it must hold."""

    name: str
    temporary: str
    rows: int
    bytes: int
    crc32: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One commit of one partition, or one claim of it (then `files` is empty).

    `end` is the position: all offsets below it are in the lake. `files` are what this commit adds; `unfinished`
    is what an earlier manifest added and may not have got its final name yet: so only the last manifest is ever
    needed to finish what was begun. `columns` are the column types of the lake so far.
    """

    number: int
    pipeline: str
    topic: str
    partition: int
    log: str
    incarnation: int
    epoch: int
    first: int
    end: int
    files: tuple[Part, ...] = ()
    unfinished: tuple[Part, ...] = ()
    columns: dict[str, str] = {}
    format: int = FORMAT
    check: int = 0


_decode = msgspec.json.Decoder(Manifest).decode


def encoded(manifest: Manifest) -> bytes:
    """The manifest as JSON, its own checksum inside; equal manifests give equal bytes."""
    bare = msgspec.structs.replace(manifest, check=0)
    checked = msgspec.structs.replace(bare, check=crc32(msgspec.json.encode(bare)))
    return msgspec.json.format(msgspec.json.encode(checked), indent=1) + b"\n"


def decoded(data: bytes, name: str) -> Manifest:
    """What `encoded` was given; `name` is the file's, for the message.

    Raises:
        RecordDamaged: not a manifest, or not what was written.
    """
    way_out = "nothing was changed: restore the file from a backup of the directory"
    try:
        manifest = _decode(data)
    except msgspec.DecodeError as exc:
        msg = f"manifest {name} cannot be read ({exc}); {way_out}"
        raise RecordDamaged(msg) from exc
    if manifest.format != FORMAT:
        msg = f"manifest {name} has format {manifest.format}, this version knows {FORMAT}; use a newer version"
        raise RecordDamaged(msg)
    if encoded(manifest) != encoded_as_found(manifest):
        msg = f"manifest {name} fails its checksum; {way_out}"
        raise RecordDamaged(msg)
    return manifest


def encoded_as_found(manifest: Manifest) -> bytes:
    """The manifest as JSON with the checksum it came with."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def checked_name(name: str, *, path: str) -> str:
    """`name` when it may be part of a file name.

    Raises:
        ConfigError: it is not 1 to 200 of the letters, digits, dot, underscore and dash, or it is ``.`` or ``..``.
    """
    if _NAME.fullmatch(name) is None or name in {".", ".."}:
        msg = f"{name!r} is no name; expected 1 to 200 of A-Z a-z 0-9 . _ - (and neither '.' nor '..')"
        raise ConfigError(msg, path=path)
    return name


def home_of(pipeline: str) -> str:
    """The folder of a pipeline's manifests: readable, and different even where the disk folds case."""
    return f"{checked_name(pipeline, path='sink.pipeline')}-{_digest(pipeline)}"


def part_name(manifest_like: tuple[str, str, str, int], first: int, end: int) -> str:
    """A file's final name, the same in every re-run: from (pipeline, topic, log, partition) and its offsets."""
    pipeline, topic, log, partition = manifest_like
    return f"part-{_digest(pipeline, topic, log)}-{partition}-{first}-{end}.parquet"


def tag_of(epoch: int, claim_number: int) -> str:
    """What every temporary file of one claim begins with: two owners never write one file."""
    return f"e{epoch}-c{claim_number}"


def claim_number_of(temporary: str) -> int | None:
    """The number of the claim that a temporary file was made under; None for a file that is not ours."""
    match = _STRAY.fullmatch(temporary)
    return None if match is None else int(match[1])


def _digest(*words: str) -> str:
    return sha256("\0".join(words).encode()).hexdigest()[:12]
