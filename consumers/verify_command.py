"""`fraudstream verify`: recorded decisions made again, and compared bit for bit."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from consumers.verify import Recomputed, RecordedLogs, Thresholds
from pipeline.errors import DataError
from pipeline.feature_verification import FeaturesVerified
from pipeline.recomputation import Expected
from pipeline.schema import load_schema
from pipeline.verification import (
    Finding,
    Verified,
)
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of


class _Policy(click.ParamType):
    """Two thresholds; the command gets them as numbers."""

    name = "review,decline"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Thresholds:
        if isinstance(value, tuple):
            return value
        try:
            review, decline = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected two scores such as 0.15,0.7 (got {value!r})", param, ctx)
        if not 0.0 < review < decline <= 1.0:
            self.fail(f"expected 0 < review < decline <= 1 (got {value!r})", param, ctx)
        return review, decline


@click.command()
@click.argument("transaction_id", required=False)
@click.option("--all", "everything", is_flag=True, help="Every decision that is recorded.")
@click.option("--features", is_flag=True, help="With --all and one partition: the features too.")
@click.option("--key", help="Partition key of TRANSACTION_ID: only its partition is searched.")
@click.option(
    "--policy", "policies", type=_Policy(), multiple=True,
    help="Thresholds of earlier decisions, 0.15,0.7; may be repeated.",
)  # fmt: skip
@click.option("--champion-only", is_flag=True, help="Leave the challengers' scores out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def verify(
    transaction_id: str | None,
    everything: bool,
    features: bool,
    key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make recorded decisions again, and compare them bit for bit.

    Score, reasons, action and the challengers' scores follow from the features that a decision
    carries and the versions it names, which are folded again from the training log. Exit 0 when
    all are equal.
    """
    if (transaction_id is None) != everything or (features and not everything):
        raise click.UsageError("give either a TRANSACTION_ID, or --all, perhaps with --features")
    settings = current_settings()
    schema = load_schema(settings.schema)
    with RecordedLogs(kafka_servers_of(settings), schema, settings, **options) as logs:
        if transaction_id is None:
            _verify_all(logs, features=features, as_json=as_json)
        else:
            _verify_one(logs, transaction_id, key, as_json=as_json)


def _verify_all(logs: RecordedLogs, *, features: bool, as_json: bool) -> None:
    if not logs.decisions:
        raise DataError("nothing was decided on this Kafka: there is nothing to verify")
    if features:
        logs.check_one_partition()
    with _progress("decisions", logs.decisions) as report:
        result = logs.verify(lambda found: report(found.read))
    found: FeaturesVerified | None = None
    if features and result.finished:
        with _progress("features", logs.transactions) as report:
            found = logs.verify_features(lambda found: report(found.transactions))
    click.echo(_as_json(result, found)) if as_json else _show(result, found)
    if not (result.finished and (found is None or found.finished)):
        raise click.Abort
    if not (result.is_equal and (found is None or found.is_equal)):
        raise DataError("not everything was made again and found equal")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("verify"),
        BarColumn(),
        TextColumn("{task.completed:,} {task.description}"),
        TextColumn("{task.fields[rate]:>9,.0f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(what, total=total, rate=0.0)
        started = time.perf_counter()

        def report(completed: int) -> None:
            rate = completed / max(time.perf_counter() - started, 1e-3)
            progress.update(task, completed=completed, rate=rate)

        yield report


def _as_json(result: Verified, features: FeaturesVerified | None) -> str:
    record = {
        "finished": result.finished,
        "seconds": round(result.seconds, 3),
        "read": result.read,
        "distinct": result.distinct,
        "repeated": result.repeated,
        "conflicting": result.conflicting,
        "recomputed": result.recomputed,
        "equal": result.equal,
        "different": result.different,
        "not_recomputed": dict(result.not_recomputed),
        "examples": result.examples,
        "snapshots": {
            "equal": len(result.snapshots.equal),
            "different": result.snapshots.different,
            "unchecked": len(result.snapshots.unchecked),
            "refused": result.snapshots.refused,
        },
        "findings": [finding._asdict() for finding in result.findings],
    }
    if features is not None:
        record["features"] = {
            "finished": features.finished,
            "transactions": features.transactions,
            "rejected": features.rejected,
            "duplicates": features.duplicates,
            "equal": features.equal,
            "different": features.different,
            "missing": features.missing,
            "unexpected": features.unexpected,
            "not_recomputed": dict(features.not_recomputed),
            "findings": [finding._asdict() for finding in features.findings],
        }
    return msgspec.json.encode(record).decode()


def _show(result: Verified, features: FeaturesVerified | None) -> None:
    whole = "" if result.finished and (not features or features.finished) else "  (interrupted)"
    rate = result.read / result.seconds if result.seconds else 0.0
    click.echo(
        f"decisions   read {result.read:,}  distinct {result.distinct:,}  "
        f"repeated {result.repeated:,}  conflicting {result.conflicting:,}{whole}"
    )
    click.echo(
        f"recomputed  {result.recomputed:,} in {result.seconds:.1f} s ({rate:,.0f}/s)  "
        f"equal {result.equal:,}  different {result.different:,}"
    )
    for reason, count in result.not_recomputed.items():
        click.echo(f"not recomputed  {count:,}: {reason}")
    checks = result.snapshots
    click.echo(
        f"versions    folded from {result.examples:,} records of training; published snapshots "
        f"equal {len(checks.equal)}  different {len(checks.different)}  "
        f"unchecked {len(checks.unchecked)}  refused {len(checks.refused)}"
    )
    if features is not None:
        _show_features(features)
    findings = [*result.findings, *(features.findings if features else ())]
    if findings:
        Console(highlight=False, soft_wrap=True).print(_finding_table(findings))


def _show_features(features: FeaturesVerified) -> None:
    click.echo(
        f"features    equal {features.equal:,}  different {features.different:,}  "
        f"decisions missing {features.missing:,}  unexpected {features.unexpected:,}"
    )
    click.echo(
        f"            of {features.transactions:,} transactions, "
        f"rejected {features.rejected:,}, duplicates {features.duplicates:,}"
    )
    for reason, count in features.not_recomputed.items():
        click.echo(f"not recomputed  {count:,}: {reason}")


def _finding_table(findings: list[Finding]) -> Table:
    table = Table("transaction", "place", "what", "expected", "got", box=None)
    for item in findings:
        table.add_row(*(_text(value) for value in item))
    return table


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _verify_one(logs: RecordedLogs, transaction_id: str, key: str | None, *, as_json: bool) -> None:
    found = logs.find(transaction_id, key)
    if not found:
        raise DataError(f"no decision of transaction {transaction_id!r} is recorded there")
    for item in found:
        if as_json:
            click.echo(msgspec.json.encode(_described(item)).decode())
        else:
            _show_one(item)
    if len(found) > 1:
        raise DataError(f"{transaction_id!r} has {len(found)} different decisions")
    if not found[0].is_equal:
        raise DataError("the decision was not made again and found equal")


def _described(item: Recomputed) -> dict[str, object]:
    known = isinstance(item.expected, Expected)
    return {
        "transaction_id": item.decision.transaction_id,
        "place": item.place,
        "equal": item.is_equal,
        "different": [name for name, _, _ in item.different],
        "decision": item.decision,
        "recomputed": item.expected._asdict() if isinstance(item.expected, Expected) else None,
        "not_recomputed": None if known else item.expected,
        "model_version": item.decision.model_version,
        "labels_learned": item.learned,
    }


def _show_one(item: Recomputed) -> None:
    decision, expected = item.decision, item.expected
    click.echo(f"{decision.transaction_id}  {item.place}  of {decision.source}")
    learned = f", {item.learned:,} labels learned" if isinstance(expected, Expected) else ""
    click.echo(f"scored by {decision.model_version}{learned}; policy {decision.policy_version}")
    if isinstance(expected, str):
        click.echo(f"not recomputed: {expected}")
        return
    table = Table("", "decided", "made again", "", box=None)
    changed = {name for name, _, _ in item.different}
    for name in ("score", "action", "action_taken", "reasons", "challengers", "members"):
        again = getattr(expected, name)
        same = "unknown" if again is None else "different" if name in changed else "equal"
        table.add_row(name, _text(getattr(decision, name)), _text(again), same)
    Console(highlight=False, soft_wrap=True).print(table)
