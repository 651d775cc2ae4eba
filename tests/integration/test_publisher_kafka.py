"""The publisher on a real broker: what it counts is what is there, where it belongs."""

import gc
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.consumer.fetcher import ConsumerRecord

from pipeline.errors import SettingError
from pipeline.partitioner import partition_of
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.topics import FEEDBACK, TRANSACTIONS
from producers import publisher
from producers.batch import joined
from producers.commands import publish_command, simulate_command
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, Progress, Watch, publish
from producers.simulator import SimulatorOptions, simulate
from stack.connections import kafka_servers_of
from stack.servers import Endpoints
from stack.topic_setup import administration

pytestmark = pytest.mark.integration

CARD = load_schema("card")
WORLD = SimulatorOptions(customers=200, terminals=100, days=10)
DAY_MS = 86_400_000


def records(settings: Settings, topic: str) -> list[ConsumerRecord]:
    """All records of a topic, partition by partition in order."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka_servers, enable_auto_commit=False)
    with closing(consumer):
        partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found: list[ConsumerRecord] = []
        while any(consumer.position(place) < ends[place] for place in partitions):
            for part in consumer.poll(timeout_ms=500).values():
                found += part
    return sorted(found, key=lambda record: (record.partition, record.offset))


def test_all_that_was_counted_is_there_in_its_partition_and_in_order(settings: Settings) -> None:
    whole = joined(list(simulate(WORLD)))
    published = publish(
        simulate(WORLD), CARD, settings.kafka_servers, labels=LabelOptions(delay_ms=2 * DAY_MS)
    )
    sent, labels = records(settings, TRANSACTIONS), records(settings, FEEDBACK)
    due = (whole.event_time_ms + 2 * DAY_MS <= whole.event_time_ms[-1]).sum()

    assert (published.transactions, published.failed) == (len(whole), 0)
    assert published.labels == len(labels) == due
    assert sorted(json.loads(item.value)["transaction_id"] for item in sent) == sorted(
        whole.transaction_id
    )
    for item in (*sent, *labels):
        assert item.key == json.loads(item.value)["card_id"].encode()
        assert item.partition == partition_of(item.key, settings.partitions)
    for partition in range(settings.partitions):
        times = [
            json.loads(item.value)["event_time"] for item in sent if item.partition == partition
        ]
        assert times == sorted(times)


def test_the_labels_still_waiting_come_at_the_end_when_wanted(settings: Settings) -> None:
    published = publish(
        simulate(WORLD),
        CARD,
        settings.kafka_servers,
        labels=LabelOptions(delay_ms=30 * DAY_MS, to_end=True),
    )

    assert published.labels == published.transactions == len(records(settings, FEEDBACK))


def test_a_rate_is_kept_evenly_and_every_send_is_told(settings: Settings) -> None:
    sent: list[tuple[str, float]] = []
    watch = Watch(on_send=lambda name, moment: sent.append((name, moment)))
    published = publish(
        limited(simulate(WORLD), 2_000),
        CARD,
        settings.kafka_servers,
        pace=Pace(rate=1_000),
        watch=watch,
        linger_ms=1,
    )
    moments = np.array([moment for _, moment in sent])
    late = moments - moments[0] - np.arange(len(moments)) / 1_000

    assert [name for name, _ in sent] == joined(
        list(limited(simulate(WORLD), 2_000))
    ).transaction_id
    assert published.seconds == pytest.approx(2.0, rel=0.25)
    # Never early; half of them within a few milliseconds, whatever else the machine does.
    assert late.min() > -0.05
    assert np.median(late) < 0.02


def test_a_speedup_follows_event_time(settings: Settings) -> None:
    batches = list(limited(simulate(WORLD), 300))
    times = joined(batches).event_time_ms
    speedup = float(times[-1] - times[0]) / 1_000 / 1.5
    published = publish(batches, CARD, settings.kafka_servers, pace=Pace(speedup=speedup))

    assert published.transactions == 300
    assert 1.5 <= published.seconds < 4.0


def test_progress_is_told_and_ends_at_the_count(settings: Settings) -> None:
    told: list[Progress] = []
    publish(
        limited(simulate(WORLD), 1_000),
        CARD,
        settings.kafka_servers,
        pace=Pace(rate=1_000),
        watch=Watch(progress=told.append, total=1_000),
    )

    assert 5 <= len(told) <= 15
    assert (told[-1].transactions, told[-1].total) == (1_000, 1_000)
    assert [item.transactions for item in told] == sorted(item.transactions for item in told)


@pytest.mark.parametrize("pace", [Pace(), Pace(rate=500)], ids=["unbounded", "paced"])
def test_a_run_that_is_stopped_counts_what_was_acknowledged(settings: Settings, pace: Pace) -> None:
    asked = iter(range(1_000_000))
    world = SimulatorOptions(customers=2_000, terminals=100)
    published = publish(
        simulate(world),
        CARD,
        settings.kafka_servers,
        pace=pace,
        watch=Watch(stop=lambda: next(asked) > 50),
    )

    assert published.failed == 0
    assert 0 < published.transactions == len(records(settings, TRANSACTIONS))


def test_publishing_to_nobody_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "CONNECT_SECONDS_MAX", 0.3)
    with pytest.raises(SettingError, match="no Kafka broker answers at 127.0.0.1:1: start it"):
        publish([], CARD, "127.0.0.1:1")


def test_a_server_without_port_is_refused() -> None:
    with pytest.raises(SettingError, match="must be host:port"):
        publish([], CARD, "localhost")


def test_topics_that_do_not_exist_are_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "TRANSACTIONS", "nowhere")
    monkeypatch.setattr(publisher, "CONNECT_SECONDS_MAX", 1.0)
    with pytest.raises(SettingError, match="topic 'nowhere' does not exist"):
        publish([], CARD, settings.kafka_servers)


def test_records_in_flight_are_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "IN_FLIGHT_MAX", 10)
    published = publish(limited(simulate(WORLD), 500), CARD, settings.kafka_servers)

    assert (published.transactions, published.failed) == (500, 0)


def limit_batches(settings: Settings, size: int) -> None:
    with administration(settings.kafka_servers) as admin:
        place = ConfigResource(ConfigResourceType.TOPIC, TRANSACTIONS)
        place.configs = {"max.message.bytes": str(size)}
        admin.alter_configs([place])


def test_batches_that_the_broker_wants_smaller_are_split_and_counted(settings: Settings) -> None:
    limit_batches(settings, 2_000)
    published = publish(limited(simulate(WORLD), 2_000), CARD, settings.kafka_servers)

    assert (published.transactions, published.failed, published.reason) == (2_000, 0, "")
    assert len(records(settings, TRANSACTIONS)) == 2_000


def test_what_the_broker_refuses_is_counted_and_ends_the_run(settings: Settings) -> None:
    limit_batches(settings, 100)
    published = publish(simulate(WORLD), CARD, settings.kafka_servers, pace=Pace(rate=200))

    assert published.failed > 0
    assert published.reason.startswith("MessageSizeTooLargeError")
    assert published.transactions == len(records(settings, TRANSACTIONS))
    assert published.seconds < 5.0


def invoke(settings: Settings, command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=settings)


def test_a_simulated_file_is_published_by_the_commands(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "days.parquet"
    world = ("--customers", "100", "--terminals", "50", "--days", "5", "--burst-days", "2")
    written = invoke(settings, simulate_command, str(path), *world)
    published = invoke(settings, publish_command, str(path), "--labels-to-end", "--json")
    answer = json.loads(published.stdout)

    assert (written.exit_code, published.exit_code) == (0, 0)
    assert written.stdout == f"wrote {answer['transactions']:,} transactions to {path}\n"
    assert answer["transactions"] == answer["labels"] == len(records(settings, TRANSACTIONS))
    assert answer["failed"] == 0


def test_parts_of_a_stream_are_published_beside_each_other(settings: Settings) -> None:
    world = ("--simulate", "--customers", "200", "--terminals", "50", "--days", "4")
    published = {
        part: json.loads(
            invoke(settings, publish_command, *world, "--share", f"{part}/2", "--json").stdout
        )["transactions"]
        for part in (2, 1)
    }
    sent = records(settings, TRANSACTIONS)

    whole = joined(list(simulate(SimulatorOptions(customers=200, terminals=50, days=4))))
    assert {part: count for part, count in published.items() if count < 100} == {}
    assert sum(published.values()) == len(sent) == len(whole)
    assert sorted(json.loads(item.value)["transaction_id"] for item in sent) == sorted(
        whole.transaction_id
    )
    # Those of the second part were all there first: a partition is of one part alone.
    assert published[2] == sum(item.partition % 2 == 1 for item in sent)


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "a/b", "-1/2", ""])
def test_a_part_that_is_none_is_refused(settings: Settings, share: str) -> None:
    result = invoke(settings, publish_command, "--simulate", "--share", share)

    assert result.exit_code == 2
    assert "expected a part such as 1/2" in result.stderr


def test_the_collector_is_as_before_after_a_run(settings: Settings) -> None:
    before, meanwhile = gc.get_threshold(), list[int]()
    watch = Watch(on_send=lambda name, moment: meanwhile.append(gc.get_threshold()[0]))
    publish(limited(simulate(WORLD), 10), CARD, settings.kafka_servers, watch=watch)

    assert min(meanwhile) > before[0]
    assert gc.get_threshold() == before


def test_the_count_line_says_what_was_acknowledged(settings: Settings) -> None:
    result = invoke(settings, publish_command, "--simulate", "--limit", "50", "--no-labels")

    assert result.stdout.startswith("published 50 transactions and 0 labels in ")
    assert result.stdout.rstrip().endswith("failed 0")
    assert result.stderr == ""


def test_a_file_and_the_simulator_exclude_each_other(settings: Settings) -> None:
    assert invoke(settings, publish_command).exit_code == 2
    assert invoke(settings, publish_command, "x.csv", "--simulate").exit_code == 2
    assert invoke(settings, publish_command, "--simulate", "--label-delay", "7w").exit_code == 2


def test_ctrl_c_ends_a_run_with_its_counts(settings: Settings) -> None:
    # Where tests run in the background, the signal is ignored from the start.
    before = signal.getsignal(signal.SIGINT)
    with when(lambda: len(records(settings, TRANSACTIONS)) > 0, signal.SIGINT):
        result = invoke(settings, publish_command, "--simulate", "--rate", "500")

    assert result.exit_code == 0
    assert result.stdout.startswith("published ")
    assert signal.getsignal(signal.SIGINT) is before


@contextmanager
def when(holds: Callable[[], bool], number: signal.Signals) -> Iterator[None]:
    """Send this process's main thread a signal once a condition holds."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if holds():
                signal.pthread_kill(threading.main_thread().ident or 0, number)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_servers_are_the_configured_or_the_embedded_ones(
    settings: Settings, stack: Endpoints, tmp_path: Path
) -> None:
    assert kafka_servers_of(settings) == stack.kafka_servers
    with pytest.raises(SettingError, match="kafka_servers is not set"):
        kafka_servers_of(Settings(state_dir=str(tmp_path)))
