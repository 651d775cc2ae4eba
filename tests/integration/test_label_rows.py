"""The rows about labels, told to a real worker: what becomes of each is in its ledger and log."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import msgspec
import pytest
import redis

from pipeline.events import Label
from pipeline.feedback_encoding import encode_label
from pipeline.records import TrainingExample, decode_examples
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, FEEDBACK, TRAINING, TRANSACTIONS
from stack.servers import Endpoints
from tests.armour.labels import LABELS, REFUSED, Said
from tests.integration.processes import Log, Place, Processes, hashes, key_of, keyed, read, send
from tests.resetting import reset
from tests.strategies import CARD, event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# What only the labeller itself says is refused on feedback, whoever signs it.
SPOKEN = [case for case in LABELS if all(label.source != "matured" for label in case.labels)]

PARTITION = 1
ANSWER_SECONDS_MAX = 60.0


@dataclass
class Told:
    """What a worker made of all rows."""

    ledger: Counter[str]
    waiting: int
    examples: list[TrainingExample]
    refused: list[Place]
    reasons: dict[Place, tuple[str, str]]


def named(row: int, text: str) -> str:
    return f"r{row}-{text}"


def of_row(row: int, label: Label, card: str) -> Label:
    """Give a label of a row's own transactions."""
    supersedes = None if label.supersedes is None else named(row, label.supersedes)
    return msgspec.structs.replace(
        label,
        label_id=named(row, label.label_id),
        transaction_id=named(row, label.transaction_id),
        key=card,
        supersedes=supersedes,
    )


def wait_for(settings: Settings, client: redis.Redis, topic: str) -> None:
    with closing(Log(settings, topic)) as log:
        end = log.ends[PARTITION]

    def is_done() -> bool:
        stored = client.get(f"pos:{topic}:{PARTITION}") or b"0"
        return int(stored.split(b":")[0]) == end

    wait_until(is_done, f"all of {topic} is committed", seconds_max=ANSWER_SECONDS_MAX)


@pytest.fixture(scope="module")
def told(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("labels")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        event_age_days_max=0.0,
    )
    reset(stack, settings)
    card = key_of(PARTITION, settings)
    events = [
        event_bytes(transaction_id=named(row, name), card_id=card)
        for row in range(len(SPOKEN))
        for name in ("t1", "t2")
    ]
    labels = [of_row(row, label, card) for row, case in enumerate(SPOKEN) for label in case.labels]
    with redis.from_url(stack.redis_url) as client, Processes(settings) as processes:
        processes.ready("worker")
        send(settings, TRANSACTIONS, [keyed(settings, card, value) for value in events])
        wait_for(settings, client, TRANSACTIONS)
        send(settings, FEEDBACK, [keyed(settings, card, encode_label(x, CARD)) for x in labels])
        refused = send(settings, FEEDBACK, [(PARTITION, card.encode(), r.value) for r in REFUSED])
        wait_for(settings, client, FEEDBACK)
        # Those whose decision is there are joined once it is in the index.
        unknown = sum(path == "unknown" for case in SPOKEN for path in case.paths)
        place = f"pend:{PARTITION}"
        wait_until(lambda: client.hlen(place) == unknown, "the others wait no longer")
        found = hashes(client, "ledger", settings.partitions)[PARTITION]
        ledger = Counter({name: int(count) for name, count in found.items()})
        waiting = client.hlen(place)
    examples = [item for item in decode_examples(r.value for r in read(settings, TRAINING)) if item]
    reasons = {}
    for record in read(settings, DEAD_LETTERS):
        said = {name.removeprefix("fraud.errors."): text.decode() for name, text in record.headers}
        place = int(said["partition"]), int(said["offset"])
        reasons[place] = said["reason"], said["place"]
    yield Told(ledger, waiting, examples, refused, reasons)


def test_the_ledger_counts_what_the_rows_say(told: Told) -> None:
    expected = Counter(path for case in SPOKEN for path in case.paths)

    # Labels of unknown transactions wait for them first.
    assert told.waiting == expected.pop("unknown")
    assert {path: told.ledger[path] for path in expected} == dict(expected)
    assert told.ledger["rejected"] == len(REFUSED)


@pytest.mark.parametrize("case", SPOKEN, ids=lambda case: case.name)
def test_the_verdict_in_force_is_what_was_learned_last(told: Told, case: Said) -> None:
    name = named(SPOKEN.index(case), "t1")
    learned = [item for item in told.examples if item.transaction_id == name]

    taught = sum(
        path in ("learned", "corrected")
        for path, label in zip(case.paths, case.labels, strict=True)
        if label.transaction_id == "t1"
    )
    assert len(learned) == taught
    assert (learned[-1].is_fraud if learned else None) == case.is_fraud
    assert [item.supersedes for item in learned[1:]] == [item.training_seq for item in learned[:-1]]


def test_every_bad_label_is_a_dead_letter_with_reason_and_place(told: Told) -> None:
    assert told.reasons == {
        place: (row.reason, row.place) for place, row in zip(told.refused, REFUSED, strict=True)
    }
