"""A Redis restored from an older copy of its append-only file: what is made good, and what is not.

While the copy is behind, decisions, labels and versions have been published that it knows nothing
of. The story is told once; the tests look at what it left.
"""

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
import psutil
import pytest
import redis
from kafka.consumer.fetcher import ConsumerRecord

from benchmarks.chaos.held import write_rows_back
from consumers.model_pointer import CHAMPION_KEY, Champion
from models import make_model
from models.snapshot import encode
from pipeline.durations import DAY_MS
from pipeline.engine import Engine, Version
from pipeline.events import LabelDecoder
from pipeline.features import FeatureKernel, unusual_amounts
from pipeline.feedback import MemoryWaiting
from pipeline.learner import Learner
from pipeline.profiles import MemoryProfiles, bucket_table
from pipeline.records import TrainingExample, decode_decisions, decode_examples
from pipeline.sealing import opened
from pipeline.settings import Settings
from pipeline.signing import LabelSigner, ModelVerifier
from pipeline.stored_rows import unsealed
from pipeline.topics import DECISIONS, FEEDBACK, MODELS, TRAINING, TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from producers.batch import joined
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, publish
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Stack
from tests.integration.processes import Log, Processes, Running, hashes, read, values_by_id
from tests.integration.test_worker import add_to_rings, assert_rings_are
from tests.strategies import CARD
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KERNEL = FeatureKernel(CARD)
PARTITIONS, EVENTS, RATE = 2, 1_800, 600.0
COPIED, LOST = EVENTS // 3, 2 * EVENTS // 3
WORLD = SimulatorOptions(customers=60, terminals=30, days=1_000, bursts_a_day=0.1)
# Half of the genuine ones get no label, and are learned when silence has proved them.
MATURITY_DAYS = 2.0
Sent = tuple[int, int]
"""Transactions and labels."""


@dataclass
class Restored:
    """What was published, and what the copy knew of it."""

    settings: Settings
    redis: redis.Redis
    sent: list[Sent] = field(default_factory=list)
    # Positions of the copy, and those that stood before it was put back.
    known: dict[str, bytes] = field(default_factory=dict)
    lost: dict[str, bytes] = field(default_factory=dict)
    worker_said: str = ""

    def publish(self, part: slice) -> None:
        events = joined(list(limited(simulate(WORLD), EVENTS)))
        done = publish(
            [events.slice(part.start, part.stop)],
            CARD,
            self.settings.kafka_servers,
            pace=Pace(rate=RATE),
            labels=LabelOptions(delay_ms=DAY_MS, genuine_share=0.5, to_end=True),
            signer=LabelSigner.of(self.settings),
        )
        self.sent.append((done.transactions, done.labels))

    def wait(self) -> None:
        """Wait until everything is decided, joined and learned."""

        def is_drained() -> bool:
            with (
                closing(Log(self.settings, TRANSACTIONS)) as transactions,
                closing(Log(self.settings, FEEDBACK)) as feedback,
                closing(Log(self.settings, TRAINING)) as training,
            ):
                ends = {f"pos:{TRANSACTIONS}:{p}": end for p, end in transactions.ends.items()}
                ends |= {f"pos:{FEEDBACK}:{p}": end for p, end in feedback.ends.items()}
                ends |= {"pos:training": training.ends[0]}
            stored = self.positions()
            reached = {name: int(stored.get(name, b"0").split(b":")[0]) for name in ends}
            return reached == ends and self.pending() == 0 and self.has_matured()

        wait_until(is_drained, "all is decided and learned", seconds_max=120.0)

    def has_matured(self) -> bool:
        """Say whether the first decision not looked at is too young, in each partition."""
        stored, decided = self.positions(), read(self.settings, DECISIONS)
        for p in range(PARTITIONS):
            matured = int(stored.get(f"pos:{FEEDBACK}:{p}", b"0").split(b":")[-1])
            part = [record.value for record in decided if record.partition == p]
            [next_one] = decode_decisions(part[matured : matured + 1]) or [None]
            newest_ms = int(self.redis.get(f"wm:{p}") or 0)  # type: ignore[arg-type]
            if next_one and next_one.event_time <= newest_ms - MATURITY_DAYS * DAY_MS:
                return False
        return True

    def positions(self) -> dict[str, bytes]:
        names = [f"pos:{t}:{p}" for t in (TRANSACTIONS, FEEDBACK) for p in range(PARTITIONS)]
        names.append("pos:training")
        return {name: value for name in names if (value := self.redis.get(name)) is not None}

    def pending(self) -> int:
        return sum(self.redis.hlen(f"pend:{p}") for p in range(PARTITIONS))

    def ledger(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for part in hashes(self.redis, "ledger", PARTITIONS):
            found.update({name: int(count) for name, count in part.items()})
        return found

    def offset(self, name: str, positions: dict[str, bytes]) -> int:
        return int(positions.get(name, b"0").split(b":")[0])

    @cached_property
    def decisions(self) -> list[ConsumerRecord]:
        return read(self.settings, DECISIONS)

    @cached_property
    def log(self) -> list[TrainingExample]:
        records = read(self.settings, TRAINING)
        found = [item for item in decode_examples(r.value for r in records) if item is not None]
        assert len(found) == len(records)
        return found

    @cached_property
    def folded(self) -> Learner:
        """The training log, folded in this process."""
        names = (self.settings.model, *self.settings.challenger_names)
        models = [make_model(name, KERNEL.names) for name in names]
        learner = Learner(CARD, KERNEL.schema_hash, models)
        learner.learn(learner.fresh(self.log))
        return learner

    @cached_property
    def models(self) -> list[ConsumerRecord]:
        return read(self.settings, MODELS)


def copy_back(restored: Restored, stack: Stack, copy: Path) -> None:
    """Kill Redis, put the copy in the place of its file, and start it again."""
    folder = Path(restored.settings.state_dir) / "redis"
    pid = int(restored.redis.info("server")["process_id"])
    psutil.Process(pid).send_signal(signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid) or is_zombie(pid), "Redis is dead")
    for path in folder.glob("appendonly*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in copy.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / path.name)
    stack.up()
    restored.known = restored.positions()


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def take_copy(restored: Restored, copy: Path) -> None:
    """Copy the append-only file as it is being written."""
    copy.mkdir()
    for path in (Path(restored.settings.state_dir) / "redis").glob("appendonly*"):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, copy / path.name)


def end(restored: Restored, worker: Running, trainer: Running) -> None:
    """End the worker once all is done, and the trainer when it has learned what matured last."""
    restored.wait()
    assert worker.end().exit_code == 0
    restored.wait()
    assert trainer.end().exit_code == 0


def tell(restored: Restored, stack: Stack, copy: Path) -> None:
    with Processes(restored.settings) as processes:
        worker, trainer = processes.ready("worker", "trainer")
        restored.publish(slice(0, COPIED))
        wait_until(lambda: "pos:training" in restored.positions(), "something is learned")
        take_copy(restored, copy)
        restored.publish(slice(COPIED, LOST))
        end(restored, worker, trainer)
        restored.lost = restored.positions()
        copy_back(restored, stack, copy)
        worker, trainer = processes.ready("worker", "trainer")
        restored.publish(slice(LOST, EVENTS))
        end(restored, worker, trainer)
        restored.worker_said = worker.output


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    folder = tmp_path_factory.mktemp("restored")
    settings = replace(
        Settings(mode="act"),
        state_dir=str(folder / "state"),
        partitions=PARTITIONS,
        maturity_days=MATURITY_DAYS,
        snapshot_interval_seconds=0.3,
        review_score_min=0.012,
        decline_score_min=0.03,
    )
    stack = Stack(settings, attached=True, say=lambda line: None)
    with stack as endpoints, redis.from_url(endpoints.redis_url) as client:
        settings = replace(
            settings, kafka_servers=endpoints.kafka_servers, redis_url=endpoints.redis_url
        )
        restored = Restored(settings, client)
        tell(restored, stack, folder / "copy")
        yield restored


def test_the_copy_was_older_in_every_respect(restored: Restored) -> None:
    for name, position in restored.lost.items():
        lost = int(position.split(b":")[0]) - restored.offset(name, restored.known)

        assert lost > 50, name
    assert restored.worker_said.count("the store is older than the log") == PARTITIONS


def test_every_transaction_is_decided_and_contradicted_in_the_lost_window_alone(
    restored: Restored,
) -> None:
    found = values_by_id(restored.decisions)
    contradicted = [name for name, values in found.items() if len(values) > 1]
    places = {
        record.key: msgspec.json.decode(record.value)["source"] for record in restored.decisions
    }

    assert len(found) == sum(transactions for transactions, _ in restored.sent)
    for name in contradicted:
        topic, partition, offset = places[name]
        position = f"pos:{topic}:{partition}"
        assert restored.offset(position, restored.known) <= offset
        assert offset < restored.offset(position, restored.lost)


def test_rows_of_cards_and_terminals_are_those_of_an_undisturbed_run(restored: Restored) -> None:
    write_rows_back(restored.settings.redis_url, CARD)
    rings = bucket_table()
    for p in range(PARTITIONS):
        values = [r.value for r in read(restored.settings, TRANSACTIONS) if r.partition == p]
        batch, _, rejected = TransactionDecoder(CARD).decode(values)
        profiles = MemoryProfiles(CARD, Learner(CARD, "", ()).profiles)
        engine = Engine(CARD, restored.settings, profiles, MemoryWaiting(1))
        engine.adopt(Version(make_model("additive", KERNEL.names), 0))
        decisions = engine.decide(batch)
        cards = list(dict.fromkeys(batch.keys[0]))
        view = profiles.open(batch).traffic
        slots = dict(zip(batch.keys[0], view.slots.tolist(), strict=True))
        stored = restored.redis.mget([f"c:{p}:{card}" for card in cards])

        assert (len(decisions), rejected) == (len(values), [])
        assert len(cards) > 10
        for card, blob in zip(cards, stored, strict=True):
            row = view.values[slots[card]].tobytes()
            assert unsealed(f"c:{p}:{card}", blob or b"")[: len(row)] == row
        add_to_rings(rings, batch, unusual_amounts(decisions.features, CARD))
    assert_rings_are("r:terminal:", rings, restored.redis)


def test_no_label_is_learned_twice_and_no_number_given_out_twice(restored: Restored) -> None:
    numbers = Counter((item.partition, item.training_seq) for item in restored.log)
    said = {(item.partition, item.training_seq, item.label_id) for item in restored.log}
    labels = Counter(label_id for _, _, label_id in said)

    # A record may be there twice, but then it is the same one.
    assert len(said) == len(numbers)
    assert set(labels.values()) == {1}
    assert restored.folded.counts["learned"] == len(numbers)


def test_every_label_is_learned_and_the_ledger_says_so(restored: Restored) -> None:
    sent = sum(labels for _, labels in restored.sent)
    spoken = {item.label_id for item in restored.log if item.source != "matured"}
    read_labels = [r.value for r in read(restored.settings, FEEDBACK)]
    expected = {LabelDecoder(CARD).decode_one(value).label_id for value in read_labels}
    ledger = restored.ledger()

    assert ledger["matured"] > 100
    assert spoken == expected
    assert len(spoken) == sent
    assert ledger["learned"] + ledger["corrected"] - ledger["matured"] == sent
    # An owner that takes over publishes the last ones again.
    once = {(item.partition, item.training_seq): item for item in restored.log}.values()
    assert ledger["matured"] == sum(item.source == "matured" for item in once)
    fold = Counter[str]()
    for item in once:
        fold[f"verdict_{item.verdict}"] += 1
        if item.supersedes is not None:
            fold["verdict_genuine" if item.verdict == "fraud" else "verdict_fraud"] -= 1
    assert {name: ledger[name] for name in fold} == fold


def test_nothing_is_left_of_what_was_forgotten(restored: Restored) -> None:
    assert [restored.redis.hlen(f"again:{p}") for p in range(PARTITIONS)] == [0] * PARTITIONS


def test_the_last_version_is_the_fold_of_the_whole_log_bit_for_bit(restored: Restored) -> None:
    values = {record.key.decode(): record.value for record in restored.models}
    last = [record.value for record in restored.models if record.key == CHAMPION_KEY][-1]
    pointer = msgspec.json.decode(last, type=Champion)
    names = [pointer.version, *pointer.challengers]

    assert pointer.training_offset == len(restored.log)
    verifier = ModelVerifier(restored.settings)
    for name, model in zip(names, restored.folded.models, strict=True):
        folded = encode(
            model, version=name, training_offset=len(restored.log), schema_hash=KERNEL.schema_hash
        )
        assert opened(values[name] or b"", verifier) == folded


def test_a_version_is_the_same_whenever_it_was_published(restored: Restored) -> None:
    versions = [r for r in restored.models if r.key != CHAMPION_KEY and r.value is not None]

    assert all(len(values) == 1 for values in values_by_id(versions).values())
    assert len(versions) > 4


def test_learned_rows_are_those_of_the_fold_byte_for_byte(restored: Restored) -> None:
    for table, entity in zip(restored.folded.profiles.tables, ("card", "terminal"), strict=True):
        names = [f"l:{entity}:{key}" for key in table.ids]
        stored = zip(names, restored.redis.mget(names), strict=True)

        assert len(table) > 10
        assert [unsealed(name, blob or b"") for name, blob in stored] == [
            table.blob(key) for key in table.ids
        ]
