"""`fraudstream alerts` and `fraudstream label`: the review queue by hand."""

import getpass

import click
import msgspec
from rich.console import Console
from rich.table import Table

from consumers.review_queue import ReviewQueue, send_label
from pipeline.card_numbers import holds_card_number
from pipeline.errors import SettingError
from pipeline.records import DecisionRecord
from pipeline.schema import load_schema
from pipeline.signing import LabelSigner
from stack.command_settings import current_settings
from stack.connections import endpoints_of
from stack.redis_clients import redis_client


@click.command()
@click.option(
    "--limit", default=20, show_default=True, help="At most so many, highest score first."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def alerts(limit: int, as_json: bool) -> None:
    """List what waits for review, with its reasons.

    Answer with `fraudstream label ID fraud` or `fraudstream label ID genuine`.
    """
    queue = _queue()
    found = queue.alerts(limit)
    if as_json:
        for decision in found:
            click.echo(msgspec.json.encode(_alert(decision)).decode())
        return
    Console().print(_alert_table(found, 10**queue.schema.minor_digits))
    click.echo(f"{len(found)} of {queue.count()} alerts")


@click.command()
@click.argument("transaction_id")
@click.argument("verdict", type=click.Choice(["fraud", "genuine"]))
@click.option("--by", default=getpass.getuser, help="Who says so [default: the user's name].")
@click.option("--json", "as_json", is_flag=True, help="The label as one JSON object.")
def label(transaction_id: str, verdict: str, by: str, as_json: bool) -> None:
    """Say that a transaction was fraud or genuine; the model learns from it."""
    if holds_card_number(by):
        raise SettingError("--by: expected a name, got a card number")
    queue = _queue()
    answer = queue.label(queue.find(transaction_id), is_fraud=verdict == "fraud", by=by)
    settings = current_settings()
    servers = endpoints_of(settings).kafka_servers
    send_label(answer, queue.schema, servers, LabelSigner.of(settings))
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
    else:
        click.echo(f"sent {answer.label_id}: {transaction_id} is {verdict}, says {by}")


def _queue() -> ReviewQueue:
    settings = current_settings()
    endpoints, schema = endpoints_of(settings), load_schema(settings.schema)
    redis = redis_client(endpoints.redis_url)
    return ReviewQueue(redis, endpoints.kafka_servers, schema, settings.partitions)


def _alert(decision: DecisionRecord) -> dict[str, object]:
    return {
        "transaction_id": decision.transaction_id,
        "event_time": decision.event_time,
        "keys": decision.keys,
        "amount": decision.amount,
        "currency": decision.currency,
        "score": decision.score,
        "reasons": decision.reasons,
        "model_version": decision.model_version,
    }


def _alert_table(decisions: list[DecisionRecord], minor_units: int) -> Table:
    table = Table("transaction", "score", "amount", "keys", "reasons", box=None)
    for decision in decisions:
        table.add_row(
            decision.transaction_id,
            f"{decision.score:.3f}",
            f"{decision.amount / minor_units:.2f} {decision.currency}",
            " ".join(decision.keys.values()),
            ", ".join(f"{code} {value:+.1f}" for code, value in decision.reasons),
        )
    return table
