"""A world of coroutines without time: a log, a store, processes, and a seed that orders all steps.

Whatever awaits something of this world takes a step before it happens and one after it, so that a
process may die, sleep or be overtaken at each of them. What lies between two awaits is one step for
everybody else, here as on a real event loop, so no line of the protocol is out of reach. The clock
counts steps.
"""

import random
from collections import defaultdict
from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from types import coroutine
from typing import Any

from pipeline.commit import Change, OutboxRecord, Stored, UnknownResultError

ANSWERED, UNANSWERED, LOST, LATE = "answered", "unanswered", "lost", "late"

Place = tuple[str, int]
"""Topic and partition."""


@coroutine
def step() -> Generator[None, None, None]:
    """Let the seed choose who goes on."""
    yield


class Log:
    """Topics: a list of keys and values for each partition."""

    def __init__(self) -> None:
        self.records: defaultdict[Place, list[tuple[bytes, bytes]]] = defaultdict(list)

    def append(self, place: Place, key: bytes, value: bytes) -> int:
        """Add a record; gives its offset."""
        self.records[place].append((key, value))
        return len(self.records[place]) - 1


class SimulatedStore:
    """A store whose commits meet the fates that the chance has for them.

    Answered; done but unanswered; lost before they are done; or done late, after the owner was
    told that the result is unknown.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.unlucky = 0.0
        self.stored: dict[str, Stored] = {}
        self.state: dict[str, Any] = {}
        self.history: defaultdict[str, list[tuple[str | None, Stored]]] = defaultdict(list)
        self.late: list[tuple[str, str | None, Stored, Sequence[Change]]] = []

    async def load(self, name: str) -> Stored:
        await step()
        found = self.stored.get(name, Stored(None, b""))
        await step()
        return found

    async def position(self, name: str) -> str | None:
        return (await self.load(name)).position

    async def read(self, keys: Sequence[str]) -> list[Any]:
        """Give values of the state as of one moment."""
        await step()
        found = [self.state.get(key) for key in keys]
        await step()
        return found

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        await step()
        fate = ANSWERED
        if self._chance.random() < self.unlucky:
            fate = self._chance.choice([UNANSWERED, LOST, LATE])
        if fate == LATE:
            self.late.append((name, expected, stored, changes))
        done = fate in (ANSWERED, UNANSWERED) and self.apply(name, expected, stored, changes)
        await step()
        if fate != ANSWERED:
            raise UnknownResultError
        return done

    def apply(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """Do what the script of the real store does, at once."""
        if self.stored.get(name, Stored(None, b"")).position != expected:
            return False
        for command, key, value in changes:
            if command == "ADD":
                self.state[str(key)] = self.state.get(str(key), 0) + value
            elif command == "SET":
                self.state[str(key)] = value
            else:
                self.state.pop(str(key), None)
        self.stored[name] = stored
        self.history[name].append((expected, stored))
        return True


@dataclass(eq=False)
class Actor:
    """A coroutine of a process; it ends by itself, or at a step of the clock."""

    running: Coroutine[Any, Any, Any]
    process: "Process"
    ends_at: int | None = None
    # Asked to end, or to take over anew, once its batch is done.
    is_ending: bool = False
    is_recovering: bool = False


@dataclass(eq=False)
class Process:
    """A worker or a trainer, asleep until a moment of the clock."""

    name: str
    wakes_at: int = 0
    is_alive: bool = True


class Delivery:
    """Records on their way to the log; awaited, it gives the offset of each."""

    def __init__(self, log: Log, records: Sequence[OutboxRecord], chance: random.Random) -> None:
        self._log, self._records, self._chance = log, records, chance
        self._offsets: list[int] = []
        self.is_done = False

    async def deliver(self) -> None:
        """Land some records at each step."""
        while len(self._offsets) < len(self._records):
            await step()
            first = len(self._offsets)
            for record in self._records[first : first + self._chance.randint(1, 80)]:
                place = (record.topic, record.partition)
                assert record.key is not None
                assert record.value is not None
                self._offsets.append(self._log.append(place, record.key, record.value))
        await step()
        self.is_done = True

    def __await__(self) -> Generator[None, None, list[int]]:
        while not self.is_done:
            yield
        return self._offsets


@dataclass
class World:
    """Everything there is, and who takes the next step."""

    seed: int
    log: Log = field(default_factory=Log)
    actors: list[Actor] = field(default_factory=list)
    clock: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.store = SimulatedStore(self.chance)

    def start(self, running: Coroutine[Any, Any, Any], process: Process) -> Actor:
        """Let a process do something."""
        self.actors.append(Actor(running, process))
        return self.actors[-1]

    def publisher(self, process: Process) -> Any:
        """Give the `Publish` of a process."""

        async def publish(records: Sequence[OutboxRecord]) -> Delivery:
            await step()
            delivery = Delivery(self.log, records, self.chance)
            self.start(delivery.deliver(), process)
            return delivery

        return publish

    def advance(self) -> None:
        """Take one step of one actor."""
        self.clock += 1
        if not self.actors:
            return
        actor = self.actors[int(self.chance.random() * len(self.actors))]
        if actor.process.wakes_at > self.clock:
            return
        if actor.ends_at is not None and actor.ends_at <= self.clock:
            self.end(actor)
            return
        try:
            actor.running.send(None)
        except StopIteration:
            self.actors.remove(actor)

    def end(self, actor: Actor) -> None:
        """End a coroutine where it stands."""
        actor.running.close()
        self.actors.remove(actor)

    def kill(self, process: Process) -> None:
        """End a process where it stands; what it has sent already may still arrive."""
        process.is_alive = False
        for actor in [actor for actor in self.actors if actor.process is process]:
            is_sent = actor.running.__qualname__ == Delivery.deliver.__qualname__
            if not is_sent or self.chance.random() < 0.5:
                self.end(actor)
