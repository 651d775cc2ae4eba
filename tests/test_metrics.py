"""What is exported is what the table says, under names that Prometheus expects."""

import json
import os
import re
import threading
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import DuplicateTimeseries

from consumers.endpoint import metrics_endpoint, serve, write_target
from pipeline.counts import Buckets, TrainerCounts, WorkerCounts
from pipeline.metric_samples import Sample
from pipeline.metric_table import METRICS, MetricRow
from pipeline.metrics import (
    PlainCollector,
    registry_of,
    trainer_registry,
    worker_registry,
)
from pipeline.monitor_samples import monitor_samples
from pipeline.monitoring import Monitor

BASE_UNITS = ("seconds", "ratio", "events", "nats")
OTHER_UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|days|percent|kilobytes|cents)(_|$)")
# A length of time that is counted, not measured.
COUNTS_OF_DAYS = {"fraud_card_precision_days"}


def registries() -> list[CollectorRegistry]:
    monitor = Monitor(window_events=10)
    return [
        worker_registry(WorkerCounts(schema="card")),
        trainer_registry(TrainerCounts()),
        registry_of("monitor", lambda: monitor_samples(monitor)),
    ]


def full_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_every_metric_of_the_table_is_exported_and_no_other() -> None:
    exported = [
        (full_name(family), family.type, family.documentation)
        for registry in registries()
        for family in registry.collect()
    ]

    assert exported == [(metric.name, metric.kind, metric.help) for metric in METRICS]


def test_a_name_stands_for_one_metric_of_one_process() -> None:
    names = [metric.name for metric in METRICS]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_rules(metric: MetricRow) -> None:
    assert re.fullmatch(r"fraud_[a-z]+(_[a-z]+)*", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert metric.name in COUNTS_OF_DAYS or not OTHER_UNITS.search(metric.name)
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_created", "_info"))
    assert metric.help
    assert metric.help[0].isupper()
    assert not metric.help.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_no_label_is_an_id(metric: MetricRow) -> None:
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", label)
        assert label not in ("le", "quantile", "job", "instance")
        assert not re.search(r"(^|_)(id|card|terminal|transaction|customer|merchant)$", label)


@pytest.mark.parametrize(
    ("windowed", "count"),
    [
        ("fraud_log_loss", "fraud_quality_window_events"),
        ("fraud_brier_score", "fraud_quality_window_events"),
        ("fraud_average_precision_ratio", "fraud_quality_window_frauds"),
        ("fraud_calibration_error_ratio", "fraud_quality_window_events"),
        ("fraud_version_log_loss", "fraud_version_labels"),
        ("fraud_version_average_precision_ratio", "fraud_version_frauds"),
        ("fraud_score_psi", "fraud_score_psi_events"),
        ("fraud_drift_error_ratio", "fraud_drift_error_events"),
        ("fraud_card_precision_ratio", "fraud_card_precision_days"),
        ("fraud_learning_batch_seconds", "fraud_learning_batch_events"),
    ],
)
def test_a_gauge_over_a_window_has_its_count_beside_it(windowed: str, count: str) -> None:
    labels = {metric.name: metric.labels for metric in METRICS}

    assert labels[windowed] == labels[count]


def test_the_counts_of_a_worker_are_read_at_scrape_time() -> None:
    counts = WorkerCounts(schema="card")
    registry = worker_registry(counts)
    value = registry.get_sample_value
    assert value("fraud_decisions_total", {"action": "review", "mode": "act"}) == 0

    counts.events += 7
    counts.decisions["review", "act"] += 2
    counts.rejected["schema"] += 1
    counts.labels["chargeback", "fraud"] += 3
    counts.watermark_ms[2] = 1_500
    counts.stage_seconds["commit"].observe(0.02)

    assert value("fraud_events_total", {"schema": "card"}) == 7
    assert value("fraud_decisions_total", {"action": "review", "mode": "act"}) == 2
    assert value("fraud_dead_letters_total", {"reason": "schema"}) == 1
    assert value("fraud_labels_total", {"source": "chargeback", "verdict": "fraud"}) == 3
    assert value("fraud_watermark_timestamp_seconds", {"partition": "2"}) == 1.5
    duration = "fraud_decision_duration_seconds"
    assert value(f"{duration}_count", {"stage": "commit"}) == 1
    assert value(f"{duration}_bucket", {"stage": "commit", "le": "0.01"}) == 0
    assert value(f"{duration}_bucket", {"stage": "commit", "le": "0.025"}) == 1


def test_the_counts_of_a_trainer_are_read_at_scrape_time() -> None:
    counts = TrainerCounts()
    value = trainer_registry(counts).get_sample_value
    assert value("fraud_training_offset") is None

    counts.learned["analyst", "genuine"] += 4
    counts.training_offset, counts.batch_seconds, counts.batch_events = 9, 0.25, 4

    learned = {"source": "analyst", "verdict": "genuine"}
    assert value("fraud_examples_learned_total", learned) == 4
    assert value("fraud_training_offset") == 9
    assert value("fraud_learning_batch_seconds") == 0.25


def test_what_is_not_known_has_no_sample() -> None:
    monitor = Monitor(window_events=10)
    value = registry_of("monitor", lambda: monitor_samples(monitor)).get_sample_value

    assert value("fraud_score_psi") is None
    assert value("fraud_score_psi_events") == 0
    assert value("fraud_last_event_timestamp_seconds") is None


def test_a_histogram_takes_one_value_as_it_takes_many() -> None:
    values = [0.0, 1.0, 1.5, 2.0, 9.0, -1.0]
    one, many = Buckets((1, 2)), Buckets((1, 2))
    for value in values:
        one.observe(value)
    many.observe_many(values)

    assert one.cumulative() == many.cumulative() == [("1.0", 3), ("2.0", 5), ("+Inf", 6)]
    assert one.sum == many.sum == 12.5
    assert one.count == many.count == 6


def test_two_collectors_of_one_process_are_refused() -> None:
    registry = worker_registry(WorkerCounts(schema="card"))

    with pytest.raises(DuplicateTimeseries):
        registry.register(PlainCollector("worker", list))


def test_a_sample_that_the_table_does_not_know_is_our_own_mistake() -> None:
    def unknown() -> Iterable[Sample]:
        return [("fraud_unknown_total", (), 1)]

    with pytest.raises(KeyError):
        list(registry_of("worker", unknown).collect())


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode("utf-8"))


def test_metrics_are_served_on_loopback_until_closed() -> None:
    threads_before = threading.active_count()
    server, port = serve(worker_registry(WorkerCounts(schema="card")), "127.0.0.1", 0)
    try:
        families = {full_name(family) for family in text_string_to_metric_families(get(port))}
    finally:
        server.close()

    assert families == {metric.name for metric in METRICS if metric.process == "worker"}
    with pytest.raises(OSError, match="refused"):
        get(port)
    assert threading.active_count() == threads_before


def test_a_port_that_was_closed_can_be_served_again() -> None:
    registry = trainer_registry(TrainerCounts())
    server, port = serve(registry, "127.0.0.1", 0)
    server.close()
    again, same_port = serve(registry, "127.0.0.1", port)
    again.close()

    assert same_port == port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_prometheus_is_told_where_the_process_is(tmp_path: Path, host: str) -> None:
    target = write_target(tmp_path, "worker", host, 9100)

    assert target.path == tmp_path / "metrics" / f"worker-{os.getpid()}.json"
    assert json.loads(target.path.read_text()) == [
        {"targets": ["127.0.0.1:9100"], "labels": {"job": "worker"}}
    ]
    target.close()
    target.close()
    assert list((tmp_path / "metrics").iterdir()) == []


def test_an_endpoint_ends_with_its_block_even_after_an_error(tmp_path: Path) -> None:
    registry = trainer_registry(TrainerCounts())
    ports = []

    def fail() -> None:
        with metrics_endpoint(
            registry, job="trainer", state_dir=tmp_path, host="127.0.0.1", port=0
        ) as port:
            ports.append(port)
            assert "fraud_snapshots_total 0.0" in get(port)
            assert len(list((tmp_path / "metrics").glob("trainer-*.json"))) == 1
            raise OSError("the trainer ends")

    with pytest.raises(OSError, match="the trainer ends"):
        fail()
    assert list((tmp_path / "metrics").iterdir()) == []
    with pytest.raises(OSError, match="refused"):
        get(ports[0])
