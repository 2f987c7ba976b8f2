"""What people say about dead letters while the group is busy with others, or with the same."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.delivery.lot import OnFailure
from penstock.delivery.redrive import Command
from penstock.delivery.retry import Retry
from tests.unit.engine.engine_kit import Kit
from tests.unit.engine.test_engine_parking import command, keyed, orders


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_letters_for_which_there_was_no_room_are_redriven_before_the_group_is_idle(
    kit: Kit, concurrency: int
) -> None:
    source = await keyed(kit, orders(*"abcdefghi"))

    async def strict(order: object) -> None:
        raise ValueError("broken")

    options: dict[str, Any] = {"on_failure": OnFailure(keys_max=3), "concurrency": concurrency}
    await (await kit.handler(strict, source, retry=Retry(1), **options)).run()
    for number, letter in enumerate(await kit.letters("strict")):
        await command(kit, "strict", Command("redrive", number, letter.offset, letter.body, letter.key, letter.id))
    await (await kit.handler(strict, source, retry=Retry(2, first_s=0.1), **options)).run()
    assert [letter.again for letter in await kit.letters("strict")] == [0] * 9 + [1] * 9
