"""A million transactions with their labels through real Kafka, every one accounted for.

`python -m benchmarks.million` publishes simulated traffic in event-time order, labels seven days
later, and then reads the topics back: every id must have exactly one distinct decision, every label
must be learned once or counted as why not, and average precision must rise and end above that of
the plain online logistic regression that watches beside it. Exit code 1 where it does not.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from kafka import KafkaConsumer, TopicPartition
from redis import Redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.machine import machine
from consumers.log_reader import read_topic
from pipeline.durations import parse_duration
from pipeline.evaluation import evaluate, quality_over_time
from pipeline.records import TrainingExample, decode_examples
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, FEEDBACK, TRAINING, TRANSACTIONS
from pipeline.verdicts import LABEL_PATHS
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, Published, Watch, publish
from producers.publisher import Progress as Sent
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Endpoints, Stack
from stack.services import services

LABEL_DELAY_MS = parse_duration("7d")
EVENTS_A_DAY = 9_600
BLOCKS = 10
# How long the worker and the trainer may take after the last record was published.
DRAIN_SECONDS_MAX = 600.0
POLL_SECONDS = 0.5
# Every label that the labeller took is in the ledger under one of these.
LEDGER = LABEL_PATHS


def _say(line: str) -> None:
    click.echo(line, err=True)


def run(settings: Settings, events: int, rate: float, workers: int) -> dict[str, Any]:
    """Publish, wait until all is done, read everything back, and judge."""
    names = ["worker"] * workers + ["trainer"]
    with (
        Stack(settings, attached=True, say=_say) as endpoints,
        services(names, settings, endpoints, _say),
    ):
        started = time.perf_counter()
        published = _publish(settings, endpoints, events, rate)
        _drain(settings, endpoints)
        seconds = time.perf_counter() - started
        return _judge(settings, endpoints, published) | {"seconds": round(seconds, 1)}


def _publish(settings: Settings, endpoints: Endpoints, events: int, rate: float) -> Published:
    world = SimulatorOptions(days=events // EVENTS_A_DAY + 14)
    columns = (
        TextColumn("publish"), BarColumn(), TextColumn("{task.completed:,}"),
        TextColumn("{task.fields[rate]:,.0f} records/s"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=events, rate=0.0)

        def report(sent: Sent) -> None:
            bar.update(task, completed=sent.transactions, rate=sent.rate)

        return publish(
            limited(simulate(world), events),
            load_schema(settings.schema),
            endpoints.kafka_servers,
            pace=Pace(rate=rate),
            labels=LabelOptions(delay_ms=LABEL_DELAY_MS, to_end=True),
            watch=Watch(progress=report, total=events),
        )


def _drain(settings: Settings, endpoints: Endpoints) -> None:
    """Wait until every input stands at its end, and the trainer at the end of `training`."""
    redis = Redis.from_url(endpoints.redis_url)
    consumer = KafkaConsumer(bootstrap_servers=endpoints.kafka_servers.split(","))
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while not _is_drained(settings, consumer, redis) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    consumer.close()


def _is_drained(settings: Settings, consumer: Any, redis: Any) -> bool:
    places = [(topic, p) for topic in (TRANSACTIONS, FEEDBACK) for p in range(settings.partitions)]
    ends = consumer.end_offsets([TopicPartition(*place) for place in [*places, (TRAINING, 0)]])
    names = {TopicPartition(topic, p): f"pos:{topic}:{p}" for topic, p in places}
    names[TopicPartition(TRAINING, 0)] = f"pos:{TRAINING}"
    return all(
        int((redis.get(names[place]) or b"0").split(b":")[0]) == end for place, end in ends.items()
    )


def _judge(settings: Settings, endpoints: Endpoints, published: Published) -> dict[str, Any]:
    decisions, repeated, conflicting = _decisions(endpoints)
    examples = list(_examples(endpoints))
    ledger = _ledger(settings, endpoints)
    blocks, final = _quality(settings, examples)
    champion, challenger = final[settings.model], final[settings.challenger_names[0]]
    found = {
        "transactions": published.transactions,
        "labels": published.labels,
        "failed": published.failed,
        "decided": decisions,
        "decisions_published_again": repeated,
        "decisions_conflicting": conflicting,
        "ledger": ledger,
        "examples": len(examples),
        "examples_distinct": len({example.label_id for example in examples}),
        "average_precision_by_block": blocks,
        "average_precision": final,
    }
    found["checks"] = {
        "every id has exactly one distinct decision": decisions == published.transactions
        and not conflicting,
        "every label is accounted for": sum(ledger.values()) == published.labels,
        "every label was learned once": ledger.get("learned", 0) == found["examples_distinct"],
        "average precision rises": blocks[-1] > blocks[0],
        "and ends above logistic": champion > challenger,
    }
    return found


def _decisions(endpoints: Endpoints) -> tuple[int, int, int]:
    """Count distinct ids, records published again, and those that differ from the first."""
    first: dict[bytes, int] = {}
    repeated = conflicting = 0
    for record in read_topic(endpoints.kafka_servers, DECISIONS):
        found = hash(record.value)
        if record.key not in first:
            first[record.key] = found
            continue
        repeated += 1
        conflicting += first[record.key] != found
    return len(first), repeated, conflicting


def _examples(endpoints: Endpoints) -> Iterator[TrainingExample]:
    values = (record.value for record in read_topic(endpoints.kafka_servers, TRAINING))
    for example in decode_examples(values):
        assert example is not None, "a record of training is not a training example"
        yield example


def _ledger(settings: Settings, endpoints: Endpoints) -> dict[str, int]:
    redis: Any = Redis.from_url(endpoints.redis_url)
    total: Counter[str] = Counter()
    for partition in range(settings.partitions):
        for name, count in redis.hgetall(f"ledger:{partition}").items():
            total[name.decode()] += int(count)
    return {name: total[name] for name in LEDGER if total[name]}


def _quality(
    settings: Settings, examples: list[TrainingExample]
) -> tuple[list[float], dict[str, float]]:
    """Give the champion's average precision block by block, and each model's over the last half.

    Scores are those given when the transaction was decided, in the order of the labels.
    """
    is_fraud = np.array([example.is_fraud for example in examples])
    scores = {settings.model: np.array([example.score for example in examples])}
    for name in settings.challenger_names:
        scores[name] = np.array([_challenger(example, name) for example in examples])
    over_time = quality_over_time(scores[settings.model], is_fraud, blocks=BLOCKS)
    half = len(examples) // 2
    final = {
        name: round(evaluate(given[half:], is_fraud[half:]).average_precision or 0.0, 4)
        for name, given in scores.items()
    }
    return [round(block.average_precision or 0.0, 4) for block in over_time], final


def _challenger(example: TrainingExample, name: str) -> float:
    versions = example.challengers.items()
    return next(score for version, score in versions if version.startswith(f"{name}@"))


@click.command()
@click.option("--events", default=1_000_000, show_default=True)
@click.option("--rate", default=5_000.0, show_default=True, help="Transactions a second.")
@click.option("--workers", default=2, show_default=True)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Keep the servers' data there.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON to a file as well.")
def main(events: int, rate: float, workers: int, state_dir: Path | None, out: Path | None) -> None:
    """Publish many transactions and their labels, and account for every one."""
    folder: Any = nullcontext(state_dir) if state_dir else TemporaryDirectory(prefix="fraudstream-")
    with folder as place:
        settings = replace(Settings(), state_dir=str(place), snapshot_interval_seconds=1.0)
        found = run(settings, events, rate, workers)
    text = json.dumps(found | {"machine": machine()}, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    click.echo(text)
    sys.exit(0 if all(found["checks"].values()) else 1)


if __name__ == "__main__":
    main()
