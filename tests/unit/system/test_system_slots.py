"""Attempt slots: what was being handled is there after the owner's death."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.system.slots import MappedSlot, MemorySlot


def test_a_slot_survives_its_owner(tmp_path: Path) -> None:
    slot = MappedSlot(tmp_path / "slot")
    assert slot.left() is None
    slot.words[1] = 77
    slot.words[0] = 3 + 1
    heir = MappedSlot(tmp_path / "slot")
    assert heir.left() == (3, 77)
    heir.clear()
    assert slot.left() is None
    for one in (slot, heir):
        one.close()
        one.close()


@pytest.mark.parametrize("shared", [True, False])
def test_a_slot_in_memory_may_be_shared(shared: bool) -> None:
    words = bytearray(32) if shared else None
    slot = MemorySlot(words)
    slot.words[1], slot.words[0] = 5, 1
    assert slot.left() == (0, 5)
    assert MemorySlot(words).left() == ((0, 5) if shared else None)
    slot.clear()
    assert slot.left() is None
    slot.close()
