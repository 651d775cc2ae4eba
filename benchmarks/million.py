"""A million transactions with their labels through real Kafka, every one accounted for.

`python -m benchmarks.million` publishes simulated traffic in event-time order, labels seven days
later, and then reads the topics back: every id must have exactly one distinct decision, every label
must be learned once or counted as why not, and average precision must rise and end above that of
the plain online logistic regression that watches beside it. Exit code 1 where it does not.
"""

import json
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.accounting import distinct, drain, ledger
from benchmarks.machine import machine
from benchmarks.progress import progress
from benchmarks.topics import Examples, read_decisions, read_examples
from pipeline.durations import parse_duration
from pipeline.evaluation import evaluate, quality_over_time
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, Published, Watch, publish
from producers.publisher import Progress as Sent
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Endpoints, Stack
from stack.services import services

LABEL_DELAY_MS = parse_duration("7d")
EVENTS_A_DAY = 9_600
BLOCKS = 10


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
        with progress("drain", "records") as report:
            drain(settings, endpoints, report)
        seconds = time.perf_counter() - started
        return _judge(settings, endpoints, published) | {"seconds": round(seconds, 1)}


def _publish(settings: Settings, endpoints: Endpoints, events: int, rate: float) -> Published:
    world = SimulatorOptions(days=events // EVENTS_A_DAY + 14)
    with progress("publish", "records", 2 * events) as report:

        def sent(so_far: Sent) -> None:
            report(so_far.transactions + so_far.labels)

        return publish(
            limited(simulate(world), events),
            load_schema(settings.schema),
            endpoints.kafka_servers,
            pace=Pace(rate=rate),
            labels=LabelOptions(delay_ms=LABEL_DELAY_MS, to_end=True),
            signer=LabelSigner.of(settings),
            watch=Watch(progress=sent, total=events),
        )


def _judge(settings: Settings, endpoints: Endpoints, published: Published) -> dict[str, Any]:
    with progress("decisions", "records") as report:
        ids = distinct(read_decisions(endpoints.kafka_servers, report))
    with progress("training", "records") as report:
        examples = read_examples(endpoints.kafka_servers, report)
    paths = ledger(settings, endpoints)
    learned = len(examples.first_of_each())
    blocks, final = _quality(settings, examples)
    champion, challenger = final[settings.model], final[settings.challenger_names[0]]
    return {
        "transactions": published.transactions,
        "labels": published.labels,
        "failed": published.failed,
        "decided": len(ids.row),
        "decisions_published_again": ids.repeated,
        "decisions_conflicting": ids.conflicting,
        "ledger": paths,
        "examples": len(examples),
        "examples_distinct": learned,
        "average_precision_by_block": blocks,
        "average_precision": final,
        "checks": {
            "every id has exactly one distinct decision": len(ids.row) == published.transactions
            and not ids.conflicting,
            "every label is accounted for": sum(paths.values()) == published.labels,
            "every label was learned once": paths.get("learned", 0) == learned,
            "average precision rises": blocks[-1] > blocks[0],
            "and ends above logistic": champion > challenger,
        },
    }


def _quality(settings: Settings, examples: Examples) -> tuple[list[float], dict[str, float]]:
    """Give the champion's average precision block by block, and each model's over the last half.

    Scores are those given when the transaction was decided, in the order of the labels.
    """
    is_fraud, half = examples.is_fraud, len(examples) // 2
    over_time = quality_over_time(examples.scores[settings.model], is_fraud, blocks=BLOCKS)
    final = {
        name: round(evaluate(given[half:], is_fraud[half:]).average_precision or 0.0, 4)
        for name, given in examples.scores.items()
    }
    return [round(block.average_precision or 0.0, 4) for block in over_time], final


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
