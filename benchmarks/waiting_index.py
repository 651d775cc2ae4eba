"""Measure what a decision that waits for its label costs in Redis.

`python -m benchmarks.waiting_index` lets decisions wait on a real Redis, by the commits that a
scorer would make, and prints how many bytes each takes, with and without a verdict, and how long
the index's part of a commit takes.
"""

import asyncio
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.machine import machine
from consumers.redis_store import RedisStore
from consumers.waiting_store import index_changes, verdict_changes
from pipeline.commit import Change, OutboxRecord, Stored
from pipeline.events import Label
from pipeline.settings import Settings
from pipeline.topics import DECISIONS
from pipeline.verdicts import settle
from stack.servers import Stack

BATCH = 1_000
SIZES = (100_000, 300_000, 1_000_000)
VERDICT = settle(None, Label("l1", "t", "c", True, "analyst", 1_600_000_000_000), training_seq=1)[1]


class Partition:
    """The index of one partition, changed by one commit after the other."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._steps = 0
        self.waiting = 0

    async def commit(self, changes: list[Change]) -> None:
        """Take one step with these changes."""
        expected = str(self._steps) if self._steps else None
        self._steps += 1
        done = await self._store.commit("index", expected, Stored(str(self._steps), b""), changes)
        assert done, "nobody else writes here"

    async def wait(self, until: int) -> None:
        """Let further decisions wait, until there are so many."""
        limit = Settings().feedback_limit
        for start in range(self.waiting, until, BATCH):
            landed = [
                (OutboxRecord(DECISIONS, 0, f"t-{number}".encode(), b""), number)
                for number in range(start, min(start + BATCH, until))
            ]
            await self.commit(index_changes(0, landed, limit=limit))
        self.waiting = until

    async def label_all(self) -> None:
        """Give every decision a verdict."""
        for start in range(0, self.waiting, BATCH):
            stop = min(start + BATCH, self.waiting)
            await self.commit(verdict_changes(0, {f"t-{n}": VERDICT for n in range(start, stop)}))

    async def memory(self) -> int:
        """Give the bytes that Redis uses in all."""
        info = await self._store.redis.info("memory")
        return int(info["used_memory"])


async def measure(redis_url: str) -> dict[str, object]:
    """Fill an empty Redis step by step."""
    store = RedisStore(redis_url, retry_seconds_max=5)
    partition = Partition(store)
    empty = await partition.memory()
    sizes = []
    for size in SIZES:
        before, started = partition.waiting, time.perf_counter()
        await partition.wait(size)
        seconds = time.perf_counter() - started
        each = (await partition.memory() - empty) / size
        micros = seconds / (size - before) * 1e6
        sizes.append({"waiting": size, "bytes": round(each, 1), "commit_us": round(micros, 1)})
        click.echo(f"{size:>9,} waiting: {each:.1f} bytes each, {micros:.1f} us to add")
    await partition.label_all()
    labelled = (await partition.memory() - empty) / partition.waiting
    click.echo(f"{partition.waiting:>9,} labelled: {labelled:.1f} bytes each")
    await store.close()
    return {"sizes": sizes, "bytes_with_verdict": round(labelled, 1)}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(out: Path | None) -> None:
    """Measure the index of waiting decisions."""
    with TemporaryDirectory(prefix="fraudstream-") as folder:
        settings = Settings(state_dir=folder)
        with Stack(settings, attached=True, say=lambda line: click.echo(line, err=True)) as ends:
            found = asyncio.run(measure(ends.redis_url))
    if out is not None:
        out.write_text(json.dumps(found | {"machine": machine()}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
