"""Faust and River as the documentation of both teaches them, as a process.

A Record, a Table that counts each card's events, an agent over the stream, one `send` for each.

    python -m benchmarks.speed.naive_faust SERVERS PARTITIONS OUTPUT
"""

import sys
from tempfile import TemporaryDirectory
from typing import Any

import faust

from benchmarks.speed.naive import Naive, decision
from pipeline.topics import TRANSACTIONS


class Transaction(faust.Record, serializer="json"):
    """An event of the card schema."""

    transaction_id: str
    event_time: int
    card_id: str
    terminal_id: str
    amount: str
    currency: str


def make_app(servers: str, partitions: int, output: str, folder: str) -> Any:
    """Put the application together."""
    app = faust.App(
        "naive-faust",
        broker=[f"kafka://{server}" for server in servers.split(",")],
        store="memory://",
        datadir=folder,
        topic_partitions=partitions,
        consumer_auto_offset_reset="earliest",
    )
    transactions = app.topic(TRANSACTIONS, value_type=Transaction)
    decisions = app.topic(output, value_serializer="json")
    counts = app.Table("card-counts", default=int, partitions=partitions)
    model = Naive()

    @app.agent(transactions)
    async def score(stream: Any) -> None:
        async for event in stream:
            counts[event.card_id] += 1
            found = model.score(float(event.amount), event.event_time, counts[event.card_id])
            said = decision({"transaction_id": event.transaction_id}, found)
            await decisions.send(key=event.card_id, value=said)

    return app


def main() -> None:
    """Run until SIGTERM."""
    servers, partitions, output = sys.argv[1:]
    sys.argv = [sys.argv[0], "worker", "--without-web", "-l", "warn"]
    with TemporaryDirectory() as folder:
        make_app(servers, int(partitions), output, folder).main()


if __name__ == "__main__":
    main()
