"""`fraudstream backfill FILE`: from recorded history to a system that goes on live."""

import asyncio
import csv
import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from consumers.backfill import Backfill
from consumers.backfill_run import Run, begin_run, positions_text, stored_run
from consumers.cut_over import END, Met, cut_over, meet, named_offsets
from consumers.dead_letters import DeadLetter
from consumers.log_reader import LogReader, read_topic
from consumers.model_topic import PublishedModels, read_models
from consumers.redis_client import as_bytes
from consumers.redis_store import RedisStore
from pipeline.cli import LEARNING, SCORING
from pipeline.errors import DataError, SettingError
from pipeline.events import Label, LabelDecoder
from pipeline.features import FeatureKernel
from pipeline.history import PREFIX, HistoryStep
from pipeline.keys import init_keys
from pipeline.label_words import Source
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from pipeline.signing import ModelVerifier
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRAINING, TRANSACTIONS
from producers.commands import Duration, progress_bar, stopped_by_signal
from producers.datasets import count_rows
from producers.history import REJECTS_MAX, History, HistoryOptions, Reject
from producers.tokens import Tokeniser
from stack.command_settings import current_settings
from stack.connections import endpoints_of
from stack.servers import Endpoints

# The settings that the result depends on: where things are changes nothing.
EFFECTIVE = (
    *(*SCORING, *LEARNING, "rules", "partitions", "batch_events_max", "maturity_days"),
    *("duplicate_days", "duplicate_ids_max", "feedback_limit", "review_limit"),
    *("pending_label_seconds", "breaker_decline_share_max", "breaker_amount_minor_max"),
    *("breaker_window_minutes", "breaker_events_min"),
)
SOURCES_OF_FILES = tuple(source for source in get_args(Source) if source != "matured")


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What one call of the command is to do."""

    file: Path
    settings: Settings
    schema: Schema
    endpoints: Endpoints
    options: HistoryOptions
    named: str
    allow_gap: bool
    rejects: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What came of it."""

    history: History
    rejects: list[Reject]
    decided: int
    labels: dict[str, int]
    examples: int
    versions: PublishedModels
    offsets: dict[int, int]
    met: Met
    events: int
    seconds: float
    resumed: bool


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--cut-over", "named", default=END, show_default=True,
    help="Where workers begin on the live topic: end, beginning, offsets by partition "
    "(0:1200,1:1180), or the time of arrival there (2026-11-01T12:00:00Z).",
)  # fmt: skip
@click.option("--allow-gap", is_flag=True, help="Leave out what lies before it and in no file.")
@click.option(
    "--labels", "labels_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of the labels, instead of the schema's column of FILE.",
)  # fmt: skip
@click.option("--label-time", metavar="COLUMN", help="The column that says when each label came.")
@click.option(
    "--label-delay", type=Duration(), default="7d", show_default=True,
    help="Event time from a transaction to its label, where no column says when it came.",
)  # fmt: skip
@click.option(
    "--label-source", type=click.Choice(SOURCES_OF_FILES), default="chargeback", show_default=True,
    help="Who the labels are of: it ranks them against later ones.",
)  # fmt: skip
@click.option("--labels-to-end", is_flag=True, help="Give labels too that FILE ends before.")
@click.option("--no-labels", is_flag=True, help="There are no labels.")
@click.option("--sort", is_flag=True, help="Read the whole file and put it in time order.")
@click.option(
    "--step", type=Duration(), default="1h", show_default=True,
    help="Event time from one moment at which labels are learned to the next.",
)  # fmt: skip
@click.option(
    "--rejects", type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file for rows that were set aside [default: FILE.rejects.csv in state_dir].",
)  # fmt: skip
@click.option("--rejects-max", default=REJECTS_MAX, show_default=True, help="Bad rows, at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def backfill(file: Path, as_json: bool, **given: Any) -> None:
    """Learn from the past in FILE (CSV or Parquet), then hand over to the live topics.

    Profiles, labels and models become what they would be, had the system run live from the
    beginning of FILE, each label known at its time. Redis and our topics must be empty before; the
    live transactions may be there. Killed or stopped, the same command goes on where it was; until
    the cut-over no worker and no trainer begins.
    """
    plan = _plan(file, given)
    with stopped_by_signal() as stopped:
        done = asyncio.run(_run(plan, stopped))
    _write(plan.rejects, done.rejects)
    click.echo(_as_json(plan, done) if as_json else _as_text(plan, done))


def _plan(file: Path, given: dict[str, Any]) -> Plan:
    settings = current_settings()
    schema = load_schema(settings.schema)
    if given["no_labels"] and (given["labels_file"] or given["label_time"]):
        raise click.UsageError("--no-labels excludes --labels and --label-time")
    if schema.label is None and not given["no_labels"]:
        raise SettingError(
            f"schema {schema.name!r} names no column of labels: add [label] to it, or --no-labels"
        )
    options = HistoryOptions(
        labels=not given["no_labels"],
        delay_ms=given["label_delay"],
        label_time=given["label_time"],
        labels_file=given["labels_file"],
        source=given["label_source"],
        to_end=given["labels_to_end"],
        step_ms=given["step"],
        sort=given["sort"],
        rejects_max=given["rejects_max"],
    )
    rejects = given["rejects"] or Path(settings.state_dir) / f"{file.name}.rejects.csv"
    endpoints = endpoints_of(settings)
    if not settings.kafka_servers:
        init_keys(settings.keys_path)
    return Plan(
        file, settings, schema, endpoints, options, given["named"], given["allow_gap"], rejects
    )


def given_of(plan: Plan) -> dict[str, Any]:
    """Give all that the result depends on, by names that are understood."""
    options = dataclasses.asdict(plan.options)
    labels_file = options.pop("labels_file")
    del options["rejects_max"]
    settings = {f"setting {name}": getattr(plan.settings, name) for name in EFFECTIVE}
    return {
        "the file's SHA-256": _sha256(plan.file),
        "the labels' SHA-256": _sha256(labels_file) if labels_file else "",
        "the schema's hash": FeatureKernel(plan.schema).schema_hash,
        **{f"option {name}": value for name, value in options.items()},
        **settings,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _run(plan: Plan, stopped: Callable[[], bool]) -> Done:
    settings, servers = plan.settings, plan.endpoints.kafka_servers
    # What is misspelt is said before hours of work.
    named_offsets(servers, settings.partitions, plan.named)
    run = Run(plan.file.name, given_of(plan))
    places = {"kafka_servers": servers, "redis_url": plan.endpoints.redis_url}
    async with Backfill(settings, plan.schema, **places) as work:
        resumed = await _begin(work.store, run, plan)
        events, seconds, history = await _work_off(work, plan, stopped)
        offsets = named_offsets(servers, settings.partitions, plan.named)
        met = await meet(work.store, plan.schema, settings, servers, offsets)
        met.check(allow_gap=plan.allow_gap)
        done = Done(
            history=history,
            rejects=[*history.rejects, *_refused(plan, history)],
            decided=_length(servers, DECISIONS),
            labels=await _ledger(work.store, settings.partitions),
            examples=_length(servers, TRAINING),
            versions=read_models(servers),
            offsets=offsets,
            met=met,
            events=events,
            seconds=seconds,
            resumed=resumed,
        )
        # From here on workers may begin.
        waiting = await cut_over(work.store, servers, run, offsets, work.owner)
    done.rejects.extend(_unjoined(plan, waiting))
    return done


async def _begin(store: RedisStore, run: Run, plan: Plan) -> bool:
    """Begin, or go on with what was begun; says which."""
    if await stored_run(store) is None:
        for topic in (DECISIONS, TRAINING):
            if count := _length(plan.endpoints.kafka_servers, topic):
                raise SettingError(
                    f"{topic} holds {count:,} records of a system that this Redis knows nothing "
                    "of: history is read into empty topics"
                )
    return await begin_run(store, run, plan.settings.partitions)


async def _work_off(
    work: Backfill, plan: Plan, stopped: Callable[[], bool]
) -> tuple[int, float, History]:
    """Work off the file; gives the events that were not done before, and how long it took."""
    settings = plan.settings
    history = History(
        plan.file,
        plan.schema,
        plan.options,
        partitions=settings.partitions,
        chunk_events=settings.batch_events_max,
        tokeniser=Tokeniser.of(settings, plan.schema),
    )
    begun_at = await work.recover()
    started = time.perf_counter()
    with progress_bar(count_rows(plan.file)) as show:

        def report(step: HistoryStep) -> None:
            rate = max(0, step.end - begun_at) / (time.perf_counter() - started)
            day = datetime.fromtimestamp(step.start_ms / 1_000, UTC)
            show(step.end + len(history.rejects), f"{rate:,.0f}/s  {day:%Y-%m-%d %H:%M}")

        try:
            for step in history.steps():
                if stopped():
                    raise click.Abort
                await work.step(step)
                report(step)
        finally:
            # What was set aside tells why reading ended, if it did.
            _write(plan.rejects, history.rejects)
        await work.finish()
    if not history.accepted:
        raise DataError(f"{plan.file.name}: no row of it fits the schema {plan.schema.name!r}")
    return max(0, history.accepted - begun_at), time.perf_counter() - started, history


def _length(servers: str, topic: str) -> int:
    with LogReader(servers, topic) as reader:
        return sum(reader.ends.values()) - sum(reader.begins.values())


async def _ledger(store: RedisStore, partitions: int) -> dict[str, int]:
    """Give what became of the labels, of all partitions."""
    found: Counter[str] = Counter()
    for p in range(partitions):
        stored = await store.redis.hgetall(f"ledger:{p}")
        found.update({as_bytes(name).decode(): int(count) for name, count in stored.items()})
    return {name: count for name, count in sorted(found.items()) if count}


def _refused(plan: Plan, history: History) -> Iterator[Reject]:
    """Give what became a dead letter on its way, with its row."""
    decoder, seen = LabelDecoder(plan.schema), set[tuple[str, str, str]]()
    for record in read_topic(plan.endpoints.kafka_servers, DEAD_LETTERS):
        letter = DeadLetter.of(
            record.partition, record.offset, record.key, record.value, record.headers
        )
        if letter is None or not letter.said["topic"].startswith(PREFIX):
            continue
        said = letter.said
        source = (said["topic"], said["partition"], said["offset"])
        if source in seen:
            continue
        seen.add(source)
        problem = said.get("message", said["reason"])
        if said["topic"] == PREFIX + TRANSACTIONS:
            yield Reject(plan.file.name, history.row_of(int(said["offset"])), "row", problem)
        else:
            yield _label_reject(plan, decoder, letter.value, problem)


def _unjoined(plan: Plan, waiting: Sequence[bytes]) -> Iterator[Reject]:
    decoder = LabelDecoder(plan.schema)
    for value in waiting:
        yield _label_reject(plan, decoder, value, "its transaction was not decided")


def _label_reject(plan: Plan, decoder: LabelDecoder, value: bytes | None, problem: str) -> Reject:
    label = decoder.decode_one(value)
    name = label.transaction_id if isinstance(label, Label) else "unknown"
    file = plan.options.labels_file or plan.file
    return Reject(file.name, None, "label", f"transaction {name}: {problem}")


def _write(path: Path, rejects: Sequence[Reject]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(Reject)])
        writer.writerows(dataclasses.astuple(reject) for reject in rejects)


def _record(plan: Plan, done: Done) -> dict[str, Any]:
    history, rows = done.history, sum(reject.what == "row" for reject in done.rejects)
    pointer = done.versions.champion(ModelVerifier(plan.settings))
    refused = rows - sum(reject.what == "row" for reject in history.rejects)
    return {
        "transactions": {
            "decided": done.decided,
            "repeated": max(0, history.accepted - refused - done.decided),
            "rejected": rows,
        },
        "labels": {
            "given": history.labels,
            "rejected": len(done.rejects) - rows,
            "moved": history.moved,
            "not_due": history.waiting,
            "ledger": done.labels,
        },
        "examples": done.examples,
        "champion": pointer.version if pointer else "",
        "versions_kept": len(done.versions.snapshots),
        "first_event": _moment(history.first_ms),
        "last_event": _moment(history.last_ms),
        "cut_over": positions_text(done.offsets),
        "live": dataclasses.asdict(done.met),
        "resumed": done.resumed,
        "seconds": round(done.seconds, 3),
        "events_per_second": round(done.events / done.seconds, 1) if done.seconds else 0.0,
    }


def _as_json(plan: Plan, done: Done) -> str:
    return msgspec.json.encode(_record(plan, done)).decode()


def _as_text(plan: Plan, done: Done) -> str:
    found, live = _record(plan, done), done.met
    events, labels = found["transactions"], found["labels"]
    lines = [
        f"decided {events['decided']:,} transactions of {plan.file.name}, "
        f"{found['first_event']} to {found['last_event']}, {found['events_per_second']:,.0f}/s",
        f"repeated {events['repeated']:,}  rejected {events['rejected']:,}  labels rejected "
        f"{labels['rejected']:,}  (in {plan.rejects})",
        f"labels {labels['given']:,}, not due yet {labels['not_due']:,}, moved to their "
        f"transaction {labels['moved']:,}; examples {found['examples']:,}",
        f"champion {found['champion']}; versions kept {found['versions_kept']:,}",
        f"cut over at {TRANSACTIONS} {found['cut_over']}: before it {live.skipped:,} of the file, "
        f"{live.gap:,} of a gap; from it on {live.repeated:,} of the file, {live.fresh:,} new, the "
        f"first of {_moment(live.fresh_first_ms)}",
    ]
    if labels["not_due"]:
        lines.append("labels that are not due were not given: send them to feedback when they are")
    return "\n".join(lines)


def _moment(time_ms: int | None) -> str:
    return "-" if time_ms is None else f"{datetime.fromtimestamp(time_ms / 1000, UTC):%FT%TZ}"
