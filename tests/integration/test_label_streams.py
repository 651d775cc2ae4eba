"""Labels as payments have them, on real servers: in any order, twice, taken back, and very late."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import msgspec
import pytest
import redis

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import Label
from pipeline.feedback_encoding import encode_label
from pipeline.records import TrainingExample, decode_decisions, decode_examples
from pipeline.sealing import read_sealed
from pipeline.settings import Settings
from pipeline.signing import ModelVerifier
from pipeline.topics import DECISIONS, FEEDBACK, MODELS, TRAINING, TRANSACTIONS
from pipeline.verdicts import LABEL_PATHS
from stack.servers import Endpoints
from tests.integration.processes import Processes, hashes, keyed, read, send
from tests.resetting import reset
from tests.strategies import CARD, MONDAY_MS, event_bytes, label
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS = 240
CARDS = 12
LATE_DAYS = 120


def card_of(number: int) -> str:
    return f"c{number % CARDS}"


def first_verdicts() -> list[Label]:
    """Give the first label of every transaction: every sixth is a fraud, told of by chargeback."""
    return [
        label(
            f"first-{number}",
            transaction_id=f"t{number}",
            key=card_of(number),
            is_fraud=number % 6 == 0,
            source="chargeback" if number % 6 == 0 else "customer",
            label_time_ms=MONDAY_MS + number * HOUR_MS + 7 * DAY_MS,
        )
        for number in range(EVENTS)
    ]


def reversals() -> list[Label]:
    """Give what takes some of them back: disputes won, and customers who think again."""
    return [
        msgspec.structs.replace(
            first,
            label_id=f"back-{first.label_id}",
            is_fraud=not first.is_fraud,
            source="dispute_won" if first.is_fraud else "customer",
            label_time_ms=first.label_time_ms + DAY_MS,
            supersedes=first.label_id,
        )
        for first in first_verdicts()[::9]
    ]


@dataclass
class Stream:
    """What came of a stream of labels: the ledger, the verdicts learned, the model's bytes."""

    ledger: dict[str, int]
    verdicts: dict[str, str]
    model: bytes
    labels: int = field(default=0)


def told(stack: Endpoints, settings: Settings, labels: Sequence[Label]) -> Stream:
    """Decide all transactions, tell the labels in this order, and only then learn."""
    reset(stack, settings)
    events = [
        (card_of(number), MONDAY_MS + number * HOUR_MS, f"t{number}", str(10 + number % 50))
        for number in range(EVENTS)
    ]
    records = [
        keyed(settings, card, event_bytes(
            transaction_id=name, event_time=time_ms, card_id=card, amount=amount
        ))
        for card, time_ms, name, amount in events
    ]  # fmt: skip
    with redis.from_url(settings.redis_url) as client, Processes(settings) as processes:
        processes.ready("worker")
        # Some labels come before their decision, and wait for it.
        early = [keyed(settings, item.key, encode_label(item, CARD)) for item in labels[:20]]
        send(settings, FEEDBACK, early)
        send(settings, TRANSACTIONS, records)
        wait_for(client, FEEDBACK, 20)
        wait_until(lambda: client.hget("index:0", "entries") == str(EVENTS).encode(), "all wait")
        wait_until(lambda: not client.exists("pend:0"), "the early labels have found theirs")
        rest = [keyed(settings, item.key, encode_label(item, CARD)) for item in labels[20:]]
        send(settings, FEEDBACK, rest)
        wait_for(client, FEEDBACK, len(labels))
        [trainer] = processes.ready("trainer")
        examples = learned(settings)
        wait_for(client, TRAINING, len(examples))
        trainer.end()
        [ledger] = hashes(client, "ledger", 1)
    snapshots = [r for r in read(settings, MODELS) if (r.key or b"").startswith(b"additive@")]
    newest = read_sealed(snapshots[-1].value, ModelVerifier(settings))
    assert newest.training_offset == len(examples)
    return Stream(
        {name: int(count) for name, count in ledger.items()},
        {example.transaction_id: example.verdict for example in examples},
        snapshots[-1].value,
        len(labels),
    )


def learned(settings: Settings) -> list[TrainingExample]:
    found = decode_examples(record.value for record in read(settings, TRAINING))
    return [example for example in found if example is not None]


def wait_for(client: redis.Redis, topic: str, end: int) -> None:
    name = TRAINING if topic == TRAINING else f"{topic}:0"

    def is_done() -> bool:
        return int((client.get(f"pos:{name}") or b"0").split(b":")[0]) == end

    wait_until(is_done, f"{topic} is taken to its end", seconds_max=60)


@pytest.fixture(scope="module")
def ours(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    # One partition: the order of the labels is then the order in which they are learned.
    return replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("labels")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        partitions=1,
    )


@pytest.fixture(scope="module")
def clean(stack: Endpoints, ours: Settings) -> Stream:
    return told(stack, ours, [*first_verdicts(), *reversals()])


def assert_it_closes(stream: Stream) -> None:
    assert sum(stream.ledger.get(path, 0) for path in LABEL_PATHS) == stream.labels


def verdict_totals(stream: Stream) -> dict[str, int]:
    return {name: count for name, count in stream.ledger.items() if name.startswith("verdict_")}


def test_a_clean_stream_is_learned_once_and_its_reversals_correct(clean: Stream) -> None:
    assert clean.ledger == {
        "learned": EVENTS,
        "corrected": len(reversals()),
        **verdict_totals(clean),
    }
    assert verdict_totals(clean) == {
        f"verdict_{verdict}": list(clean.verdicts.values()).count(verdict)
        for verdict in ("fraud", "genuine")
    }
    assert_it_closes(clean)


def test_labels_told_twice_leave_the_same_ledger_and_the_same_model(
    stack: Endpoints, ours: Settings, clean: Stream
) -> None:
    firsts, backs = first_verdicts(), reversals()
    twice = [item for one in firsts for item in (one, one)] + backs + firsts[::2] + backs

    stream = told(stack, ours, twice)

    assert stream.ledger == clean.ledger | {"repeated": len(twice) - len(firsts) - len(backs)}
    assert stream.model == clean.model
    assert_it_closes(stream)


def test_labels_in_any_order_end_with_the_same_totals_and_verdicts(
    stack: Endpoints, ours: Settings, clean: Stream
) -> None:
    labels = [*first_verdicts(), *reversals()] * 2
    Random(7).shuffle(labels)

    stream = told(stack, ours, labels[::-1])

    assert stream.verdicts == clean.verdicts
    assert verdict_totals(stream) == verdict_totals(clean)
    assert stream.ledger["learned"] == EVENTS
    assert stream.ledger["repeated"] == len(labels) // 2
    # A reversal that came first leaves nothing to correct: what it took back is superseded.
    assert stream.ledger["corrected"] + stream.ledger["superseded"] == len(reversals())
    assert_it_closes(stream)


@pytest.fixture(scope="module")
def late(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Two decisions, approved and held for review; 120 days later a chargeback for each."""
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("late")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        review_score_min=0.6,
    )
    reset(stack, settings)
    yield settings


def decide_and_wait(settings: Settings, names: Sequence[str], time_ms: int) -> None:
    records = [
        keyed(settings, "c1", event_bytes(transaction_id=name, event_time=time_ms, card_id="c1"))
        for name in names
    ]
    before = len(read(settings, DECISIONS))
    send(settings, TRANSACTIONS, records)
    wait_until(lambda: len(read(settings, DECISIONS)) >= before + len(names), "all are decided")


def test_a_label_of_120_days_later_still_finds_its_decision(late: Settings) -> None:
    with Processes(late) as processes:
        # A model that knows nothing says 0.01: that is approved here, and reviewed there.
        [worker] = processes.ready("worker")
        decide_and_wait(late, ["approved"], MONDAY_MS)
        worker.end()
        [worker] = processes.ready("worker", review_score_min=0.005)
        decide_and_wait(late, ["reviewed"], MONDAY_MS + HOUR_MS)
        decide_and_wait(late, ["now"], MONDAY_MS + LATE_DAYS * DAY_MS)
        wait_until(lambda: len(learned(late)) == 1, "the approved one has matured as genuine")
        told_ms = MONDAY_MS + LATE_DAYS * DAY_MS
        send(late, FEEDBACK, [
            keyed(late, "c1", encode_label(Label(
                f"chargeback-{name}", name, "c1", True, "chargeback", told_ms
            ), CARD))
            for name in ("approved", "reviewed")
        ])  # fmt: skip
        wait_until(lambda: len(learned(late)) == 3, "both chargebacks are learned")
        worker.end()
    examples = learned(late)
    found = decode_decisions(record.value for record in read(late, DECISIONS))
    decided = {item.transaction_id: item for item in found if item is not None}

    assert [(item.transaction_id, item.source, item.verdict) for item in examples] == [
        ("approved", "matured", "genuine"),
        ("approved", "chargeback", "fraud"),
        ("reviewed", "chargeback", "fraud"),
    ]
    assert [item.supersedes for item in examples] == [None, examples[0].training_seq, None]
    assert all(item.features == decided[item.transaction_id].features for item in examples)
    assert [decided[name].action for name in ("approved", "reviewed")] == ["approve", "review"]
