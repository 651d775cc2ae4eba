"""The index of waiting decisions on a real Redis: what each writer adds, its size, its bound."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
import redis

from consumers.redis_store import RedisStore
from consumers.waiting_store import (
    SWEEPS_A_LIMIT,
    index_changes,
    load_entries,
    outcome_change,
    verdict_changes,
)
from pipeline.commit import Change, OutboxRecord, Stored
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS
from pipeline.verdicts import settle
from pipeline.waiting_index import IndexEntry
from tests.strategies import label

pytestmark = pytest.mark.integration

Run = Callable[[Coroutine[Any, Any, Any]], Any]
VERDICT = settle(None, label(), training_seq=3)[1]
LIMIT = 1_000_000
BATCH = 1_000


class Index:
    """The index of partition 2, changed by one commit after the other."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.redis = redis.from_url(settings.redis_url)
        self._store = RedisStore(settings.redis_url, retry_seconds_max=5)
        self._run = run
        self._steps = 0

    def commit(self, *changes: Change) -> None:
        expected = str(self._steps) if self._steps else None
        self._steps += 1
        stored = Stored(str(self._steps), b"")
        assert self._run(self._store.commit("test", expected, stored, changes))

    def entry(self, name: str) -> IndexEntry | None:
        entries, _ = self._run(load_entries(self._store, 2, [name]))
        return entries.get(name)

    @property
    def entries(self) -> int:
        return int(self.redis.hget("index:2", "entries") or 0)

    def decide(self, first: int, count: int, *, limit: int = LIMIT) -> None:
        for start in range(first, first + count, BATCH):
            stop = min(start + BATCH, first + count)
            landed = [(decided(f"t{number}"), number) for number in range(start, stop)]
            self.commit(*index_changes(2, landed, limit=limit))

    def close(self) -> None:
        self.redis.close()
        self._run(self._store.close())


def decided(name: str, topic: str = DECISIONS) -> OutboxRecord:
    return OutboxRecord(topic, 2, name.encode(), b"{}")


@pytest.fixture
def index(settings: Settings) -> Iterator[Index]:
    with asyncio.Runner() as runner:
        index = Index(settings, runner.run)
        yield index
        index.close()


def landed(*names: str, at: int = 7) -> Sequence[Change]:
    return index_changes(2, [(decided(name), at) for name in names], limit=LIMIT)


def test_a_decision_is_found_where_it_landed(index: Index) -> None:
    index.commit(*landed("t1", at=70_000_000_000))

    assert index.entry("t1") == IndexEntry(70_000_000_000, True, None, None)
    assert index.entry("t2") is None
    assert index.entries == 1


def test_a_decision_that_was_published_again_keeps_what_is_known(index: Index) -> None:
    index.commit(*landed("t1", at=7))
    index.commit(outcome_change(2, "t1", "settled"), *verdict_changes(2, {"t1": VERDICT}))
    index.commit(*landed("t1", at=9))

    assert index.entry("t1") == IndexEntry(9, True, "settled", VERDICT)
    assert index.entries == 1


def test_an_outcome_that_comes_first_waits_for_its_decision(index: Index) -> None:
    index.commit(*landed("t0", at=5), outcome_change(2, "t1", "issuer_declined"))
    assert index.entry("t1") == IndexEntry(5, False, "issuer_declined", None)

    index.commit(*landed("t1", at=8))

    assert index.entry("t1") == IndexEntry(8, True, "issuer_declined", None)
    assert index.entries == 2


def test_the_latest_outcome_counts(index: Index) -> None:
    index.commit(*landed("t1"), outcome_change(2, "t1", "approved"))
    index.commit(outcome_change(2, "t1", "refunded"))

    assert index.entry("t1") == IndexEntry(7, True, "refunded", None)


def test_a_verdict_ends_the_wait_for_an_analyst_and_makes_no_entry(index: Index) -> None:
    index.commit(("ZADD", "review:2", "0.5", "t1"), ("HSET", "alert:2", "t1", b"decision"))
    index.commit(*verdict_changes(2, {"t1": VERDICT}))

    assert index.entry("t1") is None
    assert not index.redis.exists("review:2", "alert:2")


def test_what_is_no_decision_is_not_indexed(index: Index) -> None:
    letters = [(decided("t1", DEAD_LETTERS), 1), (OutboxRecord(DECISIONS, 2, None, b""), 2)]

    assert index_changes(2, letters, limit=LIMIT) == []


def test_beyond_the_limit_the_alert_of_the_lowest_score_goes(index: Index) -> None:
    for score in (0.5, 0.9, 0.2):
        name = f"t{score}"
        index.commit(
            ("ZADD", "review:2", str(score), name),
            ("HSET", "alert:2", name, b"decision"),
            ("ALERTS", 2, 2),
        )

    assert index.redis.zrange("review:2", 0, -1) == [b"t0.5", b"t0.9"]
    assert set(index.redis.hkeys("alert:2")) == {b"t0.5", b"t0.9"}
    assert index.redis.hget("ledger:2", "alerts_dropped") == b"1"


def test_a_decision_that_waits_takes_at_most_forty_bytes(index: Index) -> None:
    index.decide(0, BATCH)
    before = index.redis.info("memory")["used_memory"]
    index.decide(BATCH, 300_000)
    grown = index.redis.info("memory")["used_memory"] - before

    assert index.entries == 300_000 + BATCH
    assert grown / 300_000 <= 40


def test_at_the_limit_the_oldest_go_and_those_that_waited_are_counted(index: Index) -> None:
    limit = 20_000
    index.decide(0, limit, limit=limit)
    index.commit(*verdict_changes(2, {f"t{number}": VERDICT for number in range(0, 1_000, 2)}))
    assert index.entries == limit
    index.decide(limit, 2 * limit, limit=limit)

    entries = index.entries
    expired = int(index.redis.hget("ledger:2", "expired") or 0)
    assert limit <= entries <= limit + limit / SWEEPS_A_LIMIT
    assert expired + 500 == 3 * limit - entries
    assert index.entry("t0") is None
    assert index.entry(f"t{2 * limit}") is not None
    assert index.entry(f"t{3 * limit - 1}") is not None
