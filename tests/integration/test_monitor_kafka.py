"""The monitor process against a real Kafka: reads all, counts once, serves it, ends at once."""

import random
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaProducer

from consumers.monitor import MonitorProcess, build_monitor
from pipeline.durations import DAY_MS
from pipeline.records import DecisionRecord, TrainingExample, encode_record, pack_features
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRAINING
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

PARTITIONS = 4
STOP_SECONDS_MAX = 1.5


def decision(partition: int, offset: int, score: float) -> DecisionRecord:
    return DecisionRecord(
        transaction_id=f"t{partition}-{offset}",
        event_time=1_700_000_000_000 + offset,
        keys={"card": f"c{partition}", "terminal": "m1"},
        amount=100,
        currency="EUR",
        action="review" if score > 0.5 else "approve",
        score=score,
        reasons=[("NIGHT", 0.5)],
        model_version="additive@0",
        policy_version="p",
        propensity=1.0,
        label_offset=0,
        schema_hash="s",
        features=pack_features([0.5] * 40),
        challengers={"logistic@0": score},
        source=("transactions", partition, offset),
    )


def example(seq: int, decided: DecisionRecord) -> TrainingExample:
    return TrainingExample(
        label_id=f"l-{decided.transaction_id}",
        transaction_id=decided.transaction_id,
        partition=decided.source[1],
        training_seq=seq,
        verdict="fraud" if decided.score > 0.5 else "genuine",
        source="simulated",
        weight=1.0,
        supersedes=None,
        keys=decided.keys,
        amount=decided.amount,
        event_time=decided.event_time,
        label_time=decided.event_time + 7 * DAY_MS,
        schema_hash=decided.schema_hash,
        features=decided.features,
        score=decided.score,
        action=decided.action,
        model_version=decided.model_version,
        challengers=decided.challengers,
    )


def decisions(count: int, *, start: int = 0) -> list[DecisionRecord]:
    chance = random.Random(start)
    return [
        decision(partition, offset, chance.random())
        for offset in range(start, start + count)
        for partition in range(PARTITIONS)
    ]


def publish(
    settings: Settings,
    decided: Sequence[DecisionRecord] = (),
    examples: Sequence[TrainingExample] = (),
    reasons: Sequence[str] = (),
) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.kafka_servers.split(","), linger_ms=20)
    for record in decided:
        producer.send(DECISIONS, encode_record(record), partition=record.source[1])
    for learned in examples:
        producer.send(TRAINING, encode_record(learned), partition=0)
    for offset, reason in enumerate(reasons):
        headers = [
            ("fraud.errors.reason", reason.encode()),
            ("fraud.errors.topic", b"transactions"),
            ("fraud.errors.partition", b"0"),
            ("fraud.errors.offset", str(offset).encode()),
        ]
        producer.send(DEAD_LETTERS, b"bad", headers=headers, partition=0)
    producer.flush(timeout=30)
    producer.close()


@contextmanager
def running(settings: Settings, *, from_start: bool = True) -> Iterator[tuple[MonitorProcess, int]]:
    """Run a monitor in a thread; it must end within the limit."""
    process = build_monitor(settings, kafka_servers=settings.kafka_servers, from_start=from_start)
    stop, ports = threading.Event(), list[int]()
    thread = threading.Thread(target=process.run, args=(stop, ports.append))
    thread.start()
    try:
        wait_until(lambda: bool(ports), "the monitor is ready")
        yield process, ports[0]
    finally:
        stop.set()
        stopped_at = time.monotonic()
        thread.join(30)
    assert time.monotonic() - stopped_at < STOP_SECONDS_MAX


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode("utf-8"))


def test_all_of_it_is_read_once_and_served(settings: Settings) -> None:
    decided = decisions(250)
    examples = [example(number // PARTITIONS, each) for number, each in enumerate(decided)]
    publish(settings, decided, examples, ["schema", "malformed", "schema"])
    publish(settings, decided[-40:], examples[-40:], ["schema"])

    with running(settings) as (process, port):
        wait_until(
            lambda: (
                sum(process.monitor.repeated.values()) == 81
                and process.view().labels == 1000
                and process.view().dead_letters["schema"] == 2
            ),
            "everything is read",
        )
        view, page = process.view(), scraped(port)

    reviewed = sum(each.action == "review" for each in decided)
    assert (view.events, view.actions["review"]) == (1000, reviewed)
    assert view.quality["additive"].average_precision == 1.0
    assert view.quality["logistic"].events == 1000
    assert view.training_end == 1040
    assert f'fraud_observed_decisions_total{{action="review"}} {reviewed}.0' in page
    assert 'fraud_quality_window_events{model="additive"} 1000.0' in page
    assert 'fraud_quality_label_delay_seconds{model="additive"} 604800.0' in page
    assert 'fraud_observed_dead_letters_total{reason="schema"} 2.0' in page
    assert 'fraud_monitor_behind_records{topic="decisions"} 0.0' in page
    moment = re.search(r"^fraud_last_decision_timestamp_seconds (\S+)$", page, re.MULTILINE)
    assert moment
    assert abs(float(moment[1]) - time.time()) < 60


def test_from_the_end_only_what_comes_after_is_read(settings: Settings) -> None:
    publish(settings, decisions(50))

    with running(settings, from_start=False) as (process, _):
        publish(settings, decisions(10, start=50))
        wait_until(lambda: process.view().events == 40, "the later decisions are read")


def test_a_restart_reads_the_same_again(settings: Settings) -> None:
    publish(settings, decisions(50))
    views = []
    for _ in range(2):
        with running(settings) as (process, _port):
            wait_until(lambda read=process: read.view().events == 200, "all decisions are read")
            views.append(process.view())

    assert views[0] == views[1]


def test_prometheus_is_told_while_it_runs(settings: Settings) -> None:
    folder = Path(settings.state_dir) / "metrics"
    with running(settings) as (_, port):
        (target,) = folder.glob("monitor-*.json")
        assert f"127.0.0.1:{port}" in target.read_text()

    assert list(folder.iterdir()) == []


def test_without_a_broker_it_serves_its_metrics_and_still_ends_at_once(tmp_path: Path) -> None:
    settings = replace(Settings(), state_dir=str(tmp_path))
    process = build_monitor(settings, kafka_servers="127.0.0.1:9")
    stop = threading.Event()
    thread = threading.Thread(target=process.run, args=(stop,))
    thread.start()
    wait_until(lambda: any(tmp_path.rglob("monitor-*.json")), "the metrics are served")
    stop.set()
    stopped_at = time.monotonic()
    thread.join(30)

    assert time.monotonic() - stopped_at < 2 * STOP_SECONDS_MAX
