"""The final checker: the books against what was published and what Redis holds.

(a) Every input has exactly one distinct decision, or one dead letter, or is a duplicate.
(b) What was published again is the same in every byte.
(c) Counts and whole amounts add up: over cards, and over shared entities day by day.
(d) The profile of each card and each shared entity is the sequential fold of the logs.
(e) Every published model is the fold of the training log up to its offset, bit for bit; so are the
    rows of what labels teach.
(f) Positions stand at the ends of the logs, and every outbox is published.
(g) Labels read = learned + settled otherwise + waiting + dead letters, and each was learned once.

Each finding says how many were lost, counted twice, published in two forms, or held otherwise than
the logs say.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import msgspec

from benchmarks.chaos.books import Books, digest, letter_digest, model_digest, rows_of
from benchmarks.chaos.held import Held
from consumers.model_pointer import Champion
from pipeline.commit import OutboxRecord, decode_outbox
from pipeline.profiles import DAY_SLOTS, HOUR_SLOTS, Table
from pipeline.schema import Schema
from pipeline.stored_rows import SEAL_BYTES
from pipeline.topics import (
    DEAD_LETTERS,
    DECISIONS,
    FEEDBACK,
    MODELS,
    OUTCOMES,
    TRAINING,
    TRANSACTIONS,
)
from pipeline.verdicts import LABEL_PATHS

Harm = Literal["lost", "double", "conflicting", "state"]
HARMS: tuple[Harm, ...] = ("lost", "double", "conflicting", "state")
INPUTS = (TRANSACTIONS, FEEDBACK, OUTCOMES)
EXAMPLES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be."""

    check: str
    harm: Harm
    count: int
    text: str

    def __str__(self) -> str:
        return f"({self.check}) {self.text}: {self.count:,} [{self.harm}]"


def judge(books: Books, held: Held, schema: Schema, partitions: int) -> list[Finding]:
    """Close the books: give all that is wrong, nothing where all is right."""
    books.fold_models()
    judged = _Judge(books, held, schema, partitions)
    parts = (
        judged.inputs(), judged.repetitions(), judged.sums(), judged.profiles(), judged.models(),
        judged.learned_rows(), judged.positions(), judged.outboxes(), judged.labels(),
    )  # fmt: skip
    return [finding for part in parts for finding in part if finding.count]


def totals(findings: Sequence[Finding]) -> dict[Harm, int]:
    """Add findings up by what they mean."""
    found: Counter[Harm] = Counter()
    for finding in findings:
        found[finding.harm] += finding.count
    return {harm: found[harm] for harm in HARMS}


class _Judge:
    """The checks, each a few findings, many of them of nothing."""

    def __init__(self, books: Books, held: Held, schema: Schema, partitions: int) -> None:
        self._books, self._held = books, held
        self._entities = [item.name for item in schema.keyed]
        self._partitions = range(partitions)
        self._letters = set(books.letters.first.values())
        self._examples = set(books.examples.first.values())
        self._ledger: Counter[str] = Counter()
        for partition in self._partitions:
            for name, count in held.hash(f"ledger:{partition}").items():
                self._ledger[name.decode()] += int(count)

    def inputs(self) -> Iterator[Finding]:
        """(a) Every input has its answer, and nothing else has one."""
        books = self._books
        lost = books.expected.keys() - books.decisions.first.keys()
        yield Finding("a", "lost", len(lost), f"transactions without a decision {_some(lost)}")
        surplus = books.unexpected
        yield Finding("a", "double", len(surplus), f"decisions of no transaction {_some(surplus)}")
        letters = {place for place in books.letters.first if place[0] == TRANSACTIONS}
        missing, extra = books.refused - letters, letters - books.refused
        yield Finding("a", "lost", len(missing), f"bad input without a letter {_some(missing)}")
        yield Finding("a", "double", len(extra), f"dead letters of good input {_some(extra)}")
        yield Finding("a", "state", books.out_of_order, "decisions out of the order of their log")
        twice = books.counts["ids of two events"]
        yield Finding("a", "double", twice, "ids that were taken for new again")

    def repetitions(self) -> Iterator[Finding]:
        """(b) What came again is the same, but for what a store that was set back had forgotten."""
        books = self._books
        decisions = [key for key in books.decisions.conflicting if not self._forgot(key)]
        examples = [key for key in books.examples.conflicting if not self._forgot_example(key)]
        books.apart = len(books.decisions.conflicting) - len(decisions)
        books.apart += len(books.examples.conflicting) - len(examples)
        for name, found in (
            ("decisions", decisions),
            ("dead letters", books.letters.conflicting),
            ("training examples", examples),
        ):
            yield Finding("b", "conflicting", len(found), f"{name} in two forms {_some(found)}")

    def _forgot(self, key: bytes) -> bool:
        partition, offset = self._books.expected.get(key, (-1, -1))
        first, end = self._books.window.get(partition, (0, 0))
        return first <= offset < end

    def _forgot_example(self, key: tuple[int, int]) -> bool:
        first, end = self._books.examples_window.get(key[0], (0, 0))
        return first <= key[1] < end

    def sums(self) -> Iterator[Finding]:
        """(c) Counts and amounts, added up by different ways."""
        books = self._books
        counted = len(books.decisions.first) - len(books.expected)
        yield Finding("c", _harm(counted), abs(counted), "decisions more or less than transactions")
        minor = books.decided_amount - books.amount
        yield Finding("c", _harm(minor), abs(minor), "minor units decided more or less than sent")
        for name, table in zip(self._entities[1:], books.rings, strict=True):
            yield from self._days(name, table)

    def _days(self, name: str, table: Table) -> Iterator[Finding]:
        """Add a shared entity's days up: those that no later day can have overwritten."""
        ids = table.ids
        rows = rows_of(table, ids, self._held.strings([f"r:{name}:{key}" for key in ids]))
        slots = rows[:, HOUR_SLOTS:]
        first = self._books.last_day - DAY_SLOTS + 1
        for field, unit in (("count", "events"), ("amount", "minor units")):
            known = self._books.by_day[field]
            stored = int(slots[field][slots["bucket"] >= first].sum())
            decided = sum(total for day, total in known.items() if day >= first)
            difference = stored - decided
            text = f"{unit} at every {name} of the last {DAY_SLOTS} days, more or less"
            yield Finding("c", _harm(difference), abs(difference), text)

    def profiles(self) -> Iterator[Finding]:
        """(d) Stored rows are the fold's."""
        for partition in self._partitions:
            table = self._books.traffic[partition]
            yield from self._rows("d", f"c:{partition}:", table, "cards")
        for name, table in zip(self._entities[1:], self._books.rings, strict=True):
            yield from self._rows("d", f"r:{name}:", table, f"{name}s' traffic")
        for name, table in zip(self._entities, self._books.probes, strict=False):
            yield from self._rows("d", f"p:{name}:", table, f"{name}s' card testing")

    def learned_rows(self) -> Iterator[Finding]:
        """(e) So are the rows of what labels teach."""
        tables = self._books.learner.profiles.tables
        for name, table in zip(self._entities, tables, strict=True):
            yield from self._rows("e", f"l:{name}:", table, f"{name}s' labels")

    def _rows(self, check: str, prefix: str, table: Table, what: str) -> Iterator[Finding]:
        ids = table.ids
        stored = self._held.strings([prefix + key for key in ids])
        rows, folded = rows_of(table, ids, stored), table.rows[table.slots(ids)]
        different = [
            key for key, a, b in zip(ids, rows, folded, strict=True) if a.tobytes() != b.tobytes()
        ]
        text = f"rows of {what} that differ {_some(different)}"
        yield Finding(check, "state", len(different), text)
        extra = self._held.count(prefix) - sum(blob is not None for blob in stored)
        yield Finding(check, "state", abs(extra), f"rows of {what} that no log speaks of")

    def models(self) -> Iterator[Finding]:
        """(e) Published models are the fold's, and the last of them is that of the whole log."""
        books = self._books
        different = [
            version
            for version, published in books.published.items()
            if books.folded.get(version, published) != published
        ]
        yield Finding("e", "state", len(different), f"versions that differ {_some(different)}")
        end = books.ends[TRAINING, 0]
        if not end:
            return
        pointer = _pointer(books.pointer)
        behind = pointer is None or pointer.training_offset != end
        yield Finding("e", "state", int(behind), "the champion is not that of the whole log")
        if pointer is None or behind:
            return
        names = (pointer.version, *pointer.challengers)
        wrong = [
            name
            for name, model in zip(names, books.learner.models, strict=True)
            if books.published.get(name) != model_digest(model)
        ]
        yield Finding("e", "state", len(wrong), f"last versions that differ {_some(wrong)}")
        marks = {int(partition): seq for partition, seq in pointer.marks.items()}
        yield Finding("e", "state", int(marks != books.learner.marks), "marks of the last version")

    def positions(self) -> Iterator[Finding]:
        """(f) Everything is read to its end."""
        wanted = {
            f"pos:{topic}:{partition}": self._books.ends[topic, partition]
            for topic in INPUTS
            for partition in self._partitions
        }
        wanted[f"pos:{TRAINING}"] = self._books.ends[TRAINING, 0]
        stored = self._held.strings(list(wanted))
        wrong = {
            key: (text, end)
            for (key, end), text in zip(wanted.items(), stored, strict=True)
            if int((text or b"0").split(b":")[0]) != end
        }
        yield Finding("f", "state", len(wrong), f"positions off the end {_some(wrong.items())}")

    def outboxes(self) -> Iterator[Finding]:
        """(f) What the last commits were to publish stands in the logs."""
        names = [f"{topic}:{partition}" for topic in INPUTS for partition in self._partitions]
        stored = self._held.strings([f"out:{name}" for name in (*names, TRAINING)])
        missing = 0
        for blob in stored:
            for record in decode_outbox((blob or b"")[:-SEAL_BYTES]):
                missing += not self._is_published(record)
        yield Finding("f", "lost", missing, "records of an outbox that were not published")

    def _is_published(self, item: OutboxRecord) -> bool:
        books = self._books
        if item.topic == DECISIONS:
            return books.decisions.first.get(item.key or b"") == digest(item.value)
        if item.topic == DEAD_LETTERS:
            return letter_digest(item) in self._letters
        if item.topic == TRAINING:
            return digest(item.value) in self._examples
        return item.topic != MODELS or digest(item.key, item.value) in books.model_values

    def labels(self) -> Iterator[Finding]:
        """(g) Every label has one fate, and every example one label."""
        books, ledger = self._books, self._ledger
        pending = sum(len(self._held.hash(f"pend:{p}")) for p in self._partitions)
        settled = sum(ledger[path] for path in LABEL_PATHS) - ledger["matured"] + ledger["rejected"]
        difference = settled + pending - books.counts[FEEDBACK]
        yield Finding("g", _harm(difference), abs(difference), "labels more or less than were sent")
        taught = ledger["learned"] + ledger["corrected"] - len(books.examples.first)
        yield Finding("g", _harm(-taught), abs(taught), "examples more or less than were taught")
        twice = sum(count - 1 for count in books.label_ids.values() if count > 1)
        yield Finding("g", "double", twice, "labels that were taught twice")
        yield Finding("g", "lost", len(books.jumps), f"holes in training {_some(books.jumps)}")
        letters = sum(place[0] == FEEDBACK for place in books.letters.first)
        apart = letters - ledger["rejected"] - ledger["unknown"]
        yield Finding("g", _harm(apart), abs(apart), "dead letters of labels, more or less")
        outcomes = sum(count for name, count in ledger.items() if name.startswith("outcome_"))
        outcomes += sum(place[0] == OUTCOMES for place in books.letters.first)
        apart = outcomes - books.counts[OUTCOMES]
        yield Finding("g", _harm(apart), abs(apart), "outcomes more or less than were sent")


def _harm(surplus: int) -> Harm:
    return "double" if surplus > 0 else "lost"


def _pointer(value: bytes) -> Champion | None:
    try:
        return msgspec.json.decode(value, type=Champion)
    except msgspec.DecodeError:
        return None


def _some(items: Iterable[object]) -> str:
    found = [str(item) for item in islice(items, EXAMPLES_SHOWN)]
    return f"({', '.join(found)})" if found else ""
