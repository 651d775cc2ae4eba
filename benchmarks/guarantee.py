"""Measure what the guarantee costs: `python -m benchmarks.guarantee`.

The scorers of four partitions decide the same events on a real Redis (which writes every commit to
the disk before it answers) and a real Kafka, batch by batch, in one process, in four ways:

    fenced       as the worker does: state, position and outbox in one commit, then publication,
                 while the next batch is computed
    in turn      the same, but the next batch waits until the publication is acknowledged
    state only   state and position are stored, but no outbox: a crash loses decisions
    none         decided and published; state is in memory, so a crash loses it, and decisions

What the guarantee costs is the difference between `fenced` and `none`. The ways take turns, and the
best of some rounds counts, since other programs only ever make a round slower.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.documents import DOCS, markdown, put_tables
from benchmarks.machine import as_text, machine
from benchmarks.speed.cores import find_cores, pin
from consumers.control_feed import ControlFeed
from consumers.dead_letters import InputRecord
from consumers.model_feed import ModelFeed
from consumers.outbox_publisher import OutboxPublisher
from consumers.redis_profiles import ProfileCache
from consumers.redis_store import ENTRIES_AT_ONCE, Answer, LogEntry, Mark, RedisStore
from consumers.rules_file import RulesFile
from consumers.scorer import Parts, Scorer
from pipeline.commit import Change, Stored
from pipeline.counts import WorkerCounts
from pipeline.memory import collect_seldom
from pipeline.partitioner import partition_of
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelVerifier
from pipeline.topics import TRANSACTIONS
from pipeline.warm_up import warm_up
from producers.batch import joined
from producers.encoding import TransactionEncoder
from producers.feed import limited
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Endpoints, Stack

WAYS = ("fenced", "in turn", "state only", "none")
SIZES = (100, 500, 1_000)
CUSTOMERS, TERMINALS = 5_000, 10_000
RESULT = Path(__file__).parent / "results" / "guarantee.json"
DOCUMENT = DOCS / "commit-protocol.md"


class StateStore(RedisStore):
    """Stores state and position, and no outbox."""

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """Store all but the outbox."""
        return await super().commit(name, expected, Stored(stored.position, b""), changes)


class NoStore(RedisStore):
    """Stores nothing: what batches add to rows is kept in memory, as a loop of one's own would."""

    def __init__(self, url: str, *, retry_seconds_max: float) -> None:
        super().__init__(url, retry_seconds_max=retry_seconds_max)
        self._added: list[LogEntry] = []

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """Say that it was done."""
        for kind, *words in changes:
            if kind == "ADDED":
                by, content = str(words[0]).encode(), words[1]
                assert isinstance(content, bytes)
                self._added.append(LogEntry(Mark(len(self._added) + 1, by), content))
        return True

    async def read(
        self, additions: Mark | None, lessons: Mark | None, keys: Sequence[str], ids: bytes
    ) -> Answer:
        """Read what Redis holds, which is nothing, and what was added since."""
        answer = await super().read(None, lessons, keys, ids)
        first = max((additions.number if additions else 0) - 1, 0)
        added = self._added[first : first + ENTRIES_AT_ONCE]
        return replace(answer, newest=len(self._added), additions=added)

    async def begin_writing(self, writer: str, *, folded: int) -> bool:
        """Write nothing back."""
        return False


STORES = {"fenced": RedisStore, "in turn": RedisStore, "state only": StateStore, "none": NoStore}


@dataclass(frozen=True, slots=True)
class Cost:
    """What an event takes in one way: wall clock, and processor time of the worker alone."""

    way: str
    batch: int
    events_per_second: int
    us_per_event: float
    cpu_us_per_event: float


def traffic(schema: Schema, settings: Settings, events: int) -> list[list[InputRecord]]:
    """Give encoded events as each partition would hold them."""
    world = SimulatorOptions(customers=CUSTOMERS, terminals=TERMINALS, days=events // CUSTOMERS + 2)
    batch = joined(list(limited(simulate(world), events)))
    found: list[list[InputRecord]] = [[] for _ in range(settings.partitions)]
    for key, value in zip(batch.keys[0], TransactionEncoder(schema).encode(batch), strict=True):
        part = found[partition_of(key.encode(), settings.partitions)]
        p = partition_of(key.encode(), settings.partitions)
        part.append(InputRecord(TRANSACTIONS, p, len(part), key.encode(), value))
    return found


class Bench:
    """Real servers, and the same events again and again."""

    def __init__(self, settings: Settings, endpoints: Endpoints, events: int) -> None:
        self._settings, self._endpoints = settings, endpoints
        self._schema = load_schema(settings.schema)
        self._events = traffic(self._schema, settings, events)
        self._publisher = OutboxPublisher(endpoints.kafka_servers)

    async def run(self, rounds: int, sizes: Sequence[int], ways: Sequence[str]) -> list[Cost]:
        """Let the ways take turns, and keep the best of each."""
        best: dict[tuple[str, int], Cost] = {}
        async with self.ready():
            for number in range(rounds):
                for size in sizes:
                    for way in ways:
                        cost = await self.measured(way, size)
                        known = best.get((way, size), cost)
                        best[way, size] = min(known, cost, key=lambda item: item.us_per_event)
                _say(f"round {number + 1} of {rounds} is done")
        return [best[way, size] for size in sizes for way in ways]

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Compile and connect for the length of the block."""
        warm_up(self._schema, self._settings)
        # As the worker does.
        collect_seldom()
        await self._publisher.start()
        try:
            yield
        finally:
            await self._publisher.stop()

    async def measured(self, way: str, size: int) -> Cost:
        """Decide all events once, from an empty store."""
        store = STORES[way](self._endpoints.redis_url, retry_seconds_max=10)
        await store.redis.flushall()
        counts = WorkerCounts(schema=self._schema.name)
        parts = Parts(
            settings=self._settings,
            schema=self._schema,
            store=store,
            profiles=ProfileCache(store, self._schema),
            publish=self._publisher.publish,
            kafka_servers=self._endpoints.kafka_servers,
            feed=ModelFeed(self._endpoints.kafka_servers, self._schema, self._settings, counts),
            controls=ControlFeed(self._endpoints.kafka_servers, self._schema, self._settings),
            label_verifier=LabelVerifier.of(self._settings),
            rules=RulesFile(self._settings, self._schema, counts),
            counts=counts,
            owner="bench",
        )
        scorers = [Scorer(parts, p) for p in range(self._settings.partitions)]
        for scorer in scorers:
            await scorer.recover()
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(
            *(
                _decide(scorer, records, size, in_turn=way == "in turn")
                for scorer, records in zip(scorers, self._events, strict=True)
            )
        )
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        await store.close()
        events = sum(map(len, self._events))
        return Cost(
            way,
            size,
            round(events / seconds),
            round(seconds / events * 1e6, 1),
            round(cpu / events * 1e6, 1),
        )


async def _decide(
    scorer: Scorer, records: Sequence[InputRecord], size: int, *, in_turn: bool
) -> None:
    for first in range(0, len(records), size):
        await scorer.handle(records[first : first + size])
        if in_turn:
            # A part lets go once its last outbox is published.
            await scorer.end()
    await scorer.end()


def table(costs: Sequence[Cost]) -> list[str]:
    """Give the figures as aligned lines, with what each way costs beside doing nothing."""
    bare = {cost.batch: cost for cost in costs if cost.way == "none"}
    lines = ["batch  way          events/s   us/event   beside none        CPU us/event"]
    for cost in costs:
        beside = cost.us_per_event - bare[cost.batch].us_per_event
        share = 1 - cost.events_per_second / bare[cost.batch].events_per_second
        lines.append(
            f"{cost.batch:>5}  {cost.way:<11} {cost.events_per_second:>9,} "
            f"{cost.us_per_event:>10.1f}   {beside:>+6.1f} us {share:>6.1%} "
            f"{cost.cpu_us_per_event:>14.1f}"
        )
    return lines


def cost_table(found: dict[str, Any]) -> str:
    """Show kept figures: what the guarantee adds to each event, and the share of throughput."""
    costs = [Cost(**cost) for cost in found["costs"]]
    bare = {cost.batch: cost for cost in costs if cost.way == "none"}
    lines = [
        [
            str(cost.batch),
            cost.way,
            f"{cost.events_per_second:,}",
            f"{cost.us_per_event - bare[cost.batch].us_per_event:+.1f}",
            f"{1 - cost.events_per_second / bare[cost.batch].events_per_second:.0%}",
            f"{cost.cpu_us_per_event:.1f}",
        ]
        for cost in costs
    ]
    head = [
        "batch",
        "way",
        "events/s",
        "µs more an event",
        "share of throughput",
        "CPU µs an event",
    ]
    rounds = f"{found['events']:,} events, best of {found['rounds']} rounds"
    return markdown(head, lines) + f"\n{rounds}, on {as_text(found['machine'])}.\n"


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option("--events", default=40_000, show_default=True, help="Events of each run.")
@click.option("--rounds", default=5, show_default=True, help="Rounds, of which the best counts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, help="Keep the JSON there.")
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Batches.")
@click.option("--ways", default=",".join(WAYS), show_default=True, help="Ways to measure.")
@click.option("--challengers", default=Settings().challengers, show_default=True, help="Models.")
def main(
    events: int, rounds: int, as_json: bool, out: Path, sizes: str, ways: str, challengers: str
) -> None:
    """Measure what the fenced commit costs on this machine."""
    cores = find_cores()
    pin(cores.others)
    with TemporaryDirectory(prefix="fraudstream-") as folder:
        settings = replace(Settings(), state_dir=folder, challengers=challengers)
        with Stack(settings, attached=True, say=_say) as endpoints:
            pin(cores.rival)
            bench = Bench(settings, endpoints, events)
            run = bench.run(rounds, [int(size) for size in sizes.split(",")], ways.split(","))
            costs = asyncio.run(run)
    found = {"events": events, "rounds": rounds, "costs": [asdict(cost) for cost in costs]}
    found |= {"machine": machine()}
    record = json.dumps(found, indent=1)
    out.write_text(record + "\n", encoding="utf-8")
    if out == RESULT:
        put_tables(DOCUMENT, [("guarantee", cost_table(found))])
    click.echo(record if as_json else "\n".join(table(costs)))


if __name__ == "__main__":
    main()
