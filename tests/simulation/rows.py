"""Rows of profiles as a fold of a log: the real cache over a store that meets simulated faults.

Processes hold rows for their partitions, follow the log, write rows back, trim it, die at any step,
are overtaken, and meet a store that was put back to an older state. Beside the store stands the
truth: every row after every addition, folded once, as they were committed.
"""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from consumers import redis_profiles
from consumers.redis_profiles import ADDITIONS, ProfileCache, RedisProfiles
from consumers.redis_store import Answer, LogEntry, Mark, RedisStore
from pipeline.additions import Kind, kinds_of, unpacked
from pipeline.commit import Change, Stored, UnknownResultError
from pipeline.events import Transactions
from pipeline.profiles import ProfileView, Structured
from pipeline.schema import load_schema
from pipeline.stored_rows import unsealed
from tests.simulation.world import Actor, Process, SimulatedStore, World, step

SCHEMA = load_schema("card")
START_MS = 1_700_000_000_000
PARTITIONS, PROCESSES = 3, 2
CARDS, TERMINALS = 9, 6
BATCH_MAX = 4
# As small as they can be, so that every bound is met in every life.
ENTRIES_AT_ONCE, ENTRIES_KEPT, WRITER_ENTRIES_MAX, IDS_A_STEP = 6, 4, 12, 2
CRASH, MOVE, SLEEP, PUT_BACK, UNLUCKY = 0.004, 0.006, 0.003, 0.006, 0.2
SLEEP_STEPS, SOON = 400, 0.1
WRITE_BACK, FORGET = 0.05, 0.02
QUIET_STEPS_MAX = 100_000

Name = tuple[int, int, int, str]
"""A row: number of its entity, number of its kind, partition (where that matters), id."""

Seen = tuple[int, Mark, list[tuple[Name, Kind, bytes]]]
"""What a batch is decided on: its history, a place in the log, and rows as of it."""


def kinds() -> Iterator[tuple[int, int, Kind]]:
    """List the kinds of rows of all entities."""
    for entity in range(len(SCHEMA.keyed)):
        for number, kind in enumerate(kinds_of(SCHEMA, entity)):
            yield entity, number, kind


class Truth:
    """Every row as of every number of the log."""

    def __init__(self) -> None:
        self._rows: dict[Name, Structured] = {}
        self._versions: dict[Name, tuple[list[int], list[bytes]]] = {}
        self.marks = {Mark(0, b"")}

    def add(self, entry: LogEntry) -> None:
        """Fold an entry, event by event."""
        number, added = entry.mark.number, unpacked(unsealed(ADDITIONS, entry.content))
        self.marks.add(entry.mark)
        for entity, place, kind in kinds():
            ids = added.keys[entity]
            for row, key in enumerate(ids):
                where = entity, place, added.partition if kind.name == "c" else 0, key
                rows = self._rows.setdefault(where, kind.empty(1))
                columns = {
                    column: values[row : row + 1] for column, values in added.columns.items()
                }
                kind.record(rows, np.zeros(1, np.int32), columns)
                numbers, versions = self._versions.setdefault(where, ([], []))
                if numbers and numbers[-1] == number:
                    versions[-1] = rows.tobytes()
                else:
                    numbers.append(number)
                    versions.append(rows.tobytes())

    def row(self, name: Name, kind: Kind, number: int) -> bytes:
        """Give a row as of a number of the log."""
        numbers, versions = self._versions.get(name, ([], []))
        place = bisect_right(numbers, number)
        return versions[place - 1] if place else kind.empty(1).tobytes()


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes rows back: how many additions there were when he began, and steps he has done."""

    name: str
    since: int
    steps: int = 0


@dataclass
class Held:
    """What the store holds of profiles, and the truth of it."""

    entries: dict[int, LogEntry] = field(default_factory=dict)
    newest: int = 0
    folded: int = 0
    rows: dict[str, bytes] = field(default_factory=dict)
    writer: Writer | None = None
    # Of each input: the number of its newest addition.
    last: dict[str, int] = field(default_factory=dict)
    truth: Truth = field(default_factory=Truth)


class RowsStore(SimulatedStore):
    """A store that keeps the log of additions and the rows, as `redis_scripts.py` does."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.held = Held()
        self.trimmed = self.written = 0
        # By the name of the entry that a batch would add.
        self.seen: dict[str, Seen] = {}
        # Of each history that was given up.
        self.before: list[Truth] = []

    def apply(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        if not super().apply(name, expected, stored, []):
            return False
        for _, by, content in changes:
            held = self.held
            self._check(name, *self.seen.pop(str(by)))
            held.newest += 1
            held.last[name] = held.newest
            entry = LogEntry(Mark(held.newest, str(by).encode()), cast(bytes, content))
            held.entries[held.newest] = entry
            held.truth.add(entry)
        return True

    def _check(
        self, owner: str, history: int, mark: Mark, rows: Sequence[tuple[Name, Kind, bytes]]
    ) -> None:
        """Compare what a batch was decided on with the truth, as its commit is taken.

        A batch that was loaded before the store was put back is one of that history.
        """
        [truth, *_] = [item for item in (self.held.truth, *self.before) if mark in item.marks]
        # A position that is older than the exchange may have come about again, by other steps.
        if history == len(self.before):
            newest = self.held.last.get(owner, 0)
            assert truth is self.held.truth, f"{mark} is of a history that was given up"
            assert mark.number >= newest, f"{owner} was decided without its own addition {newest}"
        for name, kind, found in rows:
            expected = truth.row(name, kind, mark.number)
            assert found == expected, f"{kind.name} of {name[-1]} is not the fold up to {mark}"

    def put_back(self, held: Held, stored: dict[str, Stored]) -> None:
        """Go back to an older state."""
        self.before.append(self.held.truth)
        self.held, self.stored, self.late = held, stored, []

    async def read_profiles(
        self, additions: Mark | None, lessons: Mark | None, keys: Sequence[str], ids: bytes
    ) -> Answer:
        """Answer as of one moment."""
        del lessons, ids
        await step()
        held, history = self.held, len(self.before)
        first = held.folded if additions is None else additions.number
        entries = [held.entries[number] for number in sorted(held.entries) if number >= first]
        answer = Answer(
            held.newest, held.folded, 0, entries[:ENTRIES_AT_ONCE], [], {}, {},
            [held.rows.get(key) for key in keys],
        )  # fmt: skip
        await step()
        if history == len(self.before):
            return answer
        # The exchange has ended the connection, and the client asks again.
        return await self.read_profiles(additions, None, keys, b"")

    async def begin_writing(self, writer: str, *, folded: int) -> bool:
        """Become the writer, if nobody else is at it."""
        await step()
        held = self.held
        is_other = held.writer is not None and held.newest - held.writer.since < WRITER_ENTRIES_MAX
        is_taken = held.folded == folded and not is_other
        if is_taken:
            held.writer = Writer(writer, held.newest)
        await step()
        return is_taken

    async def write_rows(
        self, writer: str, pairs: Sequence[str | bytes], *, steps: int, place: Mark
    ) -> bool:
        """Write rows, if this is still the writer."""
        await step()
        is_writer = self._is_at_it(writer, steps, place)
        if is_writer:
            self.held.rows |= dict(zip(pairs[::2], pairs[1::2], strict=True))  # type: ignore[arg-type]
            self.held.writer = Writer(writer, cast(Writer, self.held.writer).since, steps + 1)
        await step()
        return is_writer

    async def end_writing(self, writer: str, *, steps: int, place: Mark) -> bool:
        """Say that all rows hold all up to a place, and trim the log."""
        await step()
        held = self.held
        is_writer = self._is_at_it(writer, steps, place)
        if is_writer:
            held.folded, held.writer = place.number, None
            kept = max(place.number - ENTRIES_KEPT, 0)
            before = len(held.entries)
            held.entries = {n: entry for n, entry in held.entries.items() if n >= kept}
            self.trimmed += before - len(held.entries)
            self.written += 1
        await step()
        return is_writer

    def _is_at_it(self, writer: str, steps: int, place: Mark) -> bool:
        found, entry = self.held.writer, self.held.entries.get(place.number)
        is_known = found is not None and found.name == writer and found.steps >= steps
        return is_known and entry is not None and entry.mark == place


class _Doors:
    """The store as a cache of a process sees it."""

    def __init__(self, store: RowsStore) -> None:
        self.read = store.read_profiles
        self.begin_writing, self.write_rows = store.begin_writing, store.write_rows
        self.end_writing = store.end_writing


class Life:
    """One seed's run."""

    def __init__(self, seed: int, *, batches: int) -> None:
        self.world = World(seed)
        self.store = RowsStore(self.world.chance)
        self.world.store = self.store
        self.faults: Counter[str] = Counter()
        self._left = batches
        self._events = 0
        self._names = 0
        self._caches: dict[Process, ProfileCache] = {}
        self._owners: dict[int, Actor] = {}
        self._copy: tuple[Held, dict[str, Stored]] | None = None
        # Whether it is put back within a few steps, as where a replica takes over.
        self._is_soon = False

    def run(self) -> None:
        """Live through the faults; then everything must be what one fold gives."""
        chance, world = self.world.chance, self.world
        self.store.unlucky = UNLUCKY
        for _ in range(PROCESSES):
            self._begin_process()
        while self._left > 0:
            self._fault()
            for partition in range(PARTITIONS):
                if self._owners.get(partition) not in world.actors:
                    self._assign(partition, chance.choice(list(self._caches)))
            world.advance()
        self.store.unlucky = 0.0
        for late in self.store.late:
            self.store.apply(*late)
        for actor in list(world.actors):
            world.end(actor)
        self._check_all()

    def _begin_process(self) -> None:
        self._names += 1
        process = Process(f"worker-{self._names}")
        cache = ProfileCache(cast(RedisStore, _Doors(self.store)), SCHEMA)
        self._caches[process] = cache
        self.world.start(self._tend(cache), process)

    def _assign(self, partition: int, process: Process) -> None:
        running = self._decide(partition, self._caches[process])
        self._owners[partition] = self.world.start(running, process)

    async def _tend(self, cache: ProfileCache) -> None:
        """Now and then write rows back, or forget them."""
        while True:
            await step()
            luck = self.world.chance.random()
            if luck < WRITE_BACK:
                await cache.write_back()
            elif luck < WRITE_BACK + FORGET:
                cache.forget()

    async def _decide(self, partition: int, cache: ProfileCache) -> None:
        """Decide batch after batch, each from the position that the store has."""
        profiles, name = RedisProfiles(cache, partition), f"transactions:{partition}"
        history = len(self.store.before)
        position = (await self.store.load(name)).position
        while True:
            batch = self._batch(partition)
            await profiles.load(batch)
            seen = self._seen(batch, partition, cache, profiles.open(batch))
            changes = profiles.changes(batch, np.zeros(len(batch), np.int8))
            self.store.seen[str(changes[0][1])] = history, *seen
            history = len(self.store.before)
            stored = Stored(str(int(position or 0) + 1), b"")
            try:
                is_done = await self.store.commit(name, position, stored, changes)
            except UnknownResultError:
                is_done = False
            self._left -= 1
            history = history if is_done else len(self.store.before)
            position = stored.position if is_done else (await self.store.load(name)).position

    def _batch(self, partition: int) -> Transactions:
        chance = self.world.chance
        count = chance.randint(1, BATCH_MAX)
        self._events += count
        cards = [f"c{chance.randrange(CARDS) * PARTITIONS + partition}" for _ in range(count)]
        return Transactions(
            [f"t{self._events + row}" for row in range(count)],
            np.array([START_MS + self._events * 60_000 + row for row in range(count)]),
            (cards, [f"m{chance.randrange(TERMINALS)}" for _ in range(count)]),
            np.array([chance.randrange(1, 50_000) for _ in range(count)]),
            ["EUR"] * count,
            np.empty((count, 0), np.float32),
        )

    def _seen(
        self, batch: Transactions, partition: int, cache: ProfileCache, view: ProfileView
    ) -> tuple[Mark, list[tuple[Name, Kind, bytes]]]:
        """Keep what a batch is decided on, and which place of the log that is of."""
        opened = {
            (0, "c"): view.traffic,
            **{(at, "r"): rows for at, rows in enumerate(view.shared, start=1)},
            **{(at, "p"): rows for at, rows in enumerate(view.probes)},
        }
        rows: list[tuple[Name, Kind, bytes]] = []
        for entity, place, kind in kinds():
            found = opened[entity, kind.name]
            for event, key in enumerate(batch.keys[entity]):
                name = entity, place, partition if kind.name == "c" else 0, key
                rows.append((name, kind, found.values[found.slots[event]].tobytes()))
        mark = cache._additions  # noqa: SLF001 - nobody else has to know
        assert mark is not None, "what was opened is of no place"
        return mark, rows

    def _fault(self) -> None:
        chance, world, store = self.world.chance, self.world, self.store
        luck = chance.random()
        if self._copy is not None and self._is_soon and chance.random() < SOON:
            self._put_back()
        if store.late and chance.random() < 0.02:
            self.faults["late commit"] += 1
            store.apply(*store.late.pop(chance.randrange(len(store.late))))
        if luck < CRASH:
            self.faults["crash"] += 1
            process = chance.choice(list(self._caches))
            world.kill(process)
            del self._caches[process]
            self._begin_process()
        elif luck < CRASH + MOVE:
            # The one before goes on for a while, and is refused.
            self.faults["move"] += 1
            partition = chance.randrange(PARTITIONS)
            before = self._owners.get(partition)
            if before in world.actors:
                before.ends_at = world.clock + chance.randrange(200)
            self._assign(partition, chance.choice(list(self._caches)))
        elif luck < CRASH + MOVE + SLEEP:
            self.faults["sleep"] += 1
            chance.choice(list(self._caches)).wakes_at = world.clock + chance.randrange(SLEEP_STEPS)
        elif luck < CRASH + MOVE + SLEEP + PUT_BACK:
            self._put_back()

    def _put_back(self) -> None:
        """Keep a copy of the store, or go back to the one that was kept."""
        store, chance = self.store, self.world.chance
        if self._copy is None:
            self._copy = deepcopy((store.held, store.stored))
            self._is_soon = chance.random() < 0.5
            return
        self.faults["put back"] += 1
        store.put_back(*self._copy)
        self._copy = None

    def _check_all(self) -> None:
        """A process that begins anew finds, and writes back, the rows of the one fold."""
        cache = ProfileCache(cast(RedisStore, _Doors(self.store)), SCHEMA)
        self.store.held.writer = None
        for partition in range(PARTITIONS):
            cards = [f"c{card * PARTITIONS + partition}" for card in range(CARDS)]
            self._finish(self._all_rows(cache, partition, cards))
        self._finish(cache.write_back())
        held = self.store.held
        assert held.folded == held.newest, "what was written back is not all"
        for entity, place, kind in kinds():
            for key, blob in held.rows.items():
                name, where, row = key.split(":", 2)
                if name == kind.name and (name == "c" or where == SCHEMA.keyed[entity].name):
                    content = unsealed(key, blob)
                    is_of = entity, place, int(where) if name == "c" else 0, row
                    assert content[:-8] == held.truth.row(is_of, kind, held.newest), key

    async def _all_rows(self, cache: ProfileCache, partition: int, cards: list[str]) -> None:
        terminals = [f"m{number % TERMINALS}" for number in range(len(cards))]
        await cache.load((cards, terminals), partition)

    def _finish(self, running: Any) -> None:
        actor = self.world.start(running, Process("last"))
        for _ in range(QUIET_STEPS_MAX):
            if actor not in self.world.actors:
                return
            self.world.advance()
        raise AssertionError(f"not done after {QUIET_STEPS_MAX} quiet steps")


def simulate_rows(seed: int, *, batches: int) -> Life:
    """Live one life; an AssertionError names its seed."""
    before = redis_profiles.ENTRIES_AT_ONCE, redis_profiles.IDS_A_STEP
    redis_profiles.ENTRIES_AT_ONCE, redis_profiles.IDS_A_STEP = ENTRIES_AT_ONCE, IDS_A_STEP
    try:
        life = Life(seed, batches=batches)
        life.run()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        redis_profiles.ENTRIES_AT_ONCE, redis_profiles.IDS_A_STEP = before
    return life
