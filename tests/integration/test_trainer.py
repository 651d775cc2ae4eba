"""The trainer beside a worker: restarted, killed and doubled, it is still a fold of one log.

The story is told once; the tests look at what it left.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec
import numpy as np
import pytest
import redis
from kafka.consumer.fetcher import ConsumerRecord

from consumers.model_pointer import CHAMPION_KEY, Champion
from models import make_model
from models.contract import Model
from models.snapshot import encode
from pipeline.durations import DAY_MS
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.policy import Policy
from pipeline.records import (
    ACTIONS,
    DecisionRecord,
    TrainingExample,
    decode_decisions,
    decode_examples,
    unpack_features,
)
from pipeline.sealing import opened, read_sealed
from pipeline.settings import Settings
from pipeline.signing import LabelSigner, ModelVerifier
from pipeline.stored_rows import unsealed
from pipeline.topics import DECISIONS, MODELS, TRAINING, TRANSACTIONS
from producers.feed import LabelOptions
from producers.publisher import Pace, Published, Watch, publish
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Endpoints
from tests.integration.processes import Ending, Log, Processes, Running, keyed, read, send
from tests.resetting import reset
from tests.strategies import CARD, event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KERNEL = FeatureKernel(CARD)
RATE = 400
MODELS_KEPT = 3
LEARNED_BETWEEN = 200
DAMAGED_OFFSET = 99_999_999


@dataclass
class Lives:
    """The lives of some trainers on one log, and what they left."""

    settings: Settings
    redis: redis.Redis
    published: Published | None = None
    asked: Ending | None = None
    standby: dict[str, float] = field(default_factory=dict)
    worker_said: str = ""
    last: list[str] = field(default_factory=list)

    @property
    def offset(self) -> int:
        """How far the training log was learned."""
        return int((self.redis.get("pos:training") or b"0").split(b":")[0])

    @cached_property
    def log(self) -> list[TrainingExample]:
        found = decode_examples(record.value for record in read(self.settings, TRAINING))
        return [example for example in found if example is not None]

    @cached_property
    def folded(self) -> Learner:
        """The whole log, folded in this process."""
        settings = self.settings
        names = (settings.model, *settings.challenger_names)
        learner = Learner(
            CARD, KERNEL.schema_hash, [make_model(name, KERNEL.names) for name in names]
        )
        learner.learn(learner.fresh(self.log))
        return learner

    @cached_property
    def models(self) -> list[ConsumerRecord]:
        """The models topic up to the record that a test damaged."""
        records = read(self.settings, MODELS)
        damaged = next(n for n, record in enumerate(records) if record.key == DAMAGED_KEY)
        return records[:damaged]

    @cached_property
    def pointer(self) -> Champion:
        last = [record.value for record in self.models if record.key == CHAMPION_KEY][-1]
        return msgspec.json.decode(last, type=Champion)

    @cached_property
    def decisions(self) -> list[DecisionRecord]:
        found = decode_decisions(record.value for record in read(self.settings, DECISIONS))
        return [decision for decision in found if decision is not None]

    def versions(self) -> dict[str, Model]:
        """Give every version that was ever in force, retired ones as well."""
        found: dict[str, Model] = {
            f"{name}@0": make_model(name, KERNEL.names)
            for name in (self.settings.model, *self.settings.challenger_names)
        }
        for record in self.models:
            if record.key != CHAMPION_KEY and record.value is not None:
                verifier = ModelVerifier(self.settings)
                found[record.key.decode()] = read_sealed(record.value, verifier).model
        return found


DAMAGED_KEY = f"additive@{DAMAGED_OFFSET}".encode()


@contextmanager
def published(lives: Lives) -> Iterator[None]:
    """Publish transactions and their labels, a day later, for the length of the block."""
    ended = threading.Event()
    world = SimulatorOptions(customers=100, terminals=50, days=1_000, bursts_a_day=0.1)

    def run() -> None:
        lives.published = publish(
            simulate(world),
            CARD,
            lives.settings.kafka_servers,
            pace=Pace(rate=RATE),
            labels=LabelOptions(delay_ms=DAY_MS),
            signer=LabelSigner.of(lives.settings),
            watch=Watch(stop=ended.is_set),
        )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wait_for_some_more(lives: Lives) -> None:
    target = lives.offset + LEARNED_BETWEEN
    wait_until(lambda: lives.offset >= target, "some more is learned", seconds_max=60.0)


def live(lives: Lives, processes: Processes) -> None:
    worker, trainer = processes.ready("worker", "trainer")
    with published(lives):
        wait_for_some_more(lives)
        lives.asked = trainer.end()
        [trainer] = processes.ready("trainer")
        wait_for_some_more(lives)
        trainer.started.process.kill()
        trainer = take_turns(lives, processes)
    wait_until(lambda: is_drained(lives), "everything is decided and learned")
    assert trainer.end().exit_code == 0
    damage(lives, worker)


def take_turns(lives: Lives, processes: Processes) -> Running:
    """Let two trainers take turns; gives the one that is left."""
    rivals = processes.ready("trainer", "trainer")
    wait_until(lambda: any(map(is_at_work, rivals)), "one is at work")
    [first] = [rival for rival in rivals if is_at_work(rival)]
    [second] = [rival for rival in rivals if rival is not first]
    wait_until(
        lambda: second.total("fraud_standby_versions_total") > 0,
        "versions are compared",
        seconds_max=60.0,
    )
    first.started.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_at_work(second), "the other goes on", seconds_max=30.0)
    wait_for_some_more(lives)
    first.started.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not is_at_work(first), "it stands by")
    lives.standby = second.samples("fraud_standby_versions_total")
    second.started.process.kill()
    wait_until(lambda: is_at_work(first), "the first is at work again", seconds_max=30.0)
    wait_for_some_more(lives)
    return first


def is_at_work(trainer: Running) -> bool:
    return trainer.total("fraud_trainer_at_work") == 1


def is_drained(lives: Lives) -> bool:
    """Say whether every label has come through: each of them is learned here."""
    assert lives.published is not None
    with closing(Log(lives.settings, TRAINING)) as log:
        return log.ends[0] == lives.offset == lives.published.labels


def damage(lives: Lives, worker: Running) -> None:
    """Publish a damaged snapshot as the champion; then let the worker decide some more."""
    last = [record.value for record in read(lives.settings, MODELS) if record.value][0]
    pointer = Champion(DAMAGED_KEY.decode(), [], DAMAGED_OFFSET, {})
    damaged = last[:-1] + bytes([last[-1] ^ 1])
    records = [(0, DAMAGED_KEY, damaged), (0, CHAMPION_KEY, msgspec.json.encode(pointer))]
    send(lives.settings, MODELS, records)
    wait_until(lambda: "snapshot refused" in worker.output, "the worker refuses it")
    lives.last = [f"last-{number}" for number in range(20)]
    events = [
        keyed(lives.settings, f"c{n}", event_bytes(transaction_id=name, card_id=f"c{n}"))
        for n, name in enumerate(lives.last)
    ]
    send(lives.settings, TRANSACTIONS, events)
    with closing(Log(lives.settings, DECISIONS)) as log:
        wanted = {name.encode() for name in lives.last}
        wait_until(lambda: wanted <= {record.key for record in log.read()}, "they are decided")
    lives.worker_said = worker.output


@pytest.fixture(scope="module")
def lives(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("lives")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        snapshot_interval_seconds=0.3,
        # The last events are of a much later time, and every label here is told.
        maturity_days=10_000.0,
        models_kept=MODELS_KEPT,
        # All three actions come up.
        review_score_min=0.012,
        decline_score_min=0.03,
    )
    reset(stack, settings)
    with redis.from_url(stack.redis_url) as client:
        lives = Lives(settings, client)
        with Processes(settings) as processes:
            live(lives, processes)
        yield lives


def test_a_trainer_that_is_asked_to_end_does_so(lives: Lives) -> None:
    assert lives.asked is not None
    assert lives.asked.exit_code == 0
    assert lives.asked.seconds < 10.0


def test_every_label_was_learned_once(lives: Lives) -> None:
    assert lives.published is not None
    numbers = {(example.partition, example.training_seq) for example in lives.log}

    assert (
        len(numbers) == len({example.label_id for example in lives.log}) == lives.published.labels
    )
    assert lives.folded.counts["learned"] == lives.published.labels
    # Two restarts and a rivalry lie within.
    assert lives.published.labels > 3 * LEARNED_BETWEEN


def test_the_last_version_is_the_fold_of_the_whole_log_bit_for_bit(lives: Lives) -> None:
    values = {record.key.decode(): record.value for record in lives.models}
    names = [lives.pointer.version, *lives.pointer.challengers]

    assert lives.pointer.training_offset == len(lives.log)
    assert len(names) == len(lives.folded.models) == 2
    for name, model in zip(names, lives.folded.models, strict=True):
        assert name == f"{model.name}@{len(lives.log)}"
        folded = encode(
            model, version=name, training_offset=len(lives.log), schema_hash=KERNEL.schema_hash
        )
        assert opened(values[name], ModelVerifier(lives.settings)) == folded
    assert {int(p): seq for p, seq in lives.pointer.marks.items()} == lives.folded.marks


def test_learned_rows_are_those_of_the_fold_byte_for_byte(lives: Lives) -> None:
    for table, entity in zip(lives.folded.profiles.tables, ("card", "terminal"), strict=True):
        names = [f"l:{entity}:{key}" for key in table.ids]
        stored = [
            unsealed(name, blob or b"")
            for name, blob in zip(names, lives.redis.mget(names), strict=True)
        ]
        different = [
            key for key, blob in zip(table.ids, stored, strict=True) if blob != table.blob(key)
        ]

        assert len(table) > 40
        assert different == []
        assert len(list(lives.redis.scan_iter(f"l:{entity}:*", count=1_000))) == len(table)


def test_a_trainer_that_stands_by_makes_the_same_versions(lives: Lives) -> None:
    assert lives.standby['result="equal"'] > 0
    assert lives.standby['result="different"'] == 0


def test_old_versions_are_retired(lives: Lives) -> None:
    last = {record.key.decode(): record.value for record in lives.models}
    del last[CHAMPION_KEY.decode()]
    live = [name for name, value in last.items() if value is not None]
    retired = [name for name, value in last.items() if value is None]

    assert len(live) == 2 * MODELS_KEPT
    assert len(retired) > 2 * MODELS_KEPT
    assert {lives.pointer.version, *lives.pointer.challengers} <= set(live)
    assert max(map(offset_of, retired)) < min(map(offset_of, live))


def offset_of(version: str) -> int:
    return int(version.partition("@")[2])


def test_a_damaged_snapshot_is_refused_and_the_worker_keeps_its_version(lives: Lives) -> None:
    decided = {decision.transaction_id: decision for decision in lives.decisions}
    versions = {decided[name].model_version for name in lives.last}

    assert f"snapshot refused: key=b'additive@{DAMAGED_OFFSET}'" in lives.worker_said
    assert versions == {lives.pointer.version}


def test_versions_only_grow_within_a_partition(lives: Lives) -> None:
    for partition in range(lives.settings.partitions):
        decided = [item for item in lives.decisions if item.source[1] == partition]
        offsets = [offset_of(item.model_version) for item in decided]

        assert offsets == sorted(offsets)
        assert len(set(offsets)) > 5


def test_decisions_recompute_from_their_features_and_the_stamped_version(lives: Lives) -> None:
    models = lives.versions()
    policy = Policy(
        KERNEL.table,
        review_score_min=lives.settings.review_score_min,
        decline_score_min=lives.settings.decline_score_min,
    )
    by_version: dict[str, list[DecisionRecord]] = {}
    for decision in lives.decisions:
        by_version.setdefault(decision.model_version, []).append(decision)
    for version, decided in by_version.items():
        features = np.stack([unpack_features(decision.features) for decision in decided])
        scored = models[version].score(features)
        actions = [ACTIONS[action] for action in policy.actions(scored.scores)]

        assert [decision.score for decision in decided] == scored.scores.tolist()
        assert [decision.action for decision in decided] == actions
        assert [decision.reasons for decision in decided] == policy.reasons(scored.contributions)
        for decision in decided:
            [(challenger, score)] = decision.challengers.items()
            alone = unpack_features(decision.features)[np.newaxis]
            assert models[challenger].score(alone).scores.tolist() == [score]
    assert {decision.policy_version for decision in lives.decisions} == {policy.version}
    assert {decision.action for decision in lives.decisions} == set(ACTIONS)


def test_a_decision_reads_rows_of_a_training_offset_that_only_grows(lives: Lives) -> None:
    for partition in range(lives.settings.partitions):
        offsets = [item.label_offset for item in lives.decisions if item.source[1] == partition]

        assert offsets == sorted(offsets)
        assert 0 < offsets[-1] <= len(lives.log)
