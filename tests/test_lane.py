"""A lane works on the chunks of a partition in order, without losing or skipping any."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from faust.types import TP

from consumers.chunks import Chunk
from consumers.dead_letters import EventError, InputRecord
from consumers.lane import Lane, Part

PLACE = TP("transactions", 0)


@dataclass
class Fetched:
    """A record as the client gives it."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


def chunk(asked: int, *offsets: int) -> Chunk:
    return Chunk(asked, [Fetched(offset) for offset in offsets])


class CountingPart(Part):
    """Keeps the offsets it worked on; `room` says how many batches it takes before it is full."""

    position: int | None = None

    def __init__(self, position: int | None = None) -> None:
        self.position = position
        self.batches: list[list[int]] = []
        self.room: int | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def recover(self) -> int | None:
        return self.position

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        await self.go.wait()
        if self.room is not None:
            if not self.room:
                return False
            self.room -= 1
        self.batches.append([record.offset for record in records])
        self.position = records[-1].offset + 1
        return True


class World:
    """A lane and what it told the consumer."""

    def __init__(self, part: CountingPart, batch: int = 100, interval_seconds: float = 0.0) -> None:
        self.part = part
        self.read_again: list[int] = []
        self.finished = 0
        self.lane = Lane(
            PLACE,
            part,
            batch_events_max=batch,
            interval_seconds=interval_seconds,
            read_again=self._read_again,
            finished=self._finish,
        )

    async def _read_again(self, tp: TP, offset: int) -> None:
        self.read_again.append(offset)

    def _finish(self, tp: TP, records: int) -> None:
        self.finished += records

    def put(self, given: Chunk) -> None:
        async def guard(work: Awaitable[None]) -> None:
            await work

        self.lane.put(given, guard)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_chunks_that_gathered_become_one_batch() -> None:
    async def story() -> None:
        world = World(CountingPart())
        world.put(chunk(0, 0, 1))
        world.put(chunk(2, 2))
        await world.until(lambda: world.finished == 3)

        assert world.part.batches == [[0, 1, 2]]

    run(story())


def test_a_batch_is_never_larger_than_it_may_be() -> None:
    async def story() -> None:
        world = World(CountingPart(), batch=2)
        world.put(chunk(0, *range(5)))
        await world.until(lambda: world.finished == 5)

        assert world.part.batches == [[0, 1], [2, 3], [4]]

    run(story())


def test_records_before_the_position_are_not_worked_on_again() -> None:
    async def story() -> None:
        world = World(CountingPart(position=2))
        world.put(chunk(0, 0, 1, 2, 3))
        await world.until(lambda: world.finished == 4)

        assert world.part.batches == [[2, 3]]

    run(story())


def test_a_hole_in_the_log_itself_is_legal() -> None:
    async def story() -> None:
        world = World(CountingPart(position=0))
        world.put(chunk(0, 0, 1, 5))
        world.put(chunk(6, 9))
        await world.until(lambda: world.finished == 4)

        assert world.part.batches == [[0, 1, 5, 9]]
        assert not world.read_again

    run(story())


def test_what_was_fetched_twice_is_worked_on_once() -> None:
    async def story() -> None:
        world = World(CountingPart(), batch=3)
        world.put(chunk(0, 0, 1, 2, 4))
        world.put(chunk(2, 2, 4, 5))
        world.put(chunk(2, 2, 4))
        world.put(chunk(6, 6))
        await world.until(lambda: world.finished == 10)

        assert world.part.batches == [[0, 1, 2], [4, 5, 6]]
        assert not world.read_again

    run(story())


def test_records_that_were_lost_on_the_way_are_read_again() -> None:
    async def story() -> None:
        world = World(CountingPart(position=0))
        world.put(chunk(0, 0, 1))
        world.put(chunk(5, 5, 6))
        await world.until(lambda: bool(world.read_again))

        assert world.part.batches == [[0, 1]]
        assert world.read_again == [2]
        assert world.finished == 4

    run(story())


def test_what_finds_no_room_is_worked_on_later_and_in_order() -> None:
    async def story() -> None:
        part = CountingPart()
        part.room = 1
        world = World(part, batch=2)
        world.put(chunk(0, 0, 1, 2, 3))
        await world.until(lambda: part.room == 0 and not world.lane.lock.locked())
        assert (part.batches, world.finished) == ([[0, 1]], 2)

        part.room = None
        world.put(chunk(4, 4))
        await world.until(lambda: world.finished == 5)

        assert [offset for batch in part.batches for offset in batch] == [0, 1, 2, 3, 4]

    run(story())


def test_a_chunk_that_comes_as_the_work_ends_does_not_wait_for_the_next_one() -> None:
    async def story() -> None:
        world = World(CountingPart())
        for offset in range(500):
            world.put(chunk(offset, offset))
            for _ in range(offset % 7):
                await asyncio.sleep(0)
        await world.until(lambda: world.finished == 500)

        assert [offset for batch in world.part.batches for offset in batch] == list(range(500))

    run(story())


def test_a_lane_that_ends_finishes_its_batch_and_gives_the_rest_up() -> None:
    async def story() -> None:
        part = CountingPart()
        part.go.clear()
        world = World(part)
        world.put(chunk(0, 0))
        await world.until(world.lane.lock.locked)
        world.put(chunk(1, 1))
        ending = asyncio.ensure_future(world.lane.end())
        await asyncio.sleep(0)
        part.go.set()
        await ending

        await world.until(lambda: not world.lane.is_working)

        assert part.batches == [[0]]
        assert world.finished == 2

    run(story())


class FailingPart(CountingPart):
    """Fails on batches with certain offsets; those that come alone it keeps in `refused`."""

    def __init__(self, *failing: int) -> None:
        super().__init__(position=0)
        self.failing, self.refused = set(failing), list[int]()
        self.tries: Counter[int] = Counter()

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        self.tries.update(record.offset for record in records)
        if self.failing & {record.offset for record in records}:
            raise EventError(ValueError("a defect"))
        return await super().handle(records)

    async def failed(self, records: Sequence[InputRecord], error: EventError) -> None:
        if len(records) == 1:
            self.refused.append(records[0].offset)
            self.position = records[0].offset + 1


def test_a_record_that_our_own_code_fails_on_is_refused_alone() -> None:
    async def story() -> None:
        world = World(part := FailingPart(37, 38, 70))
        world.put(chunk(0, *range(100)))
        await world.until(lambda: world.finished == 100)

        assert part.refused == [37, 38, 70]
        worked = [offset for batch in part.batches for offset in batch]
        assert worked == [offset for offset in range(100) if offset not in part.failing]
        assert not world.read_again

    run(story())


def test_batches_grow_again_behind_a_record_that_was_refused() -> None:
    async def story() -> None:
        world = World(part := FailingPart(0))
        world.put(chunk(0, *range(500)))
        await world.until(lambda: world.finished == 500)

        assert [len(batch) for batch in part.batches] == [1, 2, 4, 8, 16, 32, 64, 100, 100, 100, 72]

    run(story())


def test_a_defect_that_every_record_meets_costs_each_few_tries() -> None:
    async def story() -> None:
        world = World(part := FailingPart(*range(300)))
        world.put(chunk(0, *range(300)))
        await world.until(lambda: world.finished == 300)

        assert part.refused == list(range(300))
        assert max(part.tries.values()) <= 8

    run(story())


def test_a_batch_waits_for_the_interval_but_not_where_little_comes() -> None:
    async def story() -> None:
        world = World(CountingPart(), interval_seconds=0.5)
        loop = asyncio.get_running_loop()
        started = loop.time()
        world.put(chunk(0, 0))
        await world.until(lambda: world.finished == 1)
        first = loop.time() - started
        world.put(chunk(1, 1))
        world.put(chunk(2, 2))
        await world.until(lambda: world.finished == 3)

        assert world.part.batches == [[0], [1, 2]]
        assert first < 0.5 <= loop.time() - started

    run(story())
