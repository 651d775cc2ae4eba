"""A worker that finds weeks of events and labels waiting: none is given up, none waits long."""

import pytest
import redis

from pipeline.durations import DAY_MS
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, FEEDBACK, TRANSACTIONS
from tests.integration.processes import Processes, hashes, keyed, read, send
from tests.strategies import MONDAY_MS, event_bytes, label_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAYS = 20
# Some seconds of work: whoever starts a moment later must not look as if he were kept waiting.
BACKLOG = 20_000
CARDS = 200


def test_labels_of_a_batch_of_many_days_all_find_their_decision(settings: Settings) -> None:
    """Its first labels are days older than its newest event, before its decisions are indexed."""
    events, labels = [], []
    for day in range(DAYS):
        moment = MONDAY_MS + day * DAY_MS
        event = event_bytes(transaction_id=f"t{day}", event_time=moment)
        told = label_bytes(label_id=f"l{day}", transaction_id=f"t{day}", label_time=moment + 1)
        events.append(keyed(settings, "c1", event))
        labels.append(keyed(settings, "c1", told))
    send(settings, TRANSACTIONS, events)
    send(settings, FEEDBACK, labels)

    with redis.from_url(settings.redis_url) as client, Processes(settings) as processes:
        processes.ready("worker")

        def settled() -> int:
            ledgers = hashes(client, "ledger", settings.partitions)
            return sum(int(ledger.get(p, 0)) for ledger in ledgers for p in ("learned", "unknown"))

        wait_until(lambda: settled() == DAYS, "every label is settled", seconds_max=60.0)

    assert read(settings, DEAD_LETTERS) == []


def test_labels_and_events_of_a_backlog_go_on_side_by_side(settings: Settings) -> None:
    """Half of the labels speak of what was decided before, half of what waits as well."""
    ids = [f"t{number}" for number in range(2 * BACKLOG)]
    cards = [f"c{number % CARDS}" for number in range(2 * BACKLOG)]
    moments = [MONDAY_MS + number * 60_000 for number in range(2 * BACKLOG)]
    events = [
        keyed(settings, card, event_bytes(transaction_id=name, event_time=moment, card_id=card))
        for name, card, moment in zip(ids, cards, moments, strict=True)
    ]
    labels = [
        keyed(settings, card, label_bytes(
            label_id=f"l-{name}", transaction_id=name, card_id=card, label_time=moment + DAY_MS
        ))
        for name, card, moment in zip(ids, cards, moments, strict=True)
    ]  # fmt: skip
    shares: list[tuple[float, float]] = []
    with redis.from_url(settings.redis_url) as client, Processes(settings) as processes:

        def decided() -> int:
            positions = client.mget([f"pos:transactions:{p}" for p in range(settings.partitions)])
            return sum(int((position or b"0").split(b":")[0]) for position in positions)

        def learned() -> int:
            ledgers = hashes(client, "ledger", settings.partitions)
            return sum(int(ledger.get("learned", 0)) for ledger in ledgers)

        def is_done() -> bool:
            shares.append((decided() / BACKLOG - 1, learned() / len(labels)))
            return shares[-1] == (1, 1)

        send(settings, TRANSACTIONS, events[:BACKLOG])
        [worker] = processes.ready("worker")
        wait_until(lambda: decided() == BACKLOG, "the first half is decided", seconds_max=60.0)
        assert worker.end().exit_code == 0
        send(settings, FEEDBACK, labels)
        send(settings, TRANSACTIONS, events[BACKLOG:])
        processes.ready("worker")
        wait_until(is_done, "all is decided and learned", seconds_max=120.0)

    # Whichever is done first has not kept the other waiting.
    assert min(next(pair for pair in shares if 1 in pair)) > 0.25, shares
    assert read(settings, DEAD_LETTERS) == []
