"""Making the ballast: where it cannot be made the log goes on without it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from penstock.log import ballast
from tests.unit.log.logs import opened


def refusing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE])
def test_what_is_wanting_is_no_failure_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refusing(monkeypatch, code)
    with opened(tmp_path) as log:
        assert log.write(lambda _: ballast.hold(tmp_path)).result() == 0
        assert (log.failure, ballast.held(tmp_path)) == (None, 0)
        assert not (tmp_path / ballast.NAME).exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_nothing_is_allocated_ahead_zeros_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refusing(monkeypatch, code)
    with opened(tmp_path) as log:
        assert log.write(lambda _: ballast.hold(tmp_path)).result() > 0
        assert log.failure is None
    found = (tmp_path / ballast.NAME).stat()
    assert found.st_blocks * 512 >= found.st_size
