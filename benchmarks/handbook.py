"""The Fraud Detection Handbook's stream through real Kafka, each label seven days after its event.

`python -m benchmarks.handbook` publishes `handbook.parquet` of the folder that FRAUDSTREAM_DATA
names, in event-time order and so much faster than it happened that a label still counts within two
hours of event time. Then the topics are read back: every id must have exactly one distinct
decision, every label must be accounted for, the average precision of the decisions must be that of
`fraudstream replay`, and every decision must be made again bit for bit from what was recorded
(`fraudstream verify`). Exit code 1 where it is not.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from benchmarks.accounting import Distinct, distinct, drain, ledger
from benchmarks.label_loop import LabelLoop, label_loop
from benchmarks.machine import machine
from benchmarks.progress import progress
from benchmarks.topics import Decided, read_decisions, read_examples, read_labels
from benchmarks.truth import Truth, first_days, truth_of
from consumers.verify import RecordedLogs
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.evaluation import Quality, evaluate
from pipeline.replay import Replay, ReplayOptions, ReplayResult
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from producers.batch import EventBatch
from producers.commands import Duration
from producers.datasets import read_events
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, Published, Watch, publish
from producers.publisher import Progress as Sent
from stack.servers import Endpoints, Stack
from stack.services import services

FILE = "handbook.parquet"
DATA_VARIABLE = "FRAUDSTREAM_DATA"
DAYS = 183
# What a label may take, in event time, beyond the delay that it was published with.
BEYOND_MS_MAX = 2 * HOUR_MS
# The share of the labels that must keep to it.
SHARE_WITHIN_MIN = 0.99
AVERAGE_PRECISION_DISTANCE_MAX = 0.03
# With fewer frauds average precision says more of chance than of the models.
FRAUDS_JUDGED_MIN = 100
# Two hours are less than a second here: versions, labels and batches wait for less than usual.
SNAPSHOT_SECONDS = 0.1
LABEL_LINGER_SECONDS = 0.05
# More than usual: the fewer batches, the less work, and a decision is not waited for.
BATCH_GATHERING_SECONDS = 0.05

After = Callable[[Settings, Endpoints], dict[str, Any]]
"""A step after the books are closed, with servers and topics still there.

What it gives is added to the result; its own `checks` to the checks.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is published, and how fast."""

    file: Path
    days: int = DAYS
    events: int | None = None
    speedup: float = 9_000.0
    workers: int = 2
    label_delay_ms: int = 7 * DAY_MS
    after: Sequence[After] = field(default=())

    def batches(self, schema_name: str) -> Iterator[EventBatch]:
        """Give the events that are published, in their order."""
        batches = first_days(read_events(self.file, load_schema(schema_name)), self.days)
        return batches if self.events is None else limited(batches, self.events)


def run(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Run on servers of our own, which end with it."""
    with Stack(settings, attached=True, say=_say) as endpoints:
        return run_on(settings, endpoints, plan)


def run_on(settings: Settings, endpoints: Endpoints, plan: Plan) -> dict[str, Any]:
    """Publish, wait until all is done, read everything back, and judge."""
    truth = truth_of(plan.batches(settings.schema))
    _say(f"{len(truth.is_fraud):,} transactions, {int(truth.is_fraud.sum()):,} frauds")
    names = ["worker"] * plan.workers + ["trainer"]
    with services(names, settings, endpoints, _say):
        started = time.perf_counter()
        published = _publish(settings, endpoints, plan, total=len(truth.is_fraud))
        with progress("drain", "records") as report:
            drain(settings, endpoints, report)
        seconds = time.perf_counter() - started
    found = _plan_record(plan) | {"seconds": round(seconds, 1)}
    found |= _account(settings, endpoints, published, truth)
    compare(found, _replayed(settings, plan, truth))
    for step in plan.after:
        added = step(settings, endpoints)
        found["checks"] |= added.pop("checks", {})
        found |= added
    return found


def _plan_record(plan: Plan) -> dict[str, Any]:
    return {
        "days": plan.days,
        "speedup": plan.speedup,
        "workers": plan.workers,
        "label_delay_days": plan.label_delay_ms / DAY_MS,
    }


def _publish(settings: Settings, endpoints: Endpoints, plan: Plan, *, total: int) -> Published:
    # Every transaction has a label, and the last labels come long after the last transaction.
    with progress("publish", "records", 2 * total) as report:

        def sent(so_far: Sent) -> None:
            report(so_far.transactions + so_far.labels)

        return publish(
            plan.batches(settings.schema),
            load_schema(settings.schema),
            endpoints.kafka_servers,
            pace=Pace(speedup=plan.speedup),
            labels=LabelOptions(delay_ms=plan.label_delay_ms, to_end=True),
            signer=LabelSigner.of(settings),
            watch=Watch(progress=sent, total=total),
        )


def _account(
    settings: Settings, endpoints: Endpoints, published: Published, truth: Truth
) -> dict[str, Any]:
    """Read the topics back and close the books."""
    servers = endpoints.kafka_servers
    with progress("decisions", "records") as report:
        decided = read_decisions(servers, report)
    with progress("training", "records") as report:
        examples = read_examples(servers, report)
    with progress("feedback", "records") as report:
        labels = read_labels(servers, report)
    ids, paths = distinct(decided), ledger(settings, endpoints)
    learned = len(examples.first_of_each())
    loop = label_loop(examples, decided, labels, BEYOND_MS_MAX)
    return {
        "transactions": published.transactions,
        "labels": published.labels,
        "failed": published.failed,
        "decided": len(ids.row),
        "decisions_published_again": ids.repeated,
        "decisions_conflicting": ids.conflicting,
        "versions_that_decided": len(np.unique(decided.version)),
        "ledger": paths,
        "examples": len(examples),
        "examples_distinct": learned,
        "label_loop": asdict(loop),
        "quality": {"live": _quality(decided, ids, truth)},
        "checks": _checks(published, truth, ids, paths, learned, loop),
    }


def _checks(
    published: Published,
    truth: Truth,
    ids: Distinct,
    paths: dict[str, int],
    learned: int,
    loop: LabelLoop,
) -> dict[str, bool]:
    wanted = np.sort(truth.transaction_id)
    return {
        "everything was published": published.transactions == len(wanted) == published.labels
        and not published.failed,
        "every id has exactly one distinct decision": np.array_equal(ids.transaction_id, wanted)
        and not ids.conflicting,
        "every label is accounted for": sum(paths.values()) == published.labels,
        "every label was learned once": paths.get("learned", 0) == learned,
        "labels count within 2 hours of their delay": loop.share_within >= SHARE_WITHIN_MIN,
    }


def _quality(decided: Decided, ids: Distinct, truth: Truth) -> dict[str, dict[str, Any]]:
    """Judge the scores that stand in the topic by the truth of the file."""
    place = np.searchsorted(ids.transaction_id, truth.transaction_id)
    place = np.minimum(place, len(ids.row) - 1)
    judged = ids.transaction_id[place] == truth.transaction_id
    judged &= truth.event_time_ms >= truth.judged_from_ms
    rows = ids.row[place[judged]]
    return {
        name: _rounded(
            evaluate(
                scores[rows],
                truth.is_fraud[judged],
                event_time_ms=truth.event_time_ms[judged],
                card=truth.card[judged],
            )
        )
        for name, scores in decided.scores.items()
    }


def _replayed(settings: Settings, plan: Plan, truth: Truth) -> dict[str, dict[str, Any]]:
    """Give the quality of the same events in `replay`, with the same settings."""
    options = ReplayOptions(plan.label_delay_ms, truth.judged_from_ms)
    batches = plan.batches(settings.schema)
    with progress("replay", "transactions", len(truth.is_fraud)) as report:

        def replayed(so_far: ReplayResult) -> None:
            report(so_far.events)

        result = Replay(load_schema(settings.schema), settings, options).run(
            ((batch.transactions(), batch.is_fraud) for batch in batches), replayed
        )
    return {name: _rounded(quality) for name, quality in result.quality.items()}


def _rounded(quality: Quality) -> dict[str, Any]:
    found = asdict(quality)
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in found.items()}


def compare(found: dict[str, Any], replayed: dict[str, dict[str, Any]]) -> None:
    """Put the replay beside, and check the champion's average precision where it says something."""
    found["quality"]["replay"] = replayed
    champion = next(iter(replayed))
    given = [found["quality"][way][champion] for way in ("live", "replay")]
    if given[0]["frauds"] < FRAUDS_JUDGED_MIN:
        _say(f"average precision is not compared: only {given[0]['frauds']} frauds were judged")
        return
    live, other = (quality["average_precision"] for quality in given)
    found["average_precision_distance"] = round(abs(live - other), 4)
    name = f"average precision is within {AVERAGE_PRECISION_DISTANCE_MAX} of replay's"
    found["checks"][name] = abs(live - other) <= AVERAGE_PRECISION_DISTANCE_MAX


def verified(settings: Settings, endpoints: Endpoints) -> dict[str, Any]:
    """Make every decision again from the records, and compare it bit for bit."""
    schema = load_schema(settings.schema)
    with (
        RecordedLogs(endpoints.kafka_servers, schema, settings) as logs,
        progress("verify", "decisions", logs.decisions) as report,
    ):
        result = logs.verify(lambda found: report(found.read))
    return {
        "verified": {
            "recomputed": result.recomputed,
            "equal": result.equal,
            "different": result.different,
            "not_recomputed": dict(result.not_recomputed),
            "seconds": round(result.seconds, 1),
        },
        "checks": {"every decision was made again, equal bit for bit": result.is_equal},
    }


def _say(line: str) -> None:
    click.echo(line, err=True)


def data_file() -> Path:
    """Give the file of the data folder, or say in one line what is missing."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise click.ClickException(
            f"{FILE} is needed: set {DATA_VARIABLE} to the folder that holds it"
        )
    path = Path(folder) / FILE
    if not path.is_file():
        raise click.ClickException(f"{DATA_VARIABLE} ({folder}) holds no {FILE}")
    return path


def _show(found: dict[str, Any]) -> None:
    loop = found["label_loop"]
    click.echo(
        f"decisions  {found['decided']:,} of {found['transactions']:,} ids, "
        f"{found['decisions_published_again']:,} published again, "
        f"{found['decisions_conflicting']:,} conflicting; {found['seconds']:,} s"
    )
    ledger_text = "  ".join(f"{name} {count:,}" for name, count in found["ledger"].items())
    click.echo(f"labels     {found['labels']:,} published: {ledger_text}")
    click.echo(f"label loop {loop['share_within']:.2%} within their delay + 2 h")
    for name in ("delay_days", "beyond_hours", "join_seconds", "adopt_seconds"):
        values = "  ".join(f"{q} {value:,.3f}" for q, value in loop[name].items())
        click.echo(f"  {name.replace('_', ' '):14}{values}")
    for way, models in found["quality"].items():
        for model, quality in models.items():
            values = "  ".join(f"{name.replace('_', ' ')} {v}" for name, v in quality.items())
            click.echo(f"{way:7}{model:10}{values}")
    again = found["verified"]
    click.echo(
        f"verified   {again['recomputed']:,} made again in {again['seconds']:,} s, "
        f"equal {again['equal']:,}, different {again['different']:,}"
    )
    for name, is_met in found["checks"].items():
        click.echo(f"{'ok    ' if is_met else 'FAILED'} {name}")


@click.command()
@click.option("--days", default=DAYS, show_default=True, help="Days of the file, from its first.")
@click.option("--events", type=int, help="At most so many transactions.")
@click.option("--speedup", default=9_000.0, show_default=True, help="Event time to wall time.")
@click.option("--workers", default=2, show_default=True)
@click.option("--partitions", default=Settings().partitions, show_default=True)
@click.option(
    "--label-delay", type=Duration(), default="7d", show_default=True, help="From event to label."
)
@click.option("--challengers", default="none", show_default=True, help="As in the settings.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Keep the servers' data there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON to a file as well.")
def main(
    days: int,
    events: int | None,
    speedup: float,
    workers: int,
    partitions: int,
    label_delay: int,
    challengers: str,
    state_dir: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Publish the Handbook's stream with its labels, and account for every one."""
    plan = Plan(
        file=data_file(),
        days=days,
        events=events,
        speedup=speedup,
        workers=workers,
        label_delay_ms=label_delay,
        after=[verified],
    )
    folder: Any = nullcontext(state_dir) if state_dir else TemporaryDirectory(prefix="fraudstream-")
    with folder as place:
        settings = Settings(state_dir=str(place), challengers=challengers, partitions=partitions)
        settings = handbook_settings(settings)
        found = run(settings, plan) | {"machine": machine()}
    text = json.dumps(found, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    click.echo(text) if as_json else _show(found)
    sys.exit(0 if all(found["checks"].values()) else 1)


def handbook_settings(settings: Settings) -> Settings:
    """Give the settings of a run: versions follow each other as fast as they are learned."""
    return replace(
        settings,
        schema="handbook",
        snapshot_interval_seconds=SNAPSHOT_SECONDS,
        label_linger_seconds=LABEL_LINGER_SECONDS,
        batch_gathering_seconds=BATCH_GATHERING_SECONDS,
    )


if __name__ == "__main__":
    main()
