"""The books of a run: what the logs say, folded in this process, record by record.

They know of no worker. Each partition's transactions are decoded and folded in the order of their
log, the training log is learned in its order; what the cluster stored and published must be the
same. The books go on from where they stand, so that they can be closed after every case.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consumers.model_pointer import CHAMPION_KEY
from models import make_model
from models.contract import Model
from pipeline.admission import Admission
from pipeline.durations import DAY_MS
from pipeline.errors import SnapshotError
from pipeline.events import Transactions
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.memory_ids import MemoryIds
from pipeline.profiles import (
    LearnedProfiles,
    ProfileView,
    Rows,
    Table,
    bucket_table,
    opened,
    probe_table,
    traffic_table,
)
from pipeline.records import decode_decisions, decode_examples
from pipeline.schema import Schema
from pipeline.sealing import read_sealed
from pipeline.settings import Settings
from pipeline.signing import ModelVerifier
from pipeline.topics import (
    DEAD_LETTERS,
    DECISIONS,
    FEEDBACK,
    MODELS,
    OUTCOMES,
    TRAINING,
    TRANSACTIONS,
)
from pipeline.transactions import TransactionDecoder

# Inputs first: whatever else is read is compared with them.
READ_ORDER = (TRANSACTIONS, FEEDBACK, OUTCOMES, DECISIONS, DEAD_LETTERS, TRAINING, MODELS)
ERRORS = "fraud.errors."

Place = tuple[str, int, int]
"""Topic, partition and offset of an input."""


def digest(*parts: bytes | None) -> int:
    """Give 64 bits that differ where any byte differs."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        hashed.update(b"-" if part is None else b"+%d:" % len(part) + part)
    return int.from_bytes(hashed.digest(), "little")


def model_digest(model: Model) -> str:
    """Give the SHA-256 of a model's state in one canonical form, whatever carries it."""
    state, arrays = model.state()
    hashed = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hashed.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


@dataclass
class Kept:
    """Records that must be there once and may come again: the first digest of each, and more.

    Attributes
    ----------
    repeated
        How many came again, the same in every byte, by partition.
    conflicting
        Those that came again and differ.
    """

    first: dict[Any, int] = field(default_factory=dict)
    repeated: Counter[int] = field(default_factory=Counter)
    conflicting: list[Any] = field(default_factory=list)

    def add(self, key: Any, value: int, partition: int) -> bool:
        """Take a record; `True` if it is the first of its key."""
        if key not in self.first:
            self.first[key] = value
            return True
        self.repeated[partition] += 1
        if self.first[key] != value:
            self.conflicting.append(key)
        return False


class Books:
    """What the logs of one cluster say, as far as they were read."""

    def __init__(self, schema: Schema, settings: Settings) -> None:
        self._schema, self._settings = schema, settings
        self._decoder = TransactionDecoder(schema)
        self._kernel = FeatureKernel(schema)
        self._admissions = [Admission(schema, settings, p) for p in range(settings.partitions)]
        # Each id has one card here, so no two partitions meet the same one.
        self._ids = [MemoryIds(settings) for _ in range(settings.partitions)]
        self._verifier = ModelVerifier(settings)
        self.traffic = [traffic_table() for _ in range(settings.partitions)]
        self.rings = [bucket_table() for _ in schema.keyed[1:]]
        self.probes = [probe_table() for _ in schema.probed]
        names = (settings.model, *settings.challenger_names)
        models = [make_model(name, self._kernel.names, settings.model_options) for name in names]
        self.learner = Learner(schema, self._kernel.schema_hash, models)
        # Inputs: how many, the place of each id's first event, and the places of what is refused.
        self.counts: Counter[str] = Counter()
        self.ends: Counter[tuple[str, int]] = Counter()
        self.expected: dict[bytes, tuple[int, int]] = {}
        self.refused: set[Place] = set()
        self.amount = 0
        # Outputs.
        self.decisions, self.letters, self.examples = Kept(), Kept(), Kept()
        self.unexpected: list[bytes] = []
        self.out_of_order = 0
        self._reached: dict[int, int] = {}
        self.decided_amount = 0
        self.by_day: dict[str, Counter[int]] = {"count": Counter(), "amount": Counter()}
        self.last_day = 0
        self.sequences: Counter[int] = Counter()
        self.jumps: list[tuple[int, int]] = []
        self.training_ends: list[int] = []
        self.label_ids: Counter[str] = Counter()
        self.learned_verdicts: Counter[str] = Counter()
        # Models: what the fold gives at an offset, and what was published for it.
        self.folded: dict[str, str] = {}
        self.published: dict[str, str] = {}
        self.unreadable: dict[bytes, str] = {}
        self.model_values: set[int] = set()
        self.pointer = b""
        # What a store that was set back had forgotten: offsets of transactions, numbers of
        # examples, by partition. There alone may be two forms of what was published.
        self.window: Mapping[int, tuple[int, int]] = {}
        self.examples_window: Mapping[int, tuple[int, int]] = {}
        self.apart = 0
        self._examples: list[tuple[int, Any]] = []

    def take(self, topic: str, records: Sequence[Any]) -> None:
        """Take records of one partition, in their order."""
        self.counts[topic] += len(records)
        self.ends[topic, records[0].partition] = records[-1].offset + 1
        takers = {
            TRANSACTIONS: self._take_transactions,
            DECISIONS: self._take_decisions,
            DEAD_LETTERS: self._take_letters,
            TRAINING: self._take_examples,
            MODELS: self._take_models,
        }
        if topic in takers:
            takers[topic](records)

    def _take_transactions(self, records: Sequence[Any]) -> None:
        partition = records[0].partition
        batch, rows, rejected = self._decoder.decode([record.value for record in records])
        appended = [record.timestamp for record in records]
        keys = [record.key for record in records]
        batch, rows, refused = self._admissions[partition].admit(batch, rows, appended, keys)
        for item in (*rejected, *refused):
            self.refused.add((TRANSACTIONS, partition, records[item.row].offset))
        if not len(batch):
            return
        sifted = self._ids[partition].sift(batch)
        for row in sifted.conflicts.tolist():
            self.refused.add((TRANSACTIONS, partition, records[rows[row]].offset))
        taken = batch.take(sifted.fresh)
        self._kernel.read_and_record(taken, self._view(partition, taken))
        self.counts["duplicates"] += sifted.duplicates
        for row, name in zip(sifted.fresh.tolist(), taken.transaction_id, strict=True):
            place = partition, records[rows[row]].offset
            if self.expected.setdefault(name.encode(), place) != place:
                self.counts["ids of two events"] += 1
        self.amount += int(taken.amount_minor.sum())

    def _view(self, partition: int, batch: Transactions) -> ProfileView:
        """Open the rows of a batch as a worker would; what labels teach changes no traffic."""
        traffic = self.traffic[partition].slots(batch.keys[0])
        return ProfileView(
            traffic=Rows(self.traffic[partition].rows, traffic),
            shared=opened(self.rings, batch.keys[1:]),
            learned=LearnedProfiles(self._schema).rows(batch.keys),
            label_offset=0,
            probes=opened(self.probes, batch.keys),
        )

    def _take_decisions(self, records: Sequence[Any]) -> None:
        for record, decision in zip(
            records, decode_decisions(record.value for record in records), strict=True
        ):
            key = record.key or b""
            if decision is None or decision.transaction_id.encode() != key:
                self.unexpected.append(key)
                continue
            if not self.decisions.add(key, digest(record.value), record.partition):
                continue
            _, partition, offset = decision.source
            if self.expected.get(key) != (partition, offset) or partition != record.partition:
                self.unexpected.append(key)
            self.out_of_order += offset < self._reached.get(partition, 0)
            self._reached[partition] = offset
            self.decided_amount += decision.amount
            day = decision.event_time // DAY_MS
            self.last_day = max(self.last_day, day)
            self.by_day["count"][day] += 1
            self.by_day["amount"][day] += decision.amount

    def _take_letters(self, records: Sequence[Any]) -> None:
        for record in records:
            said = {name: value for name, value in record.headers if name.startswith(ERRORS)}
            place: Place = (
                said[ERRORS + "topic"].decode(),
                int(said[ERRORS + "partition"]),
                int(said[ERRORS + "offset"]),
            )
            self.letters.add(place, letter_digest(record), record.partition)

    def _take_examples(self, records: Sequence[Any]) -> None:
        for record, example in zip(
            records, decode_examples(record.value for record in records), strict=True
        ):
            if example is None:
                self.jumps.append((-1, record.offset))
                continue
            key = example.partition, example.training_seq
            if self.examples.add(key, digest(record.value), 0):
                wanted = self.sequences[example.partition]
                if example.training_seq != wanted:
                    self.jumps.append(key)
                self.sequences[example.partition] = example.training_seq + 1
                self.label_ids[f"{example.label_id} {example.transaction_id}"] += 1
                self.learned_verdicts[example.verdict] += 1
                decided = self.expected.get(example.transaction_id.encode())
                if decided is None or decided[0] != example.partition:
                    self.jumps.append(key)
            self._examples.append((record.offset, example))

    def _take_models(self, records: Sequence[Any]) -> None:
        for record in records:
            key = record.key or b""
            self.model_values.add(digest(key, record.value))
            if key == CHAMPION_KEY:
                self.pointer = record.value or b""
            elif record.value is not None:
                try:
                    found = read_sealed(record.value, self._verifier)
                except SnapshotError as error:
                    self.unreadable[key] = str(error)
                    continue
                self.published[key.decode()] = model_digest(found.model)

    def fold_models(self) -> None:
        """Learn the examples that were taken; at each published version's offset, note the state.

        Versions are published at any record, so this comes after the models were read.
        """
        wanted = {int(name.rpartition("@")[2]) for name in self.published if "@" in name}
        waiting: list[Any] = []
        for offset, example in self._examples:
            waiting.append(example)
            if offset + 1 in wanted:
                self._learn(waiting, offset + 1)
                waiting = []
        if waiting:
            self._learn(waiting, self._examples[-1][0] + 1)
        self._examples = []

    def _learn(self, examples: list[Any], offset: int) -> None:
        self.learner.learn(self.learner.fresh(examples))
        self.learner.profiles.offset = offset
        for model in self.learner.models:
            self.folded[f"{model.name}@{offset}"] = model_digest(model)


def letter_digest(record: Any) -> int:
    """Give the digest of a dead letter with its headers; of an outbox's record as of Kafka's."""
    headers = [part for name, value in record.headers for part in (name.encode(), value)]
    return digest(record.key, record.value, *headers)


def rows_of(table: Table, ids: Sequence[str], blobs: Sequence[bytes | None]) -> Any:
    """Give stored rows as they are in memory; one that is missing is a row of zeros.

    What stands behind a row, such as a seal, is for its readers and not part of it.
    """
    size = table.rows[:1].nbytes
    fresh = Table(table.rows.dtype, width=table.rows.shape[1] if table.rows.ndim > 1 else 0)
    fresh.load(ids, [(blob or b"")[:size] for blob in blobs])
    return fresh.rows[fresh.slots(ids)]
