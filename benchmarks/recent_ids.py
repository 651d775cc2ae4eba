"""Measure what an id costs that is remembered, so that no transaction is decided twice.

`python -m benchmarks.recent_ids` lets ids be looked up and taken on a real Redis, by the commits
that a scorer would make, and prints how many bytes each takes, what the look-up and the ids' part
of a commit cost Redis, and what the rule itself costs the worker. All times are of the processor.
"""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.machine import machine
from consumers.redis_ids import RedisIds
from consumers.redis_store import RedisStore
from pipeline.commit import Change, Stored
from pipeline.events import Transactions, no_numbers
from pipeline.memory_ids import MemoryIds
from pipeline.settings import Settings
from stack.servers import Stack

BATCH = 1_000
SIZES = (100_000, 300_000, 1_000_000)
# Twenty events a second of event time, and a window that holds the largest size and no more.
STEP_MS = 50
START_MS = 1_600_000_000_000
WINDOW_DAYS = SIZES[-1] * STEP_MS / 86_400_000


def batch_of(first: int) -> Transactions:
    """Give a batch of events with ids as producers make them."""
    numbers = range(first, first + BATCH)
    return Transactions(
        transaction_id=[f"transaction-{number:012d}" for number in numbers],
        event_time_ms=START_MS + np.arange(first, first + BATCH) * STEP_MS,
        keys=([f"c{number % 5_000}" for number in numbers], ["m1"] * BATCH),
        amount_minor=np.full(BATCH, 950),
        currency=["EUR"] * BATCH,
        numbers=no_numbers(BATCH),
    )


class Partition:
    """The ids of one partition, looked up and taken by one commit after the other."""

    def __init__(self, store: RedisStore, settings: Settings) -> None:
        self._store, self._ids = store, RedisIds(settings)
        self._steps = 0
        self.taken = 0
        self.load_seconds = self.commit_seconds = self.empty_seconds = 0.0

    async def take(self, until: int) -> None:
        """Take further ids, until there were so many."""
        self.load_seconds = self.commit_seconds = self.empty_seconds = 0.0
        for first in range(self.taken, until, BATCH):
            batch = batch_of(first)
            watermark_ms = int(batch.event_time_ms[0]) - STEP_MS
            began = await self._seconds()
            asked = self._ids.ask(batch, watermark_ms=watermark_ms)
            self._ids.answer(await self._store.known_ids(asked))
            self.load_seconds += await self._seconds() - began
            found = self._ids.sift(batch)
            assert len(found.fresh) == BATCH, "every id is new"
            self.commit_seconds += await self._commit(
                *self._ids.changes(), ("SET", "wm:0", int(batch.event_time_ms[-1]))
            )
            self.empty_seconds += await self._commit()
        self.taken = until

    async def _commit(self, *changes: Change) -> float:
        expected = str(self._steps) if self._steps else None
        self._steps += 1
        began = await self._seconds()
        done = await self._store.commit("ids", expected, Stored(str(self._steps), b""), changes)
        assert done, "nobody else writes here"
        return await self._seconds() - began

    async def _seconds(self) -> float:
        """Give the seconds of the processor that Redis has used."""
        info = await self._store.redis.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    async def memory(self) -> int:
        """Give the bytes that Redis uses in all."""
        info = await self._store.redis.info("memory")
        return int(info["used_memory"])

    async def held(self) -> tuple[int, int]:
        """Give how many ids Redis holds, and how many gave way at the limit."""
        entries, dropped = await self._store.redis.hmget("ids", "entries", "dropped")
        return int(entries or 0), int(dropped or 0)


async def measure(redis_url: str, settings: Settings) -> dict[str, object]:
    """Fill an empty Redis step by step, then let as many again push them out by their age."""
    store = RedisStore(redis_url, retry_seconds_max=5)
    partition = Partition(store, settings)
    empty = await partition.memory()
    sizes = []
    for size in (*SIZES, 2 * SIZES[-1]):
        before = partition.taken
        await partition.take(size)
        held, dropped = await partition.held()
        figures = {
            "taken": size,
            "held": held,
            "dropped": dropped,
            "bytes": round((await partition.memory() - empty) / held, 1),
            "look_up_us": _micros(partition.load_seconds, size - before),
            "commit_us": _micros(partition.commit_seconds, size - before),
            "empty_commit_us": _micros(partition.empty_seconds, size - before),
        }
        sizes.append(figures)
        click.echo(" ".join(f"{name} {value}" for name, value in figures.items()))
    await store.close()
    return {"sizes": sizes}


def measure_rule(settings: Settings) -> dict[str, float]:
    """Measure the rule alone, in memory: what a replay pays."""
    ids, seconds = MemoryIds(settings), 0.0
    count = 300
    for number in range(count):
        batch = batch_of(number * BATCH)
        began = time.process_time()
        ids.sift(batch)
        seconds += time.process_time() - began
    found = {"rule_us": _micros(seconds, count * BATCH)}
    click.echo(f"the rule in memory: {found['rule_us']} us an event of the processor")
    return found


def _micros(seconds: float, events: int) -> float:
    return round(seconds / events * 1e6, 2)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(out: Path | None) -> None:
    """Measure the ids that are remembered."""
    with TemporaryDirectory(prefix="fraudstream-") as folder:
        settings = Settings(state_dir=folder, duplicate_days=WINDOW_DAYS)
        found: dict[str, object] = dict(measure_rule(replace(settings, duplicate_days=0.05)))
        with Stack(settings, attached=True, say=lambda line: click.echo(line, err=True)) as ends:
            found |= asyncio.run(measure(ends.redis_url, settings))
    if out is not None:
        out.write_text(json.dumps(found | {"machine": machine()}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
