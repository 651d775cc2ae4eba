"""The index of waiting decisions as Redis keeps it, one for each partition.

The scorer's commit adds where the decisions of the commit before stand in their log; the labeller's
adds verdicts, the outcome reader's adds outcomes (`COMMIT_SCRIPT` in `redis_store.py`). Beyond
`feedback_limit` the oldest decisions go: each commit looks through a share of the buckets, so that
a quarter more than the limit is all there ever is.
"""

from collections.abc import Iterable, Mapping, Sequence

from consumers.redis_store import RedisStore
from pipeline.commit import Change, OutboxRecord
from pipeline.label_words import OutcomeKind
from pipeline.stored_rows import damaged
from pipeline.topics import DECISIONS
from pipeline.verdicts import KnownVerdict
from pipeline.waiting_index import (
    BUCKETS,
    IndexEntry,
    outcome_code,
    packed_entries,
    packed_place,
    place_of,
)

# The whole index is swept while a limit's worth of decisions comes so many times.
SWEEPS_A_LIMIT = 4


async def load_entries(
    store: RedisStore, partition: int, transaction_ids: Iterable[str]
) -> tuple[dict[str, IndexEntry], int]:
    """Give the entries that are there, and the newest offset of the index, as of one moment."""
    wanted = list(dict.fromkeys(transaction_ids))
    newest, found = await store.entries(
        partition, b"".join([packed_place(key.encode()) for key in wanted])
    )
    entries = {
        transaction_id: _entry(partition, transaction_id, data)
        for transaction_id, data in zip(wanted, found, strict=True)
        if data is not None
    }
    return entries, newest


def _entry(partition: int, transaction_id: str, data: bytes) -> IndexEntry:
    try:
        return IndexEntry.unpacked(data)
    except (IndexError, ValueError) as error:
        key = f"w:{partition}:{place_of(transaction_id).bucket}"
        raise damaged(key, f"an entry of {len(data)} bytes is none: {error}") from error


def index_changes(
    partition: int, landed: Sequence[tuple[OutboxRecord, int]], *, limit: int
) -> list[Change]:
    """Give what a commit adds to the index: where the outbox before it landed."""
    found = [
        (record.key, offset)
        for record, offset in landed
        if record.topic == DECISIONS and record.key is not None
    ]
    if not found:
        return []
    keys, offsets = zip(*found, strict=True)
    newest = max(offsets)
    changes: list[Change] = [("INDEX", partition, newest, packed_entries(keys, offsets))]
    floor = newest + 1 - limit
    if floor > 0:
        share = min(-(-len(found) * SWEEPS_A_LIMIT * BUCKETS // limit), BUCKETS)
        changes.append(("SWEEP", partition, floor, share, BUCKETS))
    return changes


def verdict_changes(partition: int, verdicts: Mapping[str, KnownVerdict]) -> list[Change]:
    """Give the change that sets verdicts of decisions, and ends their wait for an analyst."""
    parts: list[bytes] = []
    for transaction_id, known in verdicts.items():
        verdict, name = known.packed(), transaction_id.encode()
        parts += (packed_place(name), bytes((len(verdict), len(name))), verdict, name)
    return [("VERDICTS", partition, b"".join(parts))] if parts else []


def outcome_change(partition: int, transaction_id: str, outcome: OutcomeKind) -> Change:
    """Give the change that sets an event's outcome."""
    place = place_of(transaction_id)
    return ("OUTCOME", partition, place.bucket, place.field, outcome_code(outcome))
