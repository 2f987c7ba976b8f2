"""The manifests of one pipeline's partition on disk: the newest one is the truth, the next one is a compare-and-set.

Why few are enough. Only the newest manifest is ever read, and it names all that is unfinished; so older ones serve
nothing but to make a late `link` fail. Should one succeed because the name has been pruned meanwhile, a newer
manifest exists (the newest is never pruned, numbers only grow), and looking once more after the link shows it. A
listing of so few names is one system call, so it cannot miss the newest.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from zlib import crc32

from penstock.errors import ConfigError, CorruptionError
from penstock.sink.parquet.layout import (
    FINISHED,
    HOME,
    MANIFEST,
    Manifest,
    Part,
    claim_number_of,
    decoded,
    encoded,
    home_of,
)
from penstock.system.files import link_once, remove, sync_directory, write_synced
from penstock.system.points import reached

KEPT = 16
_READS_MAX = 100
_CHUNK_BYTES = 1 << 20


class Manifests:
    """All manifests of (pipeline, partition) in the lake `root`, and the folder of temporary files beside them."""

    def __init__(self, root: Path, pipeline: str, partition: int) -> None:
        self.root = root
        self.home = root / HOME / home_of(pipeline) / str(partition)
        self.scratch = self.home / "tmp"

    def prepare(self) -> None:
        """Make the folders, durably; does nothing where they are."""
        missing = [self.scratch]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)

    def newest(self) -> Manifest | None:
        """The newest manifest; None before the first claim.

        Raises:
            RecordDamaged: it is not what was written.
        """
        for _ in range(_READS_MAX):
            number = self.newest_number()
            if number == 0:
                return None
            path = self._path(number)
            try:
                return decoded(path.read_bytes(), str(path))
            except FileNotFoundError:
                continue  # pruned between the two looks: there is a newer one
        msg = f"{self.home}: manifests vanish as fast as they are read; stop whatever else removes files there"
        raise CorruptionError(msg)

    def newest_number(self) -> int:
        """The newest manifest's number, 0 before the first."""
        return max(self._numbers(), default=0)

    def append(self, manifest: Manifest, tag: str, *, again: bool) -> bool:
        """Link the manifest under its number, durably; the one act that commits.

        Args:
            manifest: its number is one above the newest that the caller knows.
            tag: the claim's tag, for the temporary file.
            again: accept a manifest of the same content as ours (an earlier call got as far as the link).

        Returns:
            False when somebody else's is there, or newer ones exist: the caller does not own the partition.
        """
        data = encoded(manifest)
        target = self._path(manifest.number)
        temporary = self.scratch / f"{tag}-{manifest.number}-{os.getpid()}.manifest"
        remove(temporary)  # never write into a file that an earlier call may have linked
        write_synced(temporary, data)
        try:
            linked = link_once(temporary, target)
        except OSError as exc:
            if exc.errno in {errno.EPERM, errno.ENOTSUP, errno.EMLINK}:
                msg = f"{self.root} cannot hold hard links ({exc.strerror}), which a commit needs; use a local disk"
                raise ConfigError(msg, path="parquet.path") from exc
            raise
        remove(temporary)
        if not linked:
            if not (again and self._holds(target, data)):
                return False
            sync_directory(self.home)
        return self._is_newest(manifest.number)

    def unfinished(self, manifest: Manifest) -> tuple[Part, ...]:
        """Files of the manifest that may still bear their temporary names."""
        if self._path(manifest.number, FINISHED).exists():
            return ()
        return (*manifest.unfinished, *manifest.files)

    def finish(self, manifest: Manifest) -> None:
        """Give the manifest's files their final names; may be repeated, by several at once.

        A hard link is made and synced before the temporary name goes, so that no power loss takes both names.

        Raises:
            CorruptionError: a committed file is gone under both names, or another file has its name.
        """
        for part in self.unfinished(manifest):
            self._finish_part(part, manifest.number)
        done = self._path(manifest.number, FINISHED)
        reached(f"parquet.finished:{done.name}")
        done.touch()  # not synced: it only spares us from missing files that others have removed later

    def remove_strays(self, claim_number: int) -> None:
        """Remove temporary files of earlier claims; files that are not ours are left alone."""
        for name in sorted(os.listdir(self.scratch)):
            number = claim_number_of(name)
            if number is not None and number < claim_number:
                remove(self.scratch / name)

    def prune(self, number: int) -> None:
        """Keep the `KEPT` manifests up to `number`, remove older ones."""
        for old in sorted(self._numbers()):
            if old <= number - KEPT:
                remove(self._path(old))
                remove(self._path(old, FINISHED))

    def _is_newest(self, number: int) -> bool:
        """Whether the number that was just linked is the newest; if not, its name had been pruned before."""
        return self.newest_number() == number

    def _finish_part(self, part: Part, number: int) -> None:
        temporary, final = self.scratch / part.temporary, self.root / part.name
        try:
            if not link_once(temporary, final):
                self._require_same(final, part)
                sync_directory(self.root)
        except FileNotFoundError:
            if not final.exists():
                msg = (
                    f"manifest {self._path(number)} commits {part.name} ({part.rows} rows), and it is gone under this "
                    f"and its temporary name {temporary}: restore it; if it was removed on purpose, create the empty "
                    f"file {self._path(number, FINISHED)}"
                )
                raise CorruptionError(msg) from None
        remove(temporary)

    def _require_same(self, final: Path, part: Part) -> None:
        if final.stat().st_size == part.bytes and _crc32_of(final) == part.crc32:
            return
        msg = f"{final} is there with other content than its manifest says; move it away, then start again"
        raise CorruptionError(msg)

    def _numbers(self) -> list[int]:
        stems = [name.removesuffix(MANIFEST) for name in os.listdir(self.home) if name.endswith(MANIFEST)]
        return [int(stem) for stem in stems if stem.isdecimal()]

    def _path(self, number: int, ending: str = MANIFEST) -> Path:
        return self.home / f"{number}{ending}"

    @staticmethod
    def _holds(path: Path, data: bytes) -> bool:
        try:
            return path.read_bytes() == data
        except FileNotFoundError:
            return False


def _crc32_of(path: Path) -> int:
    check = 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while chunk := os.read(fd, _CHUNK_BYTES):
            check = crc32(chunk, check)
    finally:
        os.close(fd)
    return check
