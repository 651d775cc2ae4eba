"""One life of the simulated system: input comes, processes die and sleep, then all must be done."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.commit import Input, Stored, decode_outbox
from tests.simulation.parts import FEEDBACK, TRAINING, TRANSACTIONS, Labeller, Part, Scorer, Trainer
from tests.simulation.world import Actor, Delivery, Process, World, step

PARTITIONS = 2
WORKERS, TRAINERS = 3, 2
CARDS = 12
# One label for so many transactions; one of so many labels comes twice.
LABEL_EACH, TWICE_EACH = 5, 4
SESSION_STEPS = 150
QUIET_STEPS_MAX = 200_000
# Chances of a fault at a step.
CRASH, SLEEP, MOVE, UNLUCKY = 0.003, 0.003, 0.004, 0.25


Lane = tuple[str, int]
"""Topic and partition of what a process works on."""

PARTS: dict[str, type[Part]] = {TRANSACTIONS: Scorer, FEEDBACK: Labeller, TRAINING: Trainer}


@dataclass
class Sent:
    """What the producer sends: transactions with their card, and labels, by partition."""

    transactions: list[list[tuple[bytes, bytes]]] = field(
        default_factory=lambda: [[] for _ in range(PARTITIONS)]
    )
    labels: list[list[tuple[bytes, bytes]]] = field(
        default_factory=lambda: [[] for _ in range(PARTITIONS)]
    )


class Life:
    """One seed's run.

    Parameters
    ----------
    events
        Transactions that are sent; labels come on top.
    kind
        The side of the protocol that is tried.
    """

    def __init__(self, seed: int, *, events: int, kind: type[Input] = Input) -> None:
        self.world = World(seed)
        self.sent = Sent()
        self.faults: Counter[str] = Counter()
        self._events, self._kind = events, kind
        self._names = 0
        self._producer = Process("producer")
        self._workers = [self._process("worker") for _ in range(WORKERS)]
        self._trainers = [self._process("trainer") for _ in range(TRAINERS)]
        self._owners: dict[Lane, tuple[Process, Actor]] = {}

    def run(self) -> None:
        """Live through the faults, then through a quiet time until everything is done."""
        world = self.world
        world.store.unlucky = UNLUCKY
        producing = world.start(self._produce(), self._producer)
        self._assign_all()
        while producing in world.actors or world.chance.random() > 0.01:
            self._fault()
            world.advance()
        self._calm()
        self._finish()

    def _process(self, kind: str) -> Process:
        self._names += 1
        return Process(f"{kind}-{self._names}")

    async def _produce(self) -> None:
        chance = self.world.chance
        for number in range(self._events):
            if chance.random() < 0.2:
                await step()
            card = chance.randrange(CARDS)
            p = card % PARTITIONS
            self._send(TRANSACTIONS, p, f"t{number}", f"card-{card}")
            if number % LABEL_EACH == 0 and not f"t{number}".endswith("13"):
                for _ in range(1 + (chance.randrange(TWICE_EACH) == 0)):
                    self._send(FEEDBACK, p, f"label-{number}", f"t{number}")

    def _send(self, topic: str, p: int, key: str, value: str) -> None:
        record = key.encode(), value.encode()
        sent = self.sent.transactions if topic == TRANSACTIONS else self.sent.labels
        sent[p].append(record)
        self.world.log.append((topic, p), *record)

    def _lanes(self) -> Iterator[tuple[Lane, Sequence[Process]]]:
        for p in range(PARTITIONS):
            yield (TRANSACTIONS, p), self._workers
            yield (FEEDBACK, p), self._workers
        yield (TRAINING, 0), self._trainers

    def _assign_all(self) -> None:
        for lane, processes in self._lanes():
            self._assign(lane, self.world.chance.choice(processes))

    def _assign(self, lane: Lane, process: Process) -> None:
        """Give a lane to a process; who had it may know at once, late, or not before it ends."""
        chance = self.world.chance
        owner, actor = self._owners.get(lane, (None, None))
        if actor is not None and actor in self.world.actors:
            if owner is process:
                actor.is_recovering = True
                return
            if owner is not None and owner.wakes_at <= self.world.clock and chance.random() < 0.5:
                actor.is_ending = True
            actor.ends_at = max(self.world.clock, owner.wakes_at if owner else 0)
            actor.ends_at += chance.randrange(400)
        topic, partition = lane
        part = PARTS[topic](self.world, process, partition, self._kind)
        own: list[Actor] = []
        own.append(self.world.start(part.run(own), process))
        self._owners[lane] = process, own[0]

    def _fault(self) -> None:
        """Perhaps let something happen."""
        chance, world = self.world.chance, self.world
        if world.store.late and chance.random() < 0.02:
            self.faults["late commit"] += 1
            world.store.apply(*world.store.late.pop(int(chance.random() * len(world.store.late))))
        luck = chance.random()
        if luck < CRASH:
            self.faults["crash"] += 1
            self._crash(chance.choice([*self._workers, *self._trainers]))
        elif luck < CRASH + SLEEP:
            self.faults["sleep"] += 1
            sleeper = chance.choice([*self._workers, *self._trainers])
            sleeper.wakes_at = world.clock + chance.randrange(4 * SESSION_STEPS)
        elif luck < CRASH + SLEEP + MOVE:
            self.faults["move"] += 1
            lanes = list(self._lanes())
            lane, processes = lanes[int(chance.random() * len(lanes))]
            self._assign(lane, chance.choice(processes))
        if world.clock % SESSION_STEPS == 0:
            self._expel()

    def _crash(self, process: Process) -> None:
        for processes, kind in ((self._workers, "worker"), (self._trainers, "trainer")):
            if process in processes:
                self.world.kill(process)
                processes[processes.index(process)] = self._process(kind)
                self._owners = {
                    lane: owned for lane, owned in self._owners.items() if owned[0] is not process
                }

    def _expel(self) -> None:
        """Give the lanes of the dead and of those that sleep too long to others."""
        for lane, processes in self._lanes():
            owner, actor = self._owners.get(lane, (None, None))
            awake = [item for item in processes if item.wakes_at <= self.world.clock]
            is_silent = owner is None or owner.wakes_at > self.world.clock + SESSION_STEPS
            if awake and (is_silent or actor not in self.world.actors):
                self._assign(lane, self.world.chance.choice(awake))

    def _calm(self) -> None:
        """Let no more faults happen, and everybody who still sleeps wake up."""
        world = self.world
        world.store.unlucky = 0.0
        for late in world.store.late:
            world.store.apply(*late)
        for process in [*self._workers, *self._trainers]:
            process.wakes_at = 0
        for actor in world.actors:
            actor.process.wakes_at = 0
        self._expel()

    def _finish(self) -> None:
        self._wait()
        # What they have committed last is published when they have ended, and learned then.
        for processes in (self._workers, self._trainers):
            for actor in self.world.actors:
                actor.is_ending = actor.is_ending or actor.process in processes
            while any(actor.process in processes for actor in self.world.actors):
                self.world.advance()
            if processes is self._workers:
                self._wait()
        while self.world.actors:
            self.world.advance()

    def _wait(self) -> None:
        for quiet in range(QUIET_STEPS_MAX):
            if quiet % 50 == 0 and self._is_done():
                return
            self.world.advance()
        raise AssertionError(f"not done after {QUIET_STEPS_MAX} quiet steps: {self._left()}")

    def _left(self) -> list[str]:
        """Name what is not done."""
        world, left = self.world, []
        for lane, _ in self._lanes():
            name = f"{lane[0]}:{lane[1]}"
            stored = world.store.stored.get(name)
            position = int((stored.position or "0").split(":")[0]) if stored else 0
            if position < len(world.log.records[lane]):
                left.append(f"{name} stands at {position}")
            elif stored and not self._is_published(stored):
                left.append(f"{name} has an outbox")
        for p, sent in enumerate(self.sent.transactions):
            tail = [key for key, _ in sent if not key.endswith(b"13")][-1:]
            left += [f"i:{key}" for key in tail if f"i:{key.decode()}" not in world.store.state]
            if world.store.state.get(f"pend:{p}"):
                left.append(f"pend:{p}")
        return left

    def _is_published(self, stored: Stored) -> bool:
        """Say whether an outbox has landed, the last of it as well."""
        last = decode_outbox(stored.outbox)[-1:]
        return all(
            (item.key, item.value) in self.world.log.records[item.topic, item.partition]
            for item in last
        )

    def _is_done(self) -> bool:
        name = Delivery.deliver.__qualname__
        on_their_way = any(actor.running.__qualname__ == name for actor in self.world.actors)
        return not on_their_way and not self._left()
