"""Which file lies under a name, with the kernel's call for it and without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.system import inodes
from penstock.system.inodes import Name


@pytest.fixture(params=["statx", "stat"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "stat":
        monkeypatch.setattr(inodes, "_call", None)


@pytest.mark.usefixtures("way")
def test_a_name_tells_of_the_file_that_lies_there_now(tmp_path: Path) -> None:
    file, other = tmp_path / "fichier é", tmp_path / "other"
    file.write_bytes(b"a")
    other.write_bytes(b"b")
    name = Name(str(file))
    assert name.inode() == file.stat().st_ino
    os.replace(other, file)
    assert name.inode() == file.stat().st_ino
    file.unlink()
    assert name.inode() is None


@pytest.mark.usefixtures("way")
def test_a_name_that_cannot_be_asked_for_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        Name(str(tmp_path / "file" / "below")).inode()
