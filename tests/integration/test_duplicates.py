"""A producer that repeats itself: the worker decides what a replay of the same file decides.

One partition, so that the features are the same bytes as well; the worker is killed half-way.
"""

import signal
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from models import make_model
from pipeline.engine import Decisions, Engine, Version
from pipeline.events import Transactions
from pipeline.feedback import MemoryWaiting
from pipeline.profiles import LearnedProfiles, MemoryProfiles
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRANSACTIONS
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, read, send
from tests.resetting import reset
from tests.strategies import CARD, MONDAY_MS, event_bytes, joined, traffic, visits
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS = 1_500


def repeating() -> Transactions:
    """Give two weeks of events: some come again, soon or after any time, some with changes."""
    whole, chance = traffic(3, EVENTS), np.random.default_rng(4)
    numbers = np.arange(EVENTS)
    soon = np.maximum(numbers - chance.integers(1, 5, EVENTS), 0)
    ever = chance.integers(0, numbers + 1)
    again = np.where(chance.random(EVENTS) < 0.5, soon, ever)
    batch = whole.take(np.where(chance.random(EVENTS) < 0.3, again, numbers))
    batch = replace(batch, amount_minor=batch.amount_minor + (chance.random(EVENTS) < 0.05))
    # Near duplicates: the same card, terminal and amount within seconds, under other ids.
    times = [int(batch.event_time_ms.max()) + second * 1_000 for second in range(3)]
    return joined(batch, visits(times, ids=["near-1", "near-2", "near-3"]))


def wire_form(batch: Transactions, row: int) -> bytes:
    """Give an event as a producer sends it."""
    amount = f"{batch.amount_minor[row] // 100}.{batch.amount_minor[row] % 100:02d}"
    is_declined = batch.declined is not None and batch.declined[row]
    return event_bytes(
        transaction_id=batch.transaction_id[row],
        event_time=int(batch.event_time_ms[row]),
        card_id=batch.keys[0][row],
        terminal_id=batch.keys[1][row],
        amount=amount,
        response_code="05" if is_declined else "00",
    )


@dataclass
class Live:
    """What a worker made of the file, and what a replay makes of it."""

    batch: Transactions
    expected: Decisions
    decided: dict[int, DecisionRecord] = field(default_factory=dict)
    conflicts: list[int] = field(default_factory=list)
    reasons: set[bytes] = field(default_factory=set)
    duplicates: float = 0.0


@pytest.fixture(scope="module")
def live(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Live:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("duplicates")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        partitions=1,
        batch_events_max=64,
    )
    reset(stack, settings)
    batch = repeating()
    engine = Engine(CARD, settings, MemoryProfiles(CARD, LearnedProfiles(CARD)), MemoryWaiting(100))
    engine.adopt(Version(make_model("additive", engine.kernel.names), 0))
    live = Live(batch, engine.decide(batch))
    records = [(0, batch.keys[0][row].encode(), wire_form(batch, row)) for row in range(len(batch))]
    with Processes(settings) as processes:
        [first] = processes.ready("worker")
        send(settings, TRANSACTIONS, records[: EVENTS // 2])
        wait_for(settings, live.expected, EVENTS // 2)
        first.end(signal.SIGKILL)
        [second] = processes.ready("worker")
        send(settings, TRANSACTIONS, records[EVENTS // 2 :])
        wait_for(settings, live.expected, len(records))
        wait_until(
            lambda: second.total("fraud_events_total") >= len(records) - EVENTS // 2,
            "the second has taken its half",
        )
        live.duplicates = second.total("fraud_duplicate_events_total")
    found = decode_decisions(record.value for record in read(settings, DECISIONS))
    for item in found:
        # The last batch before the kill was published by the next owner as well.
        if item is not None:
            live.decided.setdefault(item.source[2], item)
    letters = {int(dict(r.headers)["fraud.errors.offset"]): r for r in read(settings, DEAD_LETTERS)}
    live.conflicts = sorted(letters)
    live.reasons = {dict(letter.headers)["fraud.errors.reason"] for letter in letters.values()}
    return live


def wait_for(settings: Settings, expected: Decisions, records: int) -> None:
    """Wait until all decisions of so many records are there."""
    rows = zip(expected.transaction_ids, expected.rows.tolist(), strict=True)
    wanted = {name for name, row in rows if row < records}
    with closing(Log(settings, DECISIONS)) as log:
        wait_until(
            lambda: wanted <= {record.key.decode() for record in log.read()},
            "all are decided",
            seconds_max=90,
        )


def test_the_stream_has_what_the_test_is_about(live: Live) -> None:
    assert len(live.expected.conflicts) > 20
    repeated = len(live.batch) - len(live.expected) - len(live.expected.conflicts)
    assert repeated > 200
    assert max(live.batch.event_time_ms) - MONDAY_MS > 8 * 86_400_000


def test_live_decides_what_a_replay_decides_once_and_with_the_same_features(live: Live) -> None:
    assert list(live.decided) == live.expected.rows.tolist()
    different = [
        item.transaction_id
        for item, name, features in zip(
            live.decided.values(),
            live.expected.transaction_ids,
            live.expected.features,
            strict=True,
        )
        if (item.transaction_id, item.features) != (name, features.astype("<f4").tobytes())
    ]
    assert different == []


def test_an_id_that_comes_after_the_window_is_decided_again(live: Live) -> None:
    names = [item.transaction_id for item in live.decided.values()]

    assert 0 < len(names) - len(set(names)) < 50


def test_contradictions_are_dead_letters_of_that_reason_alone(live: Live) -> None:
    assert live.conflicts == live.expected.conflicts.tolist()
    assert live.reasons == {b"duplicate_conflict"}


def test_near_duplicates_are_decided_each(live: Live) -> None:
    names = [item.transaction_id for item in live.decided.values()]

    assert names[-3:] == ["near-1", "near-2", "near-3"]


def test_repeated_ones_are_counted(live: Live) -> None:
    begin = EVENTS // 2
    decided = sum(row >= begin for row in live.expected.rows.tolist())
    conflicts = sum(row >= begin for row in live.conflicts)

    # Records behind the last decision of the first half may be left to the second worker.
    assert live.duplicates - (len(live.batch) - begin - decided - conflicts) in range(64)
