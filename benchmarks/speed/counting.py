"""Counts what does not depend on the machine, as a process.

    python -m benchmarks.speed.counting EVENTS

The scorers decide so many events in batches of 500, as `benchmarks.guarantee` does it, while every
call of a function is counted; Redis counts its commands and bytes.
"""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import redis

from benchmarks.guarantee import Bench
from benchmarks.speed.place import OURS
from stack.servers import Endpoints, Stack

BATCH = 500
NAMES = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")


async def counted(endpoints: Endpoints, bench: Bench) -> dict[str, int]:
    """Decide all events twice, and count at the second time."""
    calls: Counter[str] = Counter()

    def note(_: Any, event: str, __: Any) -> None:
        calls[event] += 1

    async with bench.ready():
        await bench.measured("fenced", BATCH)
        before = _stats(endpoints)
        sys.setprofile(note)
        try:
            await bench.measured("fenced", BATCH)
        finally:
            sys.setprofile(None)
        after = _stats(endpoints)
    found = {name: after[name] - before[name] for name in NAMES}
    return found | {"calls": calls["call"], "c_calls": calls["c_call"]}


def _stats(endpoints: Endpoints) -> dict[str, int]:
    with redis.Redis.from_url(endpoints.redis_url) as client:
        stats = client.info("stats")
    return {name: int(stats[name]) for name in NAMES}


def main() -> None:
    """Print the counts of an event."""
    events = int(sys.argv[1])
    with TemporaryDirectory(prefix="fraudstream-bench-") as folder:
        settings = replace(OURS, state_dir=folder)
        with Stack(settings, attached=True, say=lambda line: None) as endpoints:
            found = asyncio.run(counted(endpoints, Bench(settings, endpoints, events)))
    commands, received, sent = (found[name] for name in NAMES)
    said = {
        "events": events,
        "calls_per_event": found["calls"] / events,
        "c_calls_per_event": found["c_calls"] / events,
        "redis_commands_per_1000_events": commands / events * 1_000,
        "redis_bytes_in_per_event": received / events,
        "redis_bytes_out_per_event": sent / events,
    }
    print(json.dumps(said))  # noqa: T201 - the answer of this process


if __name__ == "__main__":
    main()
