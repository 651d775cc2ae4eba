"""`fraudstream mistakes`: the costliest mistakes, and what was learned from each."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from consumers.verify import training_log
from pipeline.errors import DataError
from pipeline.features import FeatureKernel
from pipeline.mistakes import (
    TOP_MAX,
    Costs,
    Entry,
    Ledger,
    Mistake,
    Narrator,
    ReplayMistakes,
    Totals,
)
from pipeline.policy import Policy
from pipeline.replay import Replay, ReplayOptions
from pipeline.reporting.words import moment_text
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from pipeline.version_fold import VersionFold
from pipeline.version_names import split_version
from producers.commands import Duration, moment_ms
from producers.datasets import read_events
from producers.tokens import Tokeniser
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--label-delay", type=Duration(), default="7d", show_default=True,
    help="With FILE: event time from an event to its label.",
)  # fmt: skip
@click.option("--start", type=click.DateTime(), help="Only events from this moment on (UTC).")
@click.option("--end", type=click.DateTime(), help="Only events before this moment (UTC).")
@click.option(
    "--top", type=click.IntRange(1, TOP_MAX), default=10, show_default=True,
    help="How many mistakes to list, the costliest first.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Totals, then a mistake: an object a line.")
def mistakes(
    file: Path | None,
    label_delay: int,
    start: datetime | None,
    end: datetime | None,
    top: int,
    as_json: bool,
) -> None:
    """List the costliest mistakes, and what was learned from each.

    Of a replay of FILE (CSV or Parquet), or without one of what the live system learned: missed
    frauds, approved and later fraud, cost their amount; false declines, declined and later genuine,
    cost what --decline-cost-minor and --decline-cost-share say. The same stored features are scored
    by the model then, right after it learned the label, and now.
    """
    settings = current_settings()
    schema = load_schema(settings.schema)
    costs = Costs(settings.decline_cost_minor, settings.decline_cost_share)
    ledger = Ledger(costs, limit=top, start_ms=moment_ms(start), end_ms=moment_ms(end))
    if file is not None:
        found = _replayed(file, schema, settings, ledger, label_delay)
    else:
        found = _live(schema, settings, ledger)
    if as_json:
        for item in [asdict(ledger.totals), *map(asdict, found)]:
            click.echo(msgspec.json.encode(item).decode())
    else:
        _show(ledger.totals, found, schema.minor_digits)


def _narrator(kernel: FeatureKernel, settings: Settings) -> Narrator:
    policy = Policy(
        kernel.table,
        review_score_min=settings.review_score_min,
        decline_score_min=settings.decline_score_min,
    )
    return Narrator(kernel.names, policy)


def _replayed(
    file: Path, schema: Schema, settings: Settings, ledger: Ledger, label_delay: int
) -> list[Mistake]:
    following = ReplayMistakes(ledger, _narrator(FeatureKernel(schema), settings))
    run = Replay(
        schema,
        settings,
        ReplayOptions(label_delay),
        decided=following.decided,
        settled=following.settled,
    )
    following.run = run

    tokeniser = Tokeniser.of(settings, schema)

    def batches() -> Iterator[Any]:
        for batch in read_events(file, schema, tokeniser=tokeniser):
            events = batch.transactions()
            following.expect(events.transaction_id, batch.is_fraud)
            yield events, batch.is_fraud

    result = run.run(batches(), lambda progress: None)
    found = following.finish()
    if not result.finished:
        raise click.Abort
    return found


def _live(schema: Schema, settings: Settings, ledger: Ledger) -> list[Mistake]:
    """Read the training log; what the models knew at any time is folded from it again."""
    log = training_log(kafka_servers_of(settings))
    end = 0
    for offset, example in log(0):
        end = offset + 1
        if example is not None:
            ledger.add(example, offset)
    if not ledger.totals.labels:
        raise DataError("no label was learned of an event of this period: there is nothing to list")
    kernel = FeatureKernel(schema)
    fold = VersionFold(schema, (settings.model,), log, end=end, options=settings.model_options)
    try:
        return _told(fold, ledger.costliest, _narrator(kernel, settings), kernel.schema_hash)
    finally:
        fold.close()


def _told(
    fold: VersionFold, entries: list[Entry], narrator: Narrator, schema_hash: str
) -> list[Mistake]:
    """Ask for versions in rising order, so that the log is folded once."""
    then: dict[str, Any] = {}
    learned: dict[str, float] = {}
    for version, entry in sorted(_asked(fold.names[0], entries), key=_offset):
        model = fold.model(version)
        example = entry.example
        if isinstance(model, str) or example.schema_hash != schema_hash:
            continue
        if version == example.model_version:
            then[example.transaction_id] = model.score(entry.features).contributions[0]
        else:
            learned[example.transaction_id] = float(model.scores(entry.features)[0])
    now = fold.model(f"{fold.names[0]}@{fold.end}")
    return [
        narrator.tell(
            entry,
            then=then.get(entry.example.transaction_id),
            learned=learned.get(entry.example.transaction_id),
            now=now if not isinstance(now, str) and _fits(entry, schema_hash) else None,
        )
        for entry in entries
    ]


def _fits(entry: Entry, schema_hash: str) -> bool:
    return entry.example.schema_hash == schema_hash


def _asked(name: str, entries: Iterable[Entry]) -> Iterator[tuple[str, Entry]]:
    for entry in entries:
        yield entry.example.model_version, entry
        yield f"{name}@{entry.place + 1}", entry


def _offset(asked: tuple[str, Entry]) -> int:
    parts = split_version(asked[0])
    return parts[1] if parts else 0


def _show(totals: Totals, found: list[Mistake], minor_digits: int) -> None:
    console = Console(highlight=False)

    def money(minor: float) -> str:
        return f"{minor / 10**minor_digits:,.{minor_digits}f}"

    console.print(
        f"missed frauds   {totals.missed_frauds:,}, value lost {money(totals.value_lost_minor)}"
    )
    console.print(
        f"caught frauds   {totals.caught_frauds:,}, value saved {money(totals.value_saved_minor)}"
    )
    console.print(
        f"false declines  {totals.false_declines:,}, cost {money(totals.decline_cost_minor)}"
    )
    console.print(f"labels          {totals.labels:,}")
    for item in found:
        scores = (item.score_then, item.score_learned, item.score_now)
        then, learned, now = ("-" if score is None else f"{score:.3f}" for score in scores)
        console.print(
            f"\n{item.kind.replace('_', ' '):15} {item.transaction_id}  "
            f"{moment_text(item.event_time)}  amount {money(item.amount_minor)}  "
            f"cost {money(item.cost_minor)}",
            soft_wrap=True,
        )
        console.print(f"  score         {then} then, {learned} once learned, {now} now")
        reasons = ", ".join(f"{code} {value:+.2f}" for code, value in item.reasons)
        console.print(f"  reasons then  {reasons or 'none'}", soft_wrap=True)
        moved = ", ".join(f"{name} {old:+.2f} to {new:+.2f}" for name, old, new in item.moved)
        console.print(f"  what moved    {moved or 'nothing'}", soft_wrap=True)
