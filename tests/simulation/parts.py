"""A scorer, a labeller and a trainer, as small as they can be, each over the real `Input`.

What they decide carries the name of who decided it and a number that never comes again, so that a
thing decided twice is seen; and what they knew of the card, so that a thing decided on a wrong
state is seen as well.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

from pipeline.commit import Change, Input, OutboxRecord, resume_at
from tests.simulation.world import Actor, Process, World, step

TRANSACTIONS, FEEDBACK, TRAINING = "transactions", "feedback", "training"
DECISIONS, DEAD_LETTERS, MODELS = "decisions", "dead-letters", "models"
BATCH_MAX = 50
# How often somebody who has nothing to do looks whether the position is still his.
LOOK = 0.02
NO_HISTORY = (0, "")


def chained(before: str, key: bytes) -> str:
    """Give the next link of a hash chain."""
    return hashlib.sha256(before.encode() + key).hexdigest()[:16]


def is_bad(key: bytes) -> bool:
    """Say whether an input becomes a dead letter."""
    return key.endswith(b"13")


class Part:
    """What the parts have in common: an input, and the loop that a lane is."""

    topic = ""

    def __init__(self, world: World, process: Process, partition: int, kind: type[Input]) -> None:
        self._world, self._partition, self._process = world, partition, process
        self._name = f"{self.topic}:{partition}"
        self._input = kind(
            world.store, world.publisher(process), name=self._name, owner=process.name
        )
        self._overlaps = world.chance.random() < 0.5
        self._offset = 0

    async def run(self, own: list[Actor]) -> None:
        """Take over, then take batch after batch until asked to end."""
        await self._take_over()
        while True:
            [actor] = own
            if actor.is_ending:
                await self._input.published()
                return
            if actor.is_recovering:
                actor.is_recovering = False
                await self._take_over()
            await step()
            size = self._world.chance.randint(1, BATCH_MAX)
            records = self._log[self._offset : self._offset + size]
            if records:
                await self.handle(records)
            elif self._world.chance.random() < LOOK and not await self._input.is_current():
                await self._start_over()
            else:
                await self.tick()

    @property
    def _log(self) -> list[tuple[bytes, bytes]]:
        return self._world.log.records[self.topic, self._partition]

    async def _take_over(self) -> None:
        await self._input.recover()
        await self._start_over()

    async def _start_over(self) -> None:
        await self.restore()
        found = int((self._input.position or "0:0").split(":")[0])
        self._offset = resume_at(self._name, found, first=0, end=len(self._log))

    async def _commit(
        self, position: str, records: Sequence[OutboxRecord], changes: Sequence[Change]
    ) -> bool:
        move = self._input.begin if self._overlaps else self._input.commit
        if await move(position, records, changes):
            return True
        self._world.refused += 1
        await self._start_over()
        return False

    async def restore(self) -> None:
        """Forget what is cached."""

    async def handle(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Take a batch."""

    async def tick(self) -> None:
        """Do what needs no input."""


class Scorer(Part):
    """Counts and chains the events of each card, and indexes where decisions landed."""

    topic = TRANSACTIONS
    _numbers = itertools.count()

    async def restore(self) -> None:
        self._cards: dict[str, tuple[int, str]] = {}

    async def handle(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        p = self._partition
        wanted = list(dict.fromkeys(value.decode() for _, value in records))
        missing = [card for card in wanted if card not in self._cards]
        if missing:
            found = await self._world.store.read([f"c:{p}:{card}" for card in missing])
            self._cards |= {c: row or NO_HISTORY for c, row in zip(missing, found, strict=True)}
        published: list[OutboxRecord] = []
        touched: dict[str, None] = {}
        for key, value in records:
            card = value.decode()
            if is_bad(key):
                published.append(OutboxRecord(DEAD_LETTERS, 0, key, b"bad"))
                continue
            count, chain = self._cards[card]
            self._cards[card] = (count + 1, chained(chain, key))
            touched[card] = None
            # Scoring need not be repeatable: what was committed is what counts.
            said = f"{self._process.name}/{next(self._numbers)}/{count}/{chain}"
            published.append(OutboxRecord(DECISIONS, p, key, said.encode()))
        changes: list[Change] = [("SET", f"c:{p}:{card}", self._cards[card]) for card in touched]  # type: ignore[list-item]
        changes += [("ADD", f"shared:{len(card)}", 1) for card in wanted]
        await self._input.published()
        changes += self._indexed()
        end = self._offset + len(records)
        if await self._commit(f"{end}:0", published, changes):
            self._offset = end

    async def tick(self) -> None:
        await self._input.published()
        changes = self._indexed()
        if changes:
            await self._commit(f"{self._offset}:1", [], changes)

    def _indexed(self) -> list[Change]:
        return [
            ("SET", f"i:{record.key.decode()}", offset)
            for record, offset in self._input.landed
            if record.topic == DECISIONS and record.key
        ]


class Labeller(Part):
    """Joins labels to decisions that are in the index, and numbers what it emits."""

    topic = FEEDBACK

    async def restore(self) -> None:
        p = self._partition
        [pending] = await self._world.store.read([f"pend:{p}"])
        self._pending: tuple[tuple[str, str], ...] = pending or ()
        position = self._input.position or "0:0:0"
        _, self._seq, self._steps = (int(part) for part in position.split(":"))

    async def handle(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        labels = [(key.decode(), value.decode()) for key, value in records]
        await self._join(labels, self._offset + len(records))

    async def tick(self) -> None:
        if self._pending:
            await self._join([], self._offset)

    async def _join(self, labels: list[tuple[str, str]], end: int) -> None:
        p = self._partition
        asked = [*self._pending, *labels]
        ids = list(dict.fromkeys(transaction for _, transaction in asked))
        found = await self._world.store.read([f"i:{name}" for name in ids])
        learned = await self._world.store.read([f"v:{name}" for name in ids])
        index, verdicts = (dict(zip(ids, row, strict=True)) for row in (found, learned))
        records: list[OutboxRecord] = []
        changes: list[Change] = []
        pending: list[tuple[str, str]] = []
        repeated = 0
        for label, transaction in asked:
            if verdicts[transaction] is not None:
                repeated += 1
            elif index[transaction] is None:
                pending.append((label, transaction))
            else:
                seq = self._seq + len(records)
                verdicts[transaction] = label
                changes.append(("SET", f"v:{transaction}", label))
                example = json.dumps([p, seq, label, transaction, self._process.name]).encode()
                records.append(OutboxRecord(TRAINING, 0, label.encode(), example))
        if end == self._offset and not records and not repeated:
            return
        changes += [
            ("ADD", f"ledger:{p}:learned", len(records)),
            ("ADD", f"ledger:{p}:repeated", repeated),
            ("SET", f"pend:{p}", tuple(pending)),  # type: ignore[list-item]
        ]
        seq = self._seq + len(records)
        if await self._commit(f"{end}:{seq}:{self._steps + 1}", records, changes):
            self._offset, self._seq, self._steps = end, seq, self._steps + 1
            self._pending = tuple(pending)


class Fold:
    """What is learned of a training log: a chain, and the numbers seen."""

    def __init__(self, chain: str = "", marks: dict[str, int] | None = None) -> None:
        self.chain, self.marks = chain, dict(marks or {})

    def fresh(self, values: Sequence[bytes]) -> list[bytes]:
        """Give the examples that were not learned yet, and mark them."""
        fresh = []
        for value in values:
            partition, seq, *_ = json.loads(value)
            if seq > self.marks.get(str(partition), -1):
                self.marks[str(partition)] = seq
                fresh.append(value)
        return fresh

    def learn(self, values: Sequence[bytes]) -> None:
        """Learn examples that are fresh."""
        for value in values:
            self.chain = chained(self.chain, value)


class Trainer(Part):
    """Folds the training log into a model and rows; its snapshots are published at any time."""

    topic = TRAINING

    async def restore(self) -> None:
        committed, self._steps = map(int, (self._input.position or "0:0").split(":"))
        await step()
        self._fold, start = Fold(), 0
        for _, value in reversed(self._world.log.records[MODELS, 0]):
            offset, chain, marks = json.loads(value)
            if offset <= committed:
                self._fold, start = Fold(chain, marks), offset
                break
        values = [value for _, value in self._log[start:committed]]
        self._fold.learn(self._fold.fresh(values))
        self._rows: dict[str, Any] = {}

    async def handle(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        fresh = self._fold.fresh([value for _, value in records])
        self._fold.learn(fresh)
        rows = [f"l:{json.loads(value)[3][-1]}" for value in fresh]
        missing = [name for name in dict.fromkeys(rows) if name not in self._rows]
        found = await self._world.store.read(missing)
        self._rows |= {name: row or "" for name, row in zip(missing, found, strict=True)}
        for name, value in zip(rows, fresh, strict=True):
            self._rows[name] = chained(self._rows[name], value)
        changes: list[Change] = [("SET", name, self._rows[name]) for name in dict.fromkeys(rows)]
        end = self._offset + len(records)
        is_due = self._world.chance.random() < 0.5
        if await self._commit(f"{end}:{self._steps + 1}", self._snapshot(end) * is_due, changes):
            self._offset, self._steps = end, self._steps + 1

    async def tick(self) -> None:
        # A step that only publishes moves no offset.
        if self._offset and self._world.chance.random() < 0.01:
            position = f"{self._offset}:{self._steps + 1}"
            if await self._commit(position, self._snapshot(self._offset), []):
                self._steps += 1

    def _snapshot(self, offset: int) -> list[OutboxRecord]:
        value = json.dumps([offset, self._fold.chain, self._fold.marks], sort_keys=True)
        return [OutboxRecord(MODELS, 0, str(offset).encode(), value.encode())]
