"""From history to the live topic: where workers begin, so that nothing is left out or done twice.

The position is named by the user. Before it is taken, the live topic is looked through, as long as
it still holds anything: transactions before the position must have been in the history, or nobody
would ever decide them; those from the position on that were in it must be known still, so that
workers tell them for duplicates. Then one commit moves every position at once.
"""

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from kafka import TopicPartition

from consumers.backfill_run import RUN_KEY, Run
from consumers.labeller import load_pending
from consumers.log_reader import LogReader
from consumers.redis_client import as_bytes
from consumers.redis_ids import packed_places
from consumers.redis_store import RedisStore, stored_number
from consumers.waiting_store import load_entries
from pipeline.commit import Change, Input, OutboxRecord
from pipeline.errors import CommitError, DataError, SettingError
from pipeline.events import Transactions
from pipeline.history import PREFIX
from pipeline.recent_ids import SECONDS_BYTES, contents_of, digests_of, seconds_of, window_ms_of
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from stack import kafka_clients
from stack.kafka_address import kafka_of

END, BEGINNING = "end", "beginning"
_OFFSETS = re.compile(r"[0-9]+:[0-9]+(?:,[0-9]+:[0-9]+)*")


@dataclass(slots=True)
class Met:
    """What the live topic holds, as the position divides it.

    Attributes
    ----------
    skipped
        Before the position, and in the history.
    gap
        Before the position, and not in the history: nobody decides these.
    gap_first_ms, gap_last_ms
        Their first and last event time.
    repeated
        From the position on and in the history: workers know them for duplicates.
    conflicts
        From the position on, with the id of another transaction of the history.
    twice
        From the position on and in the history, too long ago to be known: decided again.
    fresh
        From the position on, until now.
    fresh_first_ms
        The first event time of these: what lies between the file's last and it, nobody has seen.
    """

    skipped: int = 0
    gap: int = 0
    gap_first_ms: int | None = None
    gap_last_ms: int | None = None
    repeated: int = 0
    conflicts: int = 0
    twice: int = 0
    fresh: int = 0
    fresh_first_ms: int | None = None

    def check(self, *, allow_gap: bool) -> None:
        """Refuse a position that would leave something out, or let it count twice."""
        if self.twice:
            raise DataError(
                f"{self.twice:,} transactions from the cut-over position on are in the file, and "
                "longer ago than duplicate_days: they would be decided twice; name a later position"
            )
        if self.gap and not allow_gap:
            raise DataError(
                f"{self.gap:,} transactions before the cut-over position are not in the file, with "
                f"times from {_moment(self.gap_first_ms)} to {_moment(self.gap_last_ms)}: nobody "
                "would decide them; name an earlier position, or leave them out (--allow-gap)"
            )


def named_offsets(servers: str, partitions: int, named: str) -> dict[int, int]:
    """Give the offsets of `transactions` that a position stands for.

    Parameters
    ----------
    named
        `end`, `beginning`, offsets by partition (`0:1200,1:1180`), or a time as RFC 3339: the first
        records that came to Kafka at it or later.
    """
    topic = kafka_of(servers).topic(TRANSACTIONS)
    places = [TopicPartition(topic, p) for p in range(partitions)]
    consumer = kafka_clients.consumer(servers, group_id=None)
    try:
        first, end = consumer.beginning_offsets(places), consumer.end_offsets(places)
        if named == END:
            found = end
        elif named == BEGINNING:
            found = first
        elif _OFFSETS.fullmatch(named):
            found = _given(named, places)
        else:
            times = consumer.offsets_for_times(dict.fromkeys(places, _milliseconds(named)))
            found = {p: times[p].offset if times.get(p) else end[p] for p in places}
    finally:
        consumer.close()
    for place in places:
        if not first[place] <= found[place] <= end[place]:
            raise SettingError(
                f"--cut-over: {topic}[{place.partition}] holds offsets {first[place]} to "
                f"{end[place]}, and {found[place]} is none of them"
            )
    return {place.partition: int(found[place]) for place in places}


def _given(named: str, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    pairs = [part.split(":") for part in named.split(",")]
    topic = places[0].topic
    found = {TopicPartition(topic, int(p)): int(offset) for p, offset in pairs}
    if sorted(found) != sorted(places) or len(pairs) != len(places):
        raise SettingError(
            f"--cut-over: expected one offset for each of the {len(places)} partitions, as "
            f"0:1200,1:1180 (got {named!r})"
        )
    return found


def _milliseconds(named: str) -> int:
    try:
        moment = datetime.fromisoformat(named)
    except ValueError:
        raise SettingError(
            "--cut-over: expected end, beginning, offsets such as 0:1200,1:1180, or a time such as "
            f"2026-11-01T12:00:00Z (got {named!r})"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _moment(time_ms: int | None) -> str:
    return "-" if time_ms is None else f"{datetime.fromtimestamp(time_ms / 1000, UTC):%FT%TZ}"


async def meet(
    store: RedisStore,
    schema: Schema,
    settings: Settings,
    servers: str,
    offsets: Mapping[int, int],
) -> Met:
    """Look through the live topic to its end of now."""
    decoder, met = TransactionDecoder(schema), Met()
    with LogReader(servers, TRANSACTIONS) as reader:
        for chunk in reader.chunks():
            partition = chunk[0].partition
            batch, rows, _ = decoder.decode([record.value for record in chunk])
            is_before = [chunk[row].offset < offsets[partition] for row in rows]
            if rows:
                await _meet_batch(store, settings, partition, batch, is_before, met)
    return met


async def _meet_batch(
    store: RedisStore,
    settings: Settings,
    partition: int,
    batch: Transactions,
    is_before: Sequence[bool],
    met: Met,
) -> None:
    digests, contents = digests_of(batch), contents_of(batch)
    known = await store.known_ids(packed_places(digests))
    indexed, _ = await load_entries(store, partition, batch.transaction_id)
    key = f"wm:{partition}"
    watermark_ms = stored_number(key, await store.redis.get(key))
    floor = (watermark_ms - window_ms_of(settings)) // 1000
    times = batch.event_time_ms.tolist()
    for row, transaction_id in enumerate(batch.transaction_id):
        entry, waits = known.get(row), indexed.get(transaction_id)
        is_known = entry is not None and seconds_of(entry) >= floor
        is_decided = is_known or (waits is not None and waits.is_decided)
        if is_before[row] and is_decided:
            met.skipped += 1
        elif is_before[row]:
            met.gap += 1
            met.gap_first_ms = min(met.gap_first_ms or times[row], times[row])
            met.gap_last_ms = max(met.gap_last_ms or times[row], times[row])
        elif entry is not None and is_known:
            is_same = entry[SECONDS_BYTES:] == contents[row]
            met.repeated += is_same
            met.conflicts += not is_same
        elif is_decided:
            met.twice += 1
        else:
            met.fresh += 1
            met.fresh_first_ms = min(met.fresh_first_ms or times[row], times[row])


async def cut_over(
    store: RedisStore, servers: str, run: Run, offsets: Mapping[int, int], owner: str
) -> list[bytes]:
    """Move every position to the live topics, in one commit.

    Gives the labels that waited for a decision: they are dropped, since the file is at its end.
    """
    partitions = len(offsets)
    with LogReader(servers, FEEDBACK) as reader:
        begins = reader.begins
    waiting: list[bytes] = []
    changes: list[Change] = []
    for p in range(partitions):
        # Everything that was decided is in the index, so nothing is left to publish or to note.
        changes.append(store.placed(f"{TRANSACTIONS}:{p}", f"{offsets[p]}:0"))
        stored = as_bytes(await store.redis.get(f"pos:{PREFIX}{FEEDBACK}:{p}")).decode()
        _, _, rest = (stored or "0:0:0:0").partition(":")
        changes.append(store.placed(f"{FEEDBACK}:{p}", f"{begins[p]}:{rest}"))
        waiting += [item.value for item in await load_pending(store.redis, p)]
        topics = (TRANSACTIONS, FEEDBACK)
        done = [f"{kind}:{PREFIX}{topic}:{p}" for kind in ("pos", "out") for topic in topics]
        changes.append(("DEL", f"pos:{OUTCOMES}:{p}", f"pend:{p}", *done))
    done_run = msgspec.structs.replace(run, cut_over=dict(offsets))
    changes.append(("SET", RUN_KEY, msgspec.json.encode(done_run)))
    mark = Input(store, _nothing, name=RUN_KEY, owner=owner)
    if await mark.recover() is not None or not await mark.commit("1", [], changes):
        raise CommitError("the cut-over was made by another process")
    return waiting


async def _nothing(records: Sequence[OutboxRecord]) -> Awaitable[Sequence[int]]:
    """Publish what this input publishes, which is nothing."""
    assert not records
    landed: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
    landed.set_result([])
    return landed
