"""Labels on real Kafka and Redis: what nobody vouches for teaches nothing, and is kept whole."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import pytest
import redis
from kafka.consumer.fetcher import ConsumerRecord

from pipeline.keys import label_keys, retire, rotate
from pipeline.records import TrainingExample, decode_examples
from pipeline.settings import Settings
from pipeline.signing import SIGNATURE_HEADER, Headers, LabelSigner, label_mac, signature_parts
from pipeline.topics import DEAD_LETTERS, DECISIONS, FEEDBACK, TRAINING, TRANSACTIONS
from stack.servers import Endpoints
from tests.integration.processes import (
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
)
from tests.resetting import reset
from tests.strategies import MONDAY_MS, event_bytes, label_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PARTITIONS = 2
NAMES = [f"t{number}" for number in range(30)]
BAD = "bad_signature"


@dataclass
class Story:
    """A worker, what it was told, and what it left."""

    settings: Settings
    redis: redis.Redis
    worker: Running
    card: str
    sent: int = 0
    transactions: Iterator[str] = field(default_factory=lambda: iter(NAMES))
    learned_before: int = 0
    letters_before: set[Place] = field(default_factory=set)

    def begin(self) -> None:
        """Begin a test: what is looked at is what comes from now on."""
        self.learned_before += len(self.learned())
        self.letters_before |= {place_of(record) for record in self.dead()}

    def dead(self) -> list[ConsumerRecord]:
        found = read(self.settings, DEAD_LETTERS)
        return [record for record in found if place_of(record) not in self.letters_before]

    @property
    def signer(self) -> LabelSigner:
        return LabelSigner.of(self.settings)

    def label(self, **changes: object) -> Sent:
        """Give a label of a transaction that no other label speaks of."""
        name = next(self.transactions)
        given = {"label_id": f"l-{name}", "transaction_id": name, "card_id": self.card}
        given["label_time"] = MONDAY_MS + 60_000  # type: ignore[assignment]
        return keyed(self.settings, self.card, label_bytes(**(given | changes)))

    def tell(self, record: Sent, headers: Headers) -> None:
        send(self.settings, FEEDBACK, [record], headers=lambda _: headers)
        self.sent += 1

    def signed(self, record: Sent, source: str = "analyst") -> Headers:
        return self.signer.headers(source, record[1], record[2])  # type: ignore[arg-type]

    def wait(self) -> None:
        """Wait until every label has had its consequence."""

        def is_done() -> bool:
            ledger = Counter[str]()
            for part in hashes(self.redis, "ledger", PARTITIONS):
                ledger.update({name: int(count) for name, count in part.items()})
            read_of = ledger["learned"] + ledger["repeated"] + ledger["rejected"]
            return read_of == self.sent

        wait_until(is_done, f"{self.sent} labels are joined or refused")

    def letters(self) -> list[dict[str, bytes]]:
        return [dict(record.headers) for record in self.dead()]

    def reasons(self) -> Counter[str]:
        return Counter(item["fraud.errors.reason"].decode() for item in self.letters())

    def learned(self) -> list[TrainingExample]:
        found = decode_examples(record.value for record in read(self.settings, TRAINING))
        examples = {item.training_seq: item for item in found if item is not None}
        return list(examples.values())[self.learned_before :]


def place_of(letter: ConsumerRecord) -> Place:
    """Give the place of its label: a worker that starts publishes its last letters again."""
    said = dict(letter.headers)
    return int(said["fraud.errors.partition"]), int(said["fraud.errors.offset"])


@pytest.fixture(scope="module")
def told(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    ours = Settings(
        state_dir=str(tmp_path_factory.mktemp("labels")), kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url, partitions=PARTITIONS, label_linger_seconds=0.0,
    )  # fmt: skip
    reset(stack, ours)
    card = key_of(1, ours)
    events = [
        keyed(ours, card, event_bytes(transaction_id=name, card_id=card, amount=f"{number}.00"))
        for number, name in enumerate(NAMES)
    ]
    send(ours, TRANSACTIONS, events)
    with redis.from_url(stack.redis_url) as client, Processes(ours) as processes:
        [worker] = processes.ready("worker")
        with closing(Log(ours, DECISIONS)) as log:
            wait_until(lambda: len(log.read()) == len(NAMES), "all are decided")
        yield Story(ours, client, worker, card)


@pytest.fixture
def story(told: Story) -> Story:
    told.begin()
    return told


def forgeries(story: Story) -> Sequence[tuple[str, Sent, Headers]]:
    """Give a label of every kind that nobody vouches for."""
    label, signed = story.label, story.signed
    one, two, three = label(), label(), label()
    [(_, good)] = signed(one)
    key_id, _ = signature_parts(good)
    forged = label_mac(key_id, bytes(32), one[1], one[2]).hex()
    upheld = (two[0], two[1], (two[2] or b"").replace(b"fraud", b"genuine"))
    other = label(source="chargeback")
    return [
        ("unsigned", one, []),
        ("forged", one, [(SIGNATURE_HEADER, f"{key_id}:{forged}".encode())]),
        ("of another label", three, signed(one)),
        ("flipped", upheld, signed(two)),
        ("unknown key", one, [(SIGNATURE_HEADER, b"analyst-9-0000:" + good.partition(b":")[2])]),
        ("wrong source", other, signed(other, "analyst")),
        ("two signatures", one, [*signed(one), *signed(one)]),
        ("empty", (one[0], one[1], None), []),
        ("the labeller's own", own := label(source="matured"), signed(own, "analyst")),
    ]


def test_only_what_is_vouched_for_is_learned(story: Story) -> None:
    bad = forgeries(story)
    for _, record, headers in bad:
        story.tell(record, headers)
    good = story.label(source="customer")
    story.tell(good, story.signed(good, "customer"))
    story.wait()

    assert [item.source for item in story.learned()] == ["customer"]
    letters = story.letters()
    assert [item["fraud.errors.reason"] for item in letters] == [BAD.encode()] * len(bad)
    said = [item["fraud.errors.message"].decode() for item in letters]
    assert "got 0 of them" in said[0]
    assert all("expected the signature of these bytes by analyst-" in text for text in said[1:4])
    assert "expected KEYID:hex of a known key" in said[4]
    assert "at $.source: expected analyst, whose key signed, got chargeback" in said[5]
    assert "got 2 of them" in said[6]
    # The bytes and the signature are kept as they came.
    for (_, record, headers), found, letter in zip(bad, story.dead(), letters, strict=True):
        assert (found.key, found.value) == record[1:]
        assert [letter[SIGNATURE_HEADER] for _ in headers[:1]] == [text for _, text in headers[:1]]
    assert story.worker.samples("fraud_dead_letters_total")['reason="bad_signature"'] >= len(bad)


def test_a_signed_label_that_is_replayed_changes_nothing(story: Story) -> None:
    before = story.worker.samples("fraud_label_paths_total")
    record = story.label()
    headers = story.signed(record)
    for _ in range(3):
        story.tell(record, headers)
    elsewhere = (1 - record[0], *record[1:])
    story.tell(elsewhere, headers)
    story.wait()

    assert len(story.learned()) == 1
    paths = story.worker.samples("fraud_label_paths_total")
    assert {name: paths[name] - before[name] for name in paths if paths[name] != before[name]} == {
        'path="learned"': 1,
        'path="repeated"': 2,
    }
    assert story.reasons() == {"wrong_partition": 1}


def test_keys_are_rotated_and_retired_under_a_worker_that_runs(story: Story) -> None:
    keys_dir = story.settings.keys_path
    [old] = [name for name in label_keys(keys_dir).ids if name.startswith("analyst-")]
    first = story.label()
    by_old = story.signed(first)
    new = rotate(keys_dir, "analyst")
    second, third = story.label(), story.label()
    story.tell(second, story.signed(second))
    story.tell(first, by_old)
    story.wait()
    assert len(story.learned()) == 2
    assert signature_parts(story.signed(second)[0][1])[0] == new

    mac = label_mac(old, label_keys(keys_dir).get(old) or b"", third[1], third[2]).hex()
    retire(keys_dir, old)
    story.tell(third, [(SIGNATURE_HEADER, f"{old}:{mac}".encode())])
    story.tell(fourth := story.label(), story.signed(fourth))
    story.wait()

    assert len(story.learned()) == 3
    assert story.reasons() == {BAD: 1}


def test_a_label_that_waits_is_not_checked_again(story: Story) -> None:
    """A key is retired while a label waits; the next owner joins it, since it was accepted.

    The last of these tests: it ends the worker.
    """
    early = keyed(story.settings, story.card, label_bytes(
        label_id="early", transaction_id="late", card_id=story.card, label_time=MONDAY_MS,
    ))  # fmt: skip
    send(story.settings, FEEDBACK, [early])
    wait_until(lambda: story.redis.hlen("pend:1") == 1, "the label waits")
    [*_, old] = [name for name in label_keys(story.settings.keys_path).ids if "analyst" in name]
    rotate(story.settings.keys_path, "analyst")
    retire(story.settings.keys_path, old)
    story.worker.end()

    with Processes(story.settings) as processes:
        processes.ready("worker")
        late = event_bytes(transaction_id="late", card_id=story.card)
        send(story.settings, TRANSACTIONS, [keyed(story.settings, story.card, late)])
        wait_until(lambda: bool(story.learned()), "the label is joined")

    assert [item.label_id for item in story.learned()] == ["early"]
    assert story.redis.hlen("pend:1") == 0
    assert story.letters() == []
