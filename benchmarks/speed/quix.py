"""Quix Streams with the naive features and River's model, as a process.

    python -m benchmarks.speed.quix SERVERS OUTPUT GUARANTEE

GUARANTEE is `at-least-once` or `exactly-once`. State is RocksDB with a changelog, as by default.
"""

import sys
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.speed.naive import Naive, decision
from pipeline.topics import TRANSACTIONS


def main() -> None:
    """Run until SIGTERM."""
    from quixstreams import Application  # noqa: PLC0415 - in the bench group only

    servers, output, guarantee = sys.argv[1:]
    with TemporaryDirectory() as folder:
        app = Application(
            servers,
            consumer_group=f"quix-{guarantee}",
            auto_offset_reset="earliest",
            state_dir=folder,
            loglevel="WARNING",
            processing_guarantee=guarantee,
        )
        model = Naive()

        def score(event: Any, state: Any) -> Any:
            count = state.get("count", 0) + 1
            state.set("count", count)
            found = model.score(float(event["amount"]), event["event_time"], count)
            return decision(event, found)

        stream = app.dataframe(app.topic(TRANSACTIONS))
        stream.apply(score, stateful=True).to_topic(app.topic(output))
        app.run()


if __name__ == "__main__":
    main()
