"""A worker on real servers whose models are forged, damaged, replayed or gone, and what it does."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
import redis
from click.testing import CliRunner
from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord

from consumers.model_pointer import CHAMPION_KEY, Champion
from consumers.verify_command import verify
from models import make_model
from models.snapshot import SNAPSHOT_BYTES_MAX as MODEL_BYTES_MAX
from models.snapshot import encode
from pipeline.features import FeatureKernel
from pipeline.records import DecisionRecord, decode_decisions, decode_examples
from pipeline.rules import load_rules
from pipeline.sealing import SEAL_BYTES, seal
from pipeline.settings import Settings
from pipeline.signing import Headers, ModelSigner
from pipeline.topics import (
    DECISIONS,
    FEEDBACK,
    MODELS,
    SNAPSHOT_BYTES_MAX,
    TRAINING,
    TRANSACTIONS,
)
from stack.servers import Endpoints
from stack.topic_setup import administration, create_topics
from tests.integration.processes import Log, Processes, Running, key_of, keyed, read, send
from tests.resetting import reset
from tests.strategies import CARD, MONDAY_MS, event_bytes, label_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KERNEL = FeatureKernel(CARD)
LABELS = 40
# The version that cannot be had, further back than what the labels teach.
LOST = 9
LARGE = "1500.00"


def snapshot(offset: int, name: str = "additive") -> bytes:
    model = make_model(name, KERNEL.names)
    return encode(
        model,
        version=f"{name}@{offset}",
        training_offset=offset,
        schema_hash=KERNEL.schema_hash,
    )


def without_a_number(signer: ModelSigner) -> bytes:
    """Give a signed snapshot with NaN in it, all its sums right."""
    body = snapshot(9_001, "logistic")[:-32]
    damaged = body[:-8] + np.array([np.nan]).tobytes()
    return seal(damaged + hashlib.sha256(damaged).digest(), signer)


@dataclass
class Story:
    """What was published to a worker, and what it decided meanwhile."""

    settings: Settings
    redis: redis.Redis
    card: str = ""
    said: dict[str, dict[str, float]] = field(default_factory=dict)
    decided: dict[str, list[DecisionRecord]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    verified: dict[str, object] = field(default_factory=dict)
    output: str = ""

    @property
    def signer(self) -> ModelSigner:
        return ModelSigner(self.settings)

    def publish(self, key: bytes, value: bytes | None, headers: Headers = ()) -> None:
        """Send a record of models; it may be as large as the topic lets pass."""
        producer = KafkaProducer(
            bootstrap_servers=self.settings.kafka_servers,
            max_request_size=SNAPSHOT_BYTES_MAX,
        )
        with closing(producer):
            producer.send(MODELS, key=key, value=value, headers=list(headers)).get(30)

    def point(self, version: str, *, sign: bool = True) -> None:
        offset = int(version.partition("@")[2])
        value = msgspec.json.encode(Champion(version, [], offset, {}))
        headers = self.signer.headers(CHAMPION_KEY, value) if sign else ()
        self.publish(CHAMPION_KEY, value, headers)

    def decide(self, part: str, count: int) -> None:
        """Publish transactions, one of them large, and wait for their decisions."""
        names = [f"{part}-{number}" for number in range(count)]
        events = [
            event_bytes(
                transaction_id=name,
                card_id=self.card,
                event_time=MONDAY_MS + 86_400_000 * len(self.decided) + 3_600_000 * number,
                amount=LARGE if number == 0 else "9.50",
            )
            for number, name in enumerate(names)
        ]
        send(self.settings, TRANSACTIONS, [keyed(self.settings, self.card, v) for v in events])
        wanted = {name.encode() for name in names}
        with closing(Log(self.settings, DECISIONS)) as log:
            wait_until(lambda: wanted <= {r.key for r in log.read()}, f"{part} is decided")
            found = decode_decisions(r.value for r in log.read() if r.key in wanted)
            self.decided[part] = [item for item in found if item is not None]
        self.versions[part] = self.decided[part][-1].model_version

    def label(self, part: str) -> None:
        labels = [
            keyed(self.settings, self.card, label_bytes(
                label_id=f"l-{item.transaction_id}", transaction_id=item.transaction_id,
                card_id=self.card, label_time=item.event_time + 1,
                verdict="fraud" if number % 3 == 0 else "genuine",
            ))
            for number, item in enumerate(self.decided[part])
        ]  # fmt: skip
        send(self.settings, FEEDBACK, labels)

    def note(self, part: str, worker: Running) -> None:
        names = ("models_refused_total", "degraded_decisions_total", "rules_in_force")
        self.said[part] = {
            name + labels: value
            for name in names
            for labels, value in worker.samples(f"fraud_{name}").items()
        }

    def refused(self, part: str) -> dict[str, float]:
        return {
            name.partition('"')[2].rstrip('"'): value
            for name, value in self.said[part].items()
            if name.startswith("models_refused") and value
        }


def refused_until(worker: Running, count: int) -> None:
    wait_until(lambda: worker.total("fraud_models_refused_total") >= count, f"{count} are refused")


def attack(story: Story, worker: Running) -> None:
    """Publish what must not be taken: each time the worker has to say so."""
    signer = story.signer
    good = seal(snapshot(9_000), signer)
    flipped = good[:-SEAL_BYTES] + bytes([good[-SEAL_BYTES] ^ 1]) + good[-SEAL_BYTES + 1 :]
    before = worker.total("fraud_models_refused_total")
    for key, value in (
        (b"additive@9000", snapshot(9_000)),
        (b"additive@9000", flipped),
        (b"additive@9999", good),
        (b"logistic@9001", without_a_number(signer)),
        (b"additive@9002", bytes(MODEL_BYTES_MAX + 1)),
    ):
        story.publish(key, value)
    refused_until(worker, int(before) + 5)
    # A good snapshot, which somebody who cannot sign wants in force.
    story.publish(b"additive@9000", good)
    story.point("additive@9000", sign=False)
    refused_until(worker, int(before) + 6)


def pointers(story: Story) -> Sequence[ConsumerRecord]:
    return [r for r in read(story.settings, MODELS) if r.key == CHAMPION_KEY and r.headers]


def live(story: Story, processes: Processes) -> None:
    story.publish(f"additive@{LOST}".encode(), b"damaged")
    story.point(f"additive@{LOST}")
    [worker] = processes.ready("worker")
    story.decide("degraded", LABELS)
    story.note("degraded", worker)
    result = CliRunner().invoke(verify, ["--all", "--json"], obj=story.settings)
    story.verified = json.loads(result.stdout)
    story.label("degraded")
    [trainer] = processes.ready("trainer")
    wait_until(lambda: worker.total("fraud_rules_in_force") == 0.0, "a version is taken")
    story.decide("recovered", 10)
    wanted = f"additive@{LABELS}"
    wait_until(lambda: "additive@" + str(LABELS) in said(story), f"{wanted} is published")
    story.decide("taught", 5)
    trainer.end()
    story.note("taught", worker)
    attack(story, worker)
    story.decide("attacked", 5)
    [first, *_] = pointers(story)[1:]
    story.publish(CHAMPION_KEY, first.value, first.headers)
    story.decide("replayed", 5)
    story.note("replayed", worker)
    worker.end()
    story.output = worker.output
    compacted(story)
    [worker] = processes.ready("worker")
    story.decide("compacted", 5)
    story.note("compacted", worker)


def said(story: Story) -> list[str]:
    return [msgspec.json.decode(r.value, type=Champion).version for r in pointers(story)]


def compacted(story: Story) -> None:
    """Leave of the topic what an attacker would: both snapshots, and an old signed pointer."""
    kept = {r.key: r for r in read(story.settings, MODELS) if r.value is not None}
    with administration(story.settings.kafka_servers) as admin:
        admin.delete_topics([MODELS])
        wait_until(lambda: MODELS not in admin.list_topics(), "the topic is gone")
    create_topics(story.settings.kafka_servers, story.settings)
    newest = kept[f"additive@{LABELS}".encode()]
    story.publish(newest.key, newest.value)
    story.publish(b"additive@11", seal(snapshot(11), story.signer))
    story.point("additive@11")


@pytest.fixture(scope="module")
def story(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    settings = Settings(
        state_dir=str(tmp_path_factory.mktemp("models")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        partitions=1,
        challengers="none",
        snapshot_interval_seconds=0.2,
        label_linger_seconds=0.0,
    )
    reset(stack, settings)
    with redis.from_url(stack.redis_url) as client, Processes(settings) as processes:
        story = Story(settings, client, key_of(0, settings))
        live(story, processes)
        yield story


def test_a_worker_without_any_valid_version_decides_by_rules(story: Story) -> None:
    decided, rules = story.decided["degraded"], load_rules(story.settings, CARD)

    assert {item.model_version for item in decided} == {rules.version}
    assert all(item.degraded for item in decided)
    assert decided[0].reasons == [("RULE_AMOUNT_LARGE", 1.0)]
    assert (decided[0].action, decided[0].score) == ("review", story.settings.review_score_min)
    assert {(item.action, item.score) for item in decided[1:]} == {("approve", 0.0)}
    assert story.refused("degraded") == {"signature": 1}
    assert story.said["degraded"]["degraded_decisions_total"] == LABELS
    assert story.said["degraded"]["rules_in_force"] == 1


def test_what_rules_decided_is_verified(story: Story) -> None:
    assert (story.verified["equal"], story.verified["different"]) == (LABELS, 0)
    # The damaged version is reported, so the whole does not pass.
    assert list(story.verified["snapshots"]["refused"]) == [f"additive@{LOST}"]  # type: ignore[index]


def test_labels_of_degraded_decisions_are_learned_and_end_the_emergency(story: Story) -> None:
    examples = list(decode_examples(r.value for r in read(story.settings, TRAINING)))

    # A worker that starts publishes its last outbox again.
    assert list(dict.fromkeys(item.label_id for item in examples if item)) == [
        f"l-{item.transaction_id}" for item in story.decided["degraded"]
    ]
    assert story.versions["recovered"].startswith("additive@")
    assert story.versions["taught"] == f"additive@{LABELS}"
    assert not any(item.degraded for item in story.decided["recovered"])
    assert story.said["taught"]["rules_in_force"] == 0


def test_nothing_forged_or_damaged_is_adopted(story: Story) -> None:
    assert story.versions["attacked"] == f"additive@{LABELS}"
    before, after = story.refused("taught"), story.refused("replayed")
    assert {fault: after[fault] - before.get(fault, 0) for fault in after} == {
        "signature": 4,
        "not_finite": 1,
        "too_large": 1,
    }


def test_an_old_signed_pointer_rolls_nobody_back(story: Story) -> None:
    assert story.versions["replayed"] == f"additive@{LABELS}"
    # Not even a worker that starts and finds nothing newer: the store knows what was in force.
    assert story.versions["compacted"] == f"additive@{LABELS}"
    assert story.refused("compacted") == {"stale": 1}
