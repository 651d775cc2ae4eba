"""A worker that finds weeks of events and labels waiting: one batch, and no label is given up."""

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
