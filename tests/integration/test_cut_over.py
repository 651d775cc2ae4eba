"""Where workers begin after a history: what is refused, what is counted, what is set aside."""

import csv
import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from consumers.cut_over import named_offsets
from pipeline.durations import DAY_MS
from pipeline.errors import SettingError
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, TRANSACTIONS
from producers.batch import EventBatch, joined
from producers.encoding import TransactionEncoder
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, key_of, keyed, read, send
from tests.integration.test_backfill import changed, done, past, run, write
from tests.resetting import reset
from tests.strategies import CARD, event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS = 1_700


@pytest.fixture
def ours(stack: Endpoints, settings: Settings) -> Settings:
    found = changed(settings)
    reset(stack, found)
    return found


@pytest.fixture
def events() -> EventBatch:
    return past().slice(0, EVENTS)


def publish(settings: Settings, events: EventBatch) -> None:
    values = TransactionEncoder(CARD).encode(events)
    records = [keyed(settings, key, v) for key, v in zip(events.keys[0], values, strict=True)]
    send(settings, TRANSACTIONS, records)


def publish_new(settings: Settings, *numbers: int) -> None:
    """Publish transactions that no file has, in partition 0 and of the day after the last."""
    card = key_of(0, settings)
    first_ms = int(past().event_time_ms[EVENTS])
    values = [
        event_bytes(transaction_id=f"new{n}", card_id=card, event_time=first_ms + n * 1_000)
        for n in numbers
    ]
    send(settings, TRANSACTIONS, [(0, card.encode(), value) for value in values])


def position(settings: Settings, p: int) -> bytes | None:
    with redis.from_url(settings.redis_url) as client:
        found: bytes | None = client.get(f"pos:{TRANSACTIONS}:{p}")
        return found


def test_what_would_be_left_out_is_counted_and_refused_until_it_is_allowed(
    ours: Settings, events: EventBatch, tmp_path: Path
) -> None:
    file = str(write(tmp_path / "past.csv", events))
    publish(ours, events.slice(EVENTS - 10, EVENTS))
    publish_new(ours, 1, 2, 3)

    refused = run(ours, file)
    assert refused.exit_code == 1
    assert "3 transactions before the cut-over position are not in the file" in str(
        refused.exception
    )
    assert position(ours, 0) == b"history"

    said = done(run(ours, file, "--allow-gap"))
    assert (said["live"]["gap"], said["live"]["skipped"]) == (3, 10)
    assert said["resumed"]
    with closing(Log(ours, TRANSACTIONS)) as log:
        assert [position(ours, p) for p in range(2)] == [
            f"{log.ends[p]}:0".encode() for p in (0, 1)
        ]


def test_from_the_beginning_on_what_is_in_the_file_is_known_and_what_is_not_is_decided(
    ours: Settings, events: EventBatch, tmp_path: Path
) -> None:
    file = str(write(tmp_path / "past.csv", events))
    publish(ours, events.slice(EVENTS - 10, EVENTS))
    publish_new(ours, 1, 2, 3)

    said = done(run(ours, file, "--cut-over", "beginning"))

    assert (said["live"]["repeated"], said["live"]["fresh"], said["live"]["gap"]) == (10, 3, 0)
    with closing(Log(ours, TRANSACTIONS)) as log, Processes(ours) as processes:
        [worker] = processes.ready("worker")
        ends = log.ends
        wait_until(
            lambda: all((position(ours, p) or b"").startswith(b"%d:" % ends[p]) for p in ends),
            "the worker has caught up",
        )
        assert worker.total("fraud_duplicate_events_total") == 10
    decided = [json.loads(r.value)["transaction_id"] for r in read(ours, DECISIONS)]
    assert len(decided) == len(set(decided)) == EVENTS + 3
    assert {"new1", "new2", "new3"} <= set(decided)


def test_what_would_be_decided_twice_is_refused(
    ours: Settings, events: EventBatch, tmp_path: Path
) -> None:
    file = str(write(tmp_path / "past.csv", events))
    assert events.event_time_ms[-1] - events.event_time_ms[5] > 8 * DAY_MS
    publish(ours, events.slice(0, 5))

    refused = run(ours, file, "--cut-over", "beginning")

    assert "5 transactions from the cut-over position on are in the file" in str(refused.exception)
    assert done(run(ours, file, "--cut-over", "end"))["live"]["skipped"] == 5


def test_a_position_is_named_in_four_ways(ours: Settings, events: EventBatch) -> None:
    def named(text: str) -> list[int]:
        return list(named_offsets(ours.kafka_servers, 2, text).values())

    publish(ours, events.slice(0, 20))
    with closing(Log(ours, TRANSACTIONS)) as log:
        first = dict(log.ends)
        last_ms = max(record.timestamp for record in log.read())
    wait_until(lambda: datetime.now(UTC).timestamp() * 1000 > last_ms + 2, "time has passed")
    publish(ours, events.slice(20, 50))
    with closing(Log(ours, TRANSACTIONS)) as log:
        ends = log.ends
    moment = datetime.fromtimestamp((last_ms + 1) / 1000, UTC).isoformat()

    assert named("beginning") == [0, 0]
    assert named("end") == [ends[0], ends[1]]
    assert sum(named("end")) == 50
    assert named(f"1:2,0:{ends[0]}") == [ends[0], 2]
    assert named(moment) == [first[0], first[1]]
    assert named("2099-01-01T00:00:00Z") == named("end")
    for wrong in ("0:1", "0:1,1:1,2:1", f"0:1,1:{ends[1] + 1}", "yesterday"):
        with pytest.raises(SettingError, match="--cut-over"):
            named(wrong)


def test_a_store_or_a_topic_that_something_has_run_on_is_refused(
    ours: Settings, events: EventBatch, tmp_path: Path
) -> None:
    file = str(write(tmp_path / "past.csv", events))
    with redis.from_url(ours.redis_url) as client:
        client.set("pos:transactions:1", "7:0")
        assert "a system has run on this Redis (pos:transactions:1" in str(
            run(ours, file).exception
        )
        assert sorted(client.keys()) == [b"pos:transactions:1"]
        client.delete("pos:transactions:1")
        send(ours, DECISIONS, [(0, None, b"{}")])
        assert "decisions holds 1 records" in str(run(ours, file).exception)
        assert client.keys() == []


def test_what_is_wrong_with_a_file_is_counted_and_written_with_its_rows(
    ours: Settings, events: EventBatch, tmp_path: Path
) -> None:
    again, other = events.slice(100, 101), events.slice(101, 102)
    other = replace(other, amount_minor=other.amount_minor + 1)
    whole = joined([events.slice(0, 103), again, other, events.slice(103, EVENTS)])
    file = write(tmp_path / "past.csv", whole, bad=(7, 40))

    said = done(run(ours, str(file), "--sort", "--rejects", str(tmp_path / "rejects.csv")))

    assert said["transactions"] == {"decided": EVENTS - 2, "repeated": 1, "rejected": 3}
    with (tmp_path / "rejects.csv").open() as written:
        rows = list(csv.DictReader(written))
    assert [(row["row"], row["what"]) for row in rows] == [
        ("8", "row"),
        ("41", "row"),
        ("105", "row"),
    ]
    assert "nine" in rows[0]["problem"]
    assert "duplicate_conflict" in rows[2]["problem"]
