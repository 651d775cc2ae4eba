"""Real workers on real Kafka and Redis: what is published is decided once, whatever happens.

Starting a worker takes seconds, so a story is told once and its tests look at what it left.
"""

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from signal import SIGINT, SIGTERM

import numpy as np
import psutil
import pytest
import redis
from kafka.consumer.fetcher import ConsumerRecord
from numpy.typing import NDArray

from benchmarks.chaos.held import write_rows_back
from consumers.dead_letters import app_version
from models import make_model
from pipeline.card_numbers import mask_card_numbers
from pipeline.card_testing import add_probe, places_of
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.engine import Engine, Version
from pipeline.errors import REASONS
from pipeline.events import Outcome, Transactions
from pipeline.feature_kernels import add_to_bucket
from pipeline.features import unusual_amounts
from pipeline.feedback import MemoryWaiting
from pipeline.feedback_encoding import encode_outcome
from pipeline.label_words import OutcomeKind
from pipeline.learner import Learner
from pipeline.profiles import (
    DAY_SLOTS,
    HOUR_SLOTS,
    TRAFFIC,
    MemoryProfiles,
    Table,
    bucket_table,
    probe_table,
)
from pipeline.records import DecisionRecord, TrainingExample, decode_decisions, decode_examples
from pipeline.settings import Settings
from pipeline.stored_rows import unsealed
from pipeline.topics import DEAD_LETTERS, DECISIONS, FEEDBACK, OUTCOMES, TRAINING, TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from pipeline.verdicts import LABEL_PATHS
from producers.batch import joined
from producers.encoding import TransactionEncoder
from producers.feed import limited
from producers.publisher import Pace, Published, Watch, publish
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Endpoints
from tests.integration.processes import (
    Ending,
    Log,
    Place,
    Processes,
    Running,
    Sent,
    hashes,
    key_of,
    keyed,
    read,
    send,
    values_by_id,
)
from tests.resetting import reset
from tests.strategies import CARD, declined_of, event_bytes, label_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CARD_NUMBER = "4111111111111111"
DECIDED_SECONDS_MAX = 60.0

# Kind: value, reason, place. Every one of them comes twice.
BAD: dict[str, tuple[bytes | None, str, str]] = {
    "truncated": (event_bytes()[:-9], "malformed", "$"),
    "not JSON": (b"hello", "malformed", "$"),
    "empty": (b"", "malformed", "$"),
    "tombstone": (None, "malformed", "$"),
    "NaN": (event_bytes(amount=float("nan")), "malformed", "$"),
    "infinity": (event_bytes(amount=float("inf")), "malformed", "$"),
    "not UTF-8": (event_bytes(transaction_id="t?").replace(b"?", b"\xff"), "malformed", "$"),
    "nested": (b'{"x":' + b"[" * 8_000, "malformed", "$"),
    "a list": (b"[1]", "schema", "$"),
    "number as id": (event_bytes(transaction_id=5), "schema", "$.transaction_id"),
    "text as time": (event_bytes(event_time="yesterday"), "schema", "$.event_time"),
    "list as amount": (event_bytes(amount=[1]), "schema", "$.amount"),
    "no terminal": (event_bytes(terminal_id=...), "schema", "$.terminal_id"),
    "no id": (event_bytes(transaction_id=...), "schema", "$.transaction_id"),
    "too large": (event_bytes(note="x" * 20_000), "too_large", "$"),
    "card number": (event_bytes(card_id=CARD_NUMBER), "card_number", "$.card_id"),
    "negative text": (event_bytes(amount="-5.00"), "schema", "$.amount"),
    "negative number": (event_bytes(amount=-5), "schema", "$.amount"),
    "decimals": (event_bytes(amount="1.005"), "schema", "$.amount"),
    "too much": (event_bytes(amount="10000000.01"), "schema", "$.amount"),
    "seconds": (event_bytes(event_time=1_600_000_000), "schema", "$.event_time"),
    "far future": (event_bytes(event_time="2099-01-01T00:00:00Z"), "out_of_time", "$.event_time"),
    "no offset": (event_bytes(event_time="2021-01-04T00:00:00"), "schema", "$.event_time"),
    "blank in id": (event_bytes(transaction_id="t 1"), "schema", "$.transaction_id"),
    "slash in id": (event_bytes(terminal_id="m/1"), "schema", "$.terminal_id"),
    "currency": (event_bytes(currency="eur"), "schema", "$.currency"),
}
GOOD = 4_500
MATURITY_DAYS = 5
PENDING_SECONDS = 3600
"""The labels of the story: a label of its first part may come before its decision."""


@dataclass
class Story:
    """Two lives of a worker on four partitions, and what they left.

    The first declines everything: bad input, duplicates, labels of all kinds. It is ended, and
    the second approves: maturity.
    """

    settings: Settings
    redis: redis.Redis
    # What was published, with the place of its first publication.
    good: dict[str, Place] = field(default_factory=dict)
    bad: dict[Place, tuple[str, Sent]] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    cards: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0
    end_ms: int = 0
    listening: list[tuple[str, int]] = field(default_factory=list)
    metrics_port: int = 0
    endings: list[Ending] = field(default_factory=list)
    labelled: dict[str, list[str]] = field(default_factory=dict)
    bad_labels: dict[Place, tuple[str, Sent]] = field(default_factory=dict)
    labels_sent: int = 0
    first_ledger: Counter[str] = field(default_factory=Counter)
    left_pending: int = 0
    before_maturity: set[str] = field(default_factory=set)
    approved: dict[str, bool] = field(default_factory=dict)

    def publish(self, records: Sequence[tuple[str, Sent, int]]) -> None:
        """Publish good transactions: id, record, event time."""
        places = send(self.settings, TRANSACTIONS, [record for _, record, _ in records])
        for (name, (_, key, _), time_ms), place in zip(records, places, strict=True):
            self.good.setdefault(name, place)
            self.times.setdefault(name, time_ms)
            self.cards.setdefault(name, (key or b"").decode())
            self.end_ms = max(self.end_ms, time_ms)

    def event(self, name: str, partition: int, time_ms: int) -> tuple[str, Sent, int]:
        card = key_of(partition, self.settings)
        value = event_bytes(transaction_id=name, event_time=time_ms, card_id=card)
        return name, keyed(self.settings, card, value), time_ms

    def label(self, label_id: str, transaction: str, **changes: object) -> Sent:
        """Give a label of a published transaction, a minute after it."""
        card = self.cards[transaction]
        time_ms = self.times[transaction] + 60_000
        fields = {"label_id": label_id, "transaction_id": transaction, "card_id": card}
        value = label_bytes(**(fields | {"label_time": time_ms} | changes))
        return keyed(self.settings, card, value)

    def send_labels(self, labels: Sequence[Sent]) -> None:
        self.labels_sent += len(labels)
        send(self.settings, FEEDBACK, labels)

    def ledger(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for part in hashes(self.redis, "ledger", self.settings.partitions):
            total.update({path: int(count) for path, count in part.items()})
        return total

    def pending(self) -> int:
        return sum(self.redis.hlen(f"pend:{p}") for p in range(self.settings.partitions))

    def wait_for(self, name: str, topic: str) -> None:
        """Wait until all of a topic is committed."""
        with closing(Log(self.settings, topic)) as log:
            ends = {f"pos:{topic}:{p}": end for p, end in log.ends.items() if end}

        def is_done() -> bool:
            stored = [(self.redis.get(key) or b"0").split(b":")[0] for key in ends]
            return [int(position) for position in stored] == list(ends.values())

        wait_until(is_done, f"{name} is committed", seconds_max=DECIDED_SECONDS_MAX)

    @cached_property
    def decisions(self) -> list[ConsumerRecord]:
        return read(self.settings, DECISIONS)

    @cached_property
    def decided(self) -> dict[str, DecisionRecord]:
        found = decode_decisions(record.value for record in self.decisions)
        return {item.transaction_id: item for item in found if item is not None}

    @cached_property
    def letters(self) -> dict[Place, ConsumerRecord]:
        """Dead letters of transactions by the place of the input."""
        return dead_letters_of(self.settings, TRANSACTIONS)

    @cached_property
    def label_letters(self) -> dict[Place, ConsumerRecord]:
        return dead_letters_of(self.settings, FEEDBACK)

    @cached_property
    def training(self) -> list[TrainingExample]:
        """Training examples in the order of the log, without records that came again."""
        records = read(self.settings, TRAINING)
        found = [item for item in decode_examples(r.value for r in records) if item is not None]
        assert len(found) == len(records)
        return list({(item.partition, item.training_seq): item for item in found}.values())


def said(record: ConsumerRecord) -> dict[str, str]:
    """Give the headers of a dead letter by their short names."""
    return {name.removeprefix("fraud.errors."): text.decode() for name, text in record.headers}


def dead_letters_of(settings: Settings, topic: str) -> dict[Place, ConsumerRecord]:
    found: dict[Place, ConsumerRecord] = {}
    for record in read(settings, DEAD_LETTERS):
        headers = said(record)
        if headers["topic"] == topic:
            found[int(headers["partition"]), int(headers["offset"])] = record
    return found


def tell_of_transactions(story: Story) -> None:
    """Publish good traffic with a hundredth of bad input, then some of the good once more."""
    world = SimulatorOptions(customers=300, terminals=100, days=30)
    whole = joined(list(limited(simulate(world), GOOD)))
    values = TransactionEncoder(CARD).encode(whole)
    good = [
        (name, keyed(story.settings, card, value), time_ms)
        for name, card, value, time_ms in zip(
            whole.transaction_id, whole.keys[0], values, whole.event_time_ms.tolist(), strict=True
        )
    ]
    kinds = list(BAD) * 2
    for number, start in enumerate(range(0, GOOD, GOOD // len(kinds))):
        story.publish(good[start : start + GOOD // len(kinds)])
        for kind in kinds[number : number + 1]:
            key = CARD_NUMBER if kind == "card number" else "c1"
            record = (number % story.settings.partitions, key.encode(), BAD[kind][0])
            [place] = send(story.settings, TRANSACTIONS, [record])
            story.bad[place] = kind, record
    misplace(story)
    # A duplicate is one of the last seven days.
    again = good[-100:]
    story.publish(again)
    story.duplicates = len(again)


def misplace(story: Story) -> None:
    """Publish the same good card without a key to every partition: it belongs into one."""
    card = key_of(2, story.settings)
    for partition in range(story.settings.partitions):
        name, time_ms = f"keyless-{partition}", story.end_ms
        value = event_bytes(transaction_id=name, event_time=time_ms, card_id=card)
        record = (partition, None, value)
        [place] = send(story.settings, TRANSACTIONS, [record])
        if partition == 2:
            story.good[name], story.times[name], story.cards[name] = place, time_ms, card
        else:
            story.bad[place] = "no key, elsewhere", record


def tell_of_labels(story: Story) -> None:
    """Publish labels of every kind, some for each partition."""
    chosen = {
        partition: [name for name, place in story.good.items() if place[0] == partition][:40]
        for partition in range(story.settings.partitions)
    }
    for partition, names in chosen.items():
        told: list[Sent] = []

        def tell(kind: str, *labels: dict[str, object], names: list[str] = names) -> None:
            name = names.pop()
            story.labelled.setdefault(kind, []).append(name)
            for number, changes in enumerate(labels):
                label_id = str(changes.pop("label_id", f"{kind}-{partition}-{number}"))  # noqa: B023
                told.append(story.label(label_id, name, **changes))  # noqa: B023

        tell("fraud", {"source": "chargeback"})
        tell("genuine", {"source": "customer", "verdict": "genuine"})
        same = {"label_id": f"same-{partition}"}
        tell("repeated", dict(same), dict(same))
        tell("confirmed", {"source": "simulated"}, {"source": "chargeback"})
        tell("contradicted", {"source": "analyst"}, {"source": "customer", "verdict": "genuine"})
        tell("outranked", {"source": "simulated", "verdict": "genuine"}, {"source": "chargeback"})
        tell(
            "superseded",
            {"source": "analyst", "label_id": f"first-{partition}"},
            {"source": "customer", "verdict": "genuine", "supersedes": f"first-{partition}"},
        )
        story.send_labels(told)
        tell_of_bad_labels(story, partition, names)


def tell_of_bad_labels(story: Story, partition: int, names: list[str]) -> None:
    good = story.label(f"elsewhere-{partition}", names[0])
    bad: list[tuple[str, Sent]] = [
        ("wrong_partition", ((partition + 1) % story.settings.partitions, *good[1:])),
        ("malformed", (partition, b"c1", b'{"label_id":')),
        ("malformed", (partition, b"c1", None)),
        ("schema", story.label("x", names[0], verdict="perhaps")),
        ("schema", story.label("x", names[0], source="matrix")),
        ("schema", story.label("x", names[0], label_time=1_600_000_000)),
        ("card_number", story.label(CARD_NUMBER, names[0])),
        ("too_large", story.label("x", names[0], by="x" * 20_000)),
    ]
    places = send(story.settings, FEEDBACK, [record for _, record in bad])
    story.bad_labels |= dict(zip(places, bad, strict=True))


def tell_of_early_labels(story: Story) -> None:
    """Publish labels before their decision, and of transactions that never come."""
    partitions = range(story.settings.partitions)
    now_ms = story.end_ms
    early = [story.event(f"early-{p}", p, now_ms + 1_000) for p in partitions]
    never = [story.event(f"never-{p}", p, now_ms + 1_000) for p in partitions]
    for name, record, time_ms in early + never:
        story.times[name], story.cards[name] = time_ms, (record[1] or b"").decode()
    first = [story.label(f"label-early-{p}", f"early-{p}") for p in partitions]
    story.send_labels(first + [story.label(f"label-never-{p}", f"never-{p}") for p in partitions])
    wait_until(lambda: story.pending() == 2 * len(partitions), "the labels wait")
    story.send_labels(first)
    story.labelled["early"] = [f"early-{p}" for p in partitions]
    story.publish(early)
    wait_until(lambda: story.pending() == len(partitions), "the early labels are joined")
    late_ms = now_ms + PENDING_SECONDS * 1_000 + 120_000
    story.publish([story.event(f"late-{p}", p, late_ms) for p in partitions])
    wait_until(lambda: story.pending() == 0, "the others are given up")


def tell_of_maturity(story: Story) -> None:
    """Publish what is approved, label a part of it, and let the days pass."""
    partitions = range(story.settings.partitions)
    now_ms = story.end_ms + HOUR_MS
    names = [(f"approved-{p}-{n}", p) for p in partitions for n in range(5)]
    tell_of_outcomes(story, early=True)
    story.publish([story.event(name, p, now_ms) for name, p in names])
    story.wait_for("what is approved", TRANSACTIONS)
    tell_of_outcomes(story, early=False)
    spoken = [name for name, _ in names if name.endswith("0")]
    story.approved = {name: name in spoken for name, _ in names}
    story.send_labels([story.label(f"label-{name}", name) for name in spoken])
    story.wait_for("every label", FEEDBACK)
    story.wait_for("every outcome", OUTCOMES)
    examples = decode_examples(record.value for record in read(story.settings, TRAINING))
    story.before_maturity = {item.source for item in examples if item is not None}
    later_ms = now_ms + MATURITY_DAYS * DAY_MS
    story.publish([story.event(f"later-{p}", p, later_ms) for p in partitions])

    def has_matured() -> bool:
        learned = decode_examples(record.value for record in read(story.settings, TRAINING))
        return sum(item is not None and item.source == "matured" for item in learned) >= 12

    wait_until(has_matured, "twelve are mature")


# What became of the approved ones of each partition, by number; the first was told before its
# decision. Of the second nobody will ever complain, so its silence proves nothing.
OUTCOMES_TOLD: dict[int, OutcomeKind] = {1: "settled", 2: "issuer_declined"}


def tell_of_outcomes(story: Story, *, early: bool) -> None:
    told: list[Sent] = []
    for partition in range(story.settings.partitions):
        for number, kind in OUTCOMES_TOLD.items():
            if early == (number == min(OUTCOMES_TOLD)):
                card = key_of(partition, story.settings)
                name = f"approved-{partition}-{number}"
                outcome = Outcome(name, card, kind, story.end_ms)
                told.append(keyed(story.settings, card, encode_outcome(outcome, CARD)))
    send(story.settings, OUTCOMES, told)


@pytest.fixture(scope="module")
def story(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("story")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        maturity_days=float(MATURITY_DAYS),
        pending_label_seconds=float(PENDING_SECONDS),
    )
    reset(stack, settings)
    with redis.from_url(stack.redis_url) as client, Processes(settings) as processes:
        story = Story(settings, client)
        [worker] = processes.ready("worker", review_score_min=0.0001, decline_score_min=0.0002)
        tell_of_transactions(story)
        story.wait_for("every transaction", TRANSACTIONS)
        story.listening = listening(worker)
        story.metrics_port = int((worker.address or "").split(":")[2].split("/")[0])
        tell_of_labels(story)
        story.wait_for("every label", FEEDBACK)
        tell_of_early_labels(story)
        story.first_ledger, story.left_pending = story.ledger(), story.pending()
        story.endings.append(worker.end(SIGTERM))
        [worker] = processes.ready("worker")
        tell_of_maturity(story)
        story.wait_for("every transaction", TRANSACTIONS)
        story.endings.append(worker.end(SIGINT))
        yield story


def listening(running: Running) -> list[tuple[str, int]]:
    process = psutil.Process(running.pid)
    found = [
        connection.laddr
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    return [(address.ip, address.port) for address in found]


def test_every_bad_transaction_is_a_dead_letter_with_reason_and_place(story: Story) -> None:
    assert set(story.letters) == set(story.bad)
    for place, (kind, _) in story.bad.items():
        expected = BAD.get(kind, (None, "wrong_partition", "$.card_id"))
        headers = said(story.letters[place])
        message = headers.pop("message")
        assert (headers.pop("schema_version"), headers.pop("app_version")) == (
            "card:1",
            app_version(),
        )
        assert int(headers.pop("ts")) > 0

        assert headers.pop("masked", "") == ("card numbers" if kind == "card number" else ""), kind
        assert headers == {
            "topic": TRANSACTIONS,
            "partition": str(place[0]),
            "offset": str(place[1]),
            "stage": "decode",
            "reason": expected[1],
            "place": expected[2],
        }, kind
        assert expected[1] in REASONS
        assert message.startswith(f"{expected[1]} at {expected[2]}: expected "), kind


def test_a_dead_letter_holds_the_original_bytes_and_no_card_number(story: Story) -> None:
    for place, (kind, (_, key, value)) in story.bad.items():
        letter = story.letters[place]
        masked = [None if given is None else mask_card_numbers(given) for given in (key, value)]
        said_so = masked != [key, value]

        assert [letter.key, letter.value] == masked, kind
        assert said_so == (kind == "card number")
        assert CARD_NUMBER.encode() not in (letter.key or b"") + (letter.value or b"")
        assert letter.partition == place[0]


def test_every_good_transaction_has_one_decision_that_names_its_place(story: Story) -> None:
    assert set(story.decided) == set(story.good)
    for name, decision in story.decided.items():
        assert decision.source == (TRANSACTIONS, *story.good[name])
    for record in story.decisions:
        assert record.partition == story.good[record.key.decode()][0]
        assert json.loads(record.value)["transaction_id"] == record.key.decode()


def test_accepted_and_dead_letters_add_up_to_what_was_published(story: Story) -> None:
    published = len(read(story.settings, TRANSACTIONS))

    assert len(story.decided) + len(story.letters) + story.duplicates == published


def test_every_label_is_learned_once_or_counted_as_why_not(story: Story) -> None:
    each = story.settings.partitions

    # Seven kinds and the early one are learned; of the last two, two are corrected.
    assert story.first_ledger == Counter(
        learned=8 * each,
        repeated=2 * each,
        confirmed=each,
        contradicted=each,
        corrected=2 * each,
        unknown=each,
        rejected=len(story.bad_labels),
        verdict_fraud=6 * each,
        verdict_genuine=2 * each,
    )
    assert story.left_pending == 0


def test_the_ledger_closes_with_what_was_sent(story: Story) -> None:
    total = story.ledger()
    taken = sum(total[path] for path in LABEL_PATHS) - total["matured"] + total["rejected"]

    assert taken == story.labels_sent + len(story.bad_labels)
    assert total["matured"] == sum(example.source == "matured" for example in story.training)
    assert total["learned"] + total["corrected"] == len(story.training)
    assert total["verdict_fraud"] + total["verdict_genuine"] == total["learned"]
    assert {kind: total[f"outcome_{kind}"] for kind in set(OUTCOMES_TOLD.values())} == {
        kind: story.settings.partitions * list(OUTCOMES_TOLD.values()).count(kind)
        for kind in set(OUTCOMES_TOLD.values())
    }


def test_training_is_numbered_without_a_hole(story: Story) -> None:
    numbers: dict[int, list[int]] = {}
    for example in story.training:
        numbers.setdefault(example.partition, []).append(example.training_seq)

    assert len(numbers) == story.settings.partitions
    assert all(given == list(range(len(given))) for given in numbers.values())


def test_what_is_learned_are_the_features_of_the_decision(story: Story) -> None:
    for example in story.training:
        decision = story.decided[example.transaction_id]

        assert example.features == decision.features
        assert example.partition == decision.source[1]
        for name in ("schema_hash", "keys", "amount", "event_time", "score", "action"):
            assert getattr(example, name) == getattr(decision, name)
        assert example.model_version == decision.model_version
        assert example.challengers == decision.challengers


def learned(story: Story, kind: str) -> list[list[TrainingExample]]:
    """Give what was learned of each transaction of a kind."""
    return [
        [example for example in story.training if example.transaction_id == name]
        for name in story.labelled[kind]
    ]


@pytest.mark.parametrize(
    ("kind", "verdict", "source"),
    [
        ("fraud", "fraud", "chargeback"),
        ("genuine", "genuine", "customer"),
        ("repeated", "fraud", "analyst"),
        ("confirmed", "fraud", "simulated"),
        ("contradicted", "fraud", "analyst"),
        ("early", "fraud", "analyst"),
    ],
)
def test_a_label_is_learned_once(story: Story, kind: str, verdict: str, source: str) -> None:
    for examples in learned(story, kind):
        [example] = examples

        assert (example.verdict, example.source, example.supersedes) == (verdict, source, None)


@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [("outranked", ["genuine", "fraud"]), ("superseded", ["fraud", "genuine"])],
)
def test_a_correction_names_what_it_takes_back(
    story: Story, kind: str, verdicts: list[str]
) -> None:
    for first, second in learned(story, kind):
        assert [first.verdict, second.verdict] == verdicts
        assert (first.supersedes, second.supersedes) == (None, first.training_seq)


def test_a_label_of_an_unknown_transaction_waits_and_is_then_a_dead_letter(story: Story) -> None:
    waited = [
        record for place, record in story.label_letters.items() if place not in story.bad_labels
    ]
    ids = {json.loads(record.value)["transaction_id"] for record in waited}

    assert ids == {f"never-{partition}" for partition in range(story.settings.partitions)}
    for record in waited:
        headers = said(record)
        assert (headers["reason"], headers["stage"]) == ("unknown_transaction", "label")
        assert headers["place"] == "$.transaction_id"


def test_a_bad_label_is_a_dead_letter_with_its_reason(story: Story) -> None:
    for place, (reason, (_, key, value)) in story.bad_labels.items():
        letter = story.label_letters[place]

        assert (said(letter)["reason"], said(letter)["stage"]) == (reason, "label")
        if reason != "card_number":
            assert (letter.key, letter.value) == (key, value)
        assert CARD_NUMBER.encode() not in (letter.value or b"")


def test_only_what_was_approved_matures_and_only_without_a_label(story: Story) -> None:
    matured = [example for example in story.training if example.source == "matured"]

    assert "matured" not in story.before_maturity
    assert {story.decided[name].action for name in story.approved} == {"approve"}
    assert {example.transaction_id for example in matured} == {
        name
        for name, is_spoken_for in story.approved.items()
        if not is_spoken_for and not name.endswith("-2")
    }
    assert {example.verdict for example in matured} == {"genuine"}
    assert {example.action for example in matured} == {"approve"}
    # The watermark has passed thousands of declined ones as well.
    declined = [item for item in story.decided.values() if item.action == "decline"]
    assert len(declined) > GOOD


def test_a_worker_listens_on_its_metrics_port_alone(story: Story) -> None:
    assert story.listening == [("127.0.0.1", story.metrics_port)]


def test_a_signal_ends_a_worker_soon_and_well(story: Story) -> None:
    assert [ending.exit_code for ending in story.endings] == [0, 0]
    assert max(ending.seconds for ending in story.endings) < 10.0


SESSION_SECONDS = 3
RATE = 600
SEED = 20
KILLS = 2


@dataclass
class Upheaval:
    """A stream during which workers come, leave and are killed."""

    settings: Settings
    redis: redis.Redis
    shared: list[float] = field(default_factory=list)
    held_before: set[str] = field(default_factory=set)
    held_after: set[str] = field(default_factory=set)
    ending: Ending | None = None
    published: Published | None = None

    def decided(self) -> int:
        """Give how far all partitions are committed, taken together."""
        positions = [self.redis.get(f"pos:{TRANSACTIONS}:{p}") for p in self.partitions]
        return sum(int((position or b"0").split(b":")[0]) for position in positions)

    @property
    def partitions(self) -> range:
        return range(self.settings.partitions)

    @cached_property
    def transactions(self) -> list[ConsumerRecord]:
        return read(self.settings, TRANSACTIONS)

    @cached_property
    def decisions(self) -> list[ConsumerRecord]:
        return read(self.settings, DECISIONS)


@contextmanager
def published(upheaval: Upheaval) -> Iterator[None]:
    """Publish for the length of the block."""
    ended = threading.Event()
    world = SimulatorOptions(customers=500, terminals=200, days=1_000)

    def run() -> None:
        upheaval.published = publish(
            simulate(world),
            CARD,
            upheaval.settings.kafka_servers,
            pace=Pace(rate=RATE),
            watch=Watch(stop=ended.is_set),
        )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def held(worker: Running) -> set[str]:
    """Give the partitions that a worker has decided in and still holds."""
    return set(worker.samples("fraud_watermark_timestamp_seconds"))


def go_through(upheaval: Upheaval, processes: Processes) -> None:
    """Two share; one is asked to go, then one after the other is killed at a random moment."""
    chance = random.Random(SEED)
    first, second = processes.ready("worker", "worker")
    with published(upheaval):
        wait_until(lambda: len(held(first)) == len(held(second)) == 2, "two workers share")
        upheaval.held_before = held(first) | held(second)
        upheaval.shared = [worker.total("fraud_events_total") for worker in (first, second)]
        upheaval.ending = first.end()
        wait_until(lambda: len(held(second)) == 4, "the second has all partitions")
        upheaval.held_after = held(second)
        victim = second
        for _ in range(KILLS):
            [successor] = processes.ready("worker")
            target = upheaval.decided() + chance.randrange(RATE)
            wait_until(lambda at=target: upheaval.decided() >= at, "some more are decided")  # type: ignore[misc]
            victim.started.process.kill()
            wait_until(lambda item=successor: len(held(item)) == 4, "the next has all")  # type: ignore[misc]
            victim = successor
    assert upheaval.published is not None
    published_count = upheaval.published.transactions
    with closing(Log(upheaval.settings, DECISIONS)) as log:

        def all_are_decided() -> bool:
            return len({record.key for record in log.read()}) >= published_count

        wait_until(all_are_decided, "all are decided", seconds_max=DECIDED_SECONDS_MAX)


@pytest.fixture(scope="module")
def upheaval(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upheaval]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("upheaval")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        kafka_session_seconds=float(SESSION_SECONDS),
        batch_events_max=100,
    )
    reset(stack, settings)
    with redis.from_url(stack.redis_url) as client:
        upheaval = Upheaval(settings, client)
        with Processes(settings) as processes:
            go_through(upheaval, processes)
        yield upheaval


def test_two_workers_share_the_partitions(upheaval: Upheaval) -> None:
    assert len(upheaval.held_before) == upheaval.settings.partitions
    assert min(upheaval.shared) > 0


def test_the_partitions_of_a_worker_that_ends_move(upheaval: Upheaval) -> None:
    assert upheaval.ending is not None and upheaval.ending.exit_code == 0
    assert upheaval.held_after == upheaval.held_before


def test_whoever_is_killed_everything_is_decided_exactly_once(upheaval: Upheaval) -> None:
    ids = [json.loads(record.value)["transaction_id"] for record in upheaval.transactions]
    values = values_by_id(upheaval.decisions)

    assert upheaval.published is not None and upheaval.published.failed == 0
    assert len(ids) == len(set(ids)) == upheaval.published.transactions
    assert set(values) == {name.encode() for name in ids}
    assert all(len(different) == 1 for different in values.values())


def test_what_is_decided_stays_in_the_order_of_its_log(upheaval: Upheaval) -> None:
    seen: dict[bytes, None] = dict.fromkeys(record.key for record in upheaval.decisions)
    found = decode_decisions(
        next(iter(different)) for different in values_by_id(upheaval.decisions).values()
    )
    sources = {item.transaction_id.encode(): item.source for item in found if item is not None}
    for partition in upheaval.partitions:
        offsets = [sources[key][2] for key in seen if sources[key][1] == partition]
        assert offsets == list(range(len(offsets)))


def test_positions_and_state_moved_together(upheaval: Upheaval) -> None:
    """Fold each partition's log in memory: every stored row is the same byte for byte."""
    write_rows_back(upheaval.settings.redis_url, CARD)
    learner = Learner(CARD, "", ())
    rings, probes = bucket_table(), [probe_table() for _ in CARD.probed]
    for partition in upheaval.partitions:
        values = [r.value for r in upheaval.transactions if r.partition == partition]
        batch, rows, rejected = TransactionDecoder(CARD).decode(values)
        profiles = MemoryProfiles(CARD, learner.profiles)
        engine = Engine(CARD, upheaval.settings, profiles, MemoryWaiting(1))
        engine.adopt(Version(make_model("additive", engine.kernel.names), 0))
        decisions = engine.decide(batch)
        assert (len(decisions), len(rows), rejected) == (len(values), len(values), [])

        cards = list(dict.fromkeys(batch.keys[0]))
        view = profiles.open(batch).traffic
        slots = dict(zip(batch.keys[0], view.slots.tolist(), strict=True))
        names = [f"c:{partition}:{card}" for card in cards]
        stored = [
            unsealed(name, blob or b"")[: TRAFFIC.itemsize]
            for name, blob in zip(names, upheaval.redis.mget(names), strict=True)
        ]
        folded = [view.values[slots[card]].tobytes() for card in cards]
        different = [card for card, a, b in zip(cards, stored, folded, strict=True) if a != b]
        assert different == []
        stored_position = upheaval.redis.get(f"pos:{TRANSACTIONS}:{partition}") or b""
        assert stored_position.split(b":")[0] == str(len(values)).encode()
        assert len(list(upheaval.redis.scan_iter(f"c:{partition}:*", count=1_000))) == len(cards)
        add_to_rings(rings, batch, unusual_amounts(decisions.features, CARD))
        add_to_probes(probes, batch)
    assert_rings_are("r:terminal:", rings, upheaval.redis)
    for entity, table in zip(CARD.probed, probes, strict=True):
        assert_rings_are(f"p:{entity.name}:", table, upheaval.redis)


def add_to_rings(rings: Table, batch: Transactions, unusual: NDArray[np.int8]) -> None:
    """Count events into the buckets of their terminals, as any order of them must."""
    slots = rings.slots(batch.keys[1])
    columns = (batch.event_time_ms, batch.amount_minor, unusual)
    for slot, time_ms, amount, odd in zip(
        slots, *(column.tolist() for column in columns), strict=True
    ):
        ring = rings.rows[slot]
        hour, day = time_ms // HOUR_MS, time_ms // DAY_MS
        add_to_bucket(ring, hour % HOUR_SLOTS, hour, 1, amount, odd)
        add_to_bucket(ring, HOUR_SLOTS + day % DAY_SLOTS, day, 1, amount, odd)


def add_to_probes(probes: list[Table], batch: Transactions) -> None:
    """Record events in the rows of card testing of their card and their terminal."""
    assert CARD.small_amount_minor is not None
    small, declined = batch.amount_minor <= CARD.small_amount_minor, declined_of(batch)
    for number, table in enumerate(probes):
        slots = table.slots(batch.keys[number])
        places = places_of(batch.keys[1 - number])
        for row, slot in enumerate(slots.tolist()):
            hour = batch.event_time_ms[row] // HOUR_MS
            rows = table.rows
            hours, seen = rows["hours"][slot], rows["seen"][slot]
            add_probe(hours, seen, hour, small[row], declined[row], places[row])


def assert_rings_are(prefix: str, rings: Table, client: redis.Redis) -> None:
    stored = client.mget([prefix + key for key in rings.ids])
    size = rings.rows[:1].nbytes
    different = [
        key
        for key, blob in zip(rings.ids, stored, strict=True)
        if unsealed(prefix + key, blob or b"")[:size] != rings.blob(key)
    ]

    assert different == []
