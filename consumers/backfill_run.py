"""The one run of history that a store has seen: what it reads, and that it is not done yet.

While it is under way, `HISTORY` stands for the positions of the live inputs, so that no worker can
begin or go on there. Both are set in one command, and only where no position stands yet.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from consumers.redis_client import as_bytes
from consumers.redis_store import HISTORY, RedisStore
from pipeline.errors import CommitError, SettingError
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS

RUN_KEY = "backfill"
LIVE_INPUTS = (TRANSACTIONS, FEEDBACK, OUTCOMES)


class Run(msgspec.Struct, frozen=True):
    """What a run reads, and where it was cut over once it is done.

    Parameters
    ----------
    file
        The name of the file, for messages.
    given
        Whatever the result depends on, by a name that is understood: hashes of the files, options,
        settings.
    cut_over
        The offset of `transactions` that workers begin at, by partition; `None`: not done.
    """

    file: str
    given: dict[str, Any]
    cut_over: dict[int, int] | None = None


def live_positions(partitions: int) -> list[str]:
    """Give the keys of the positions that workers begin from."""
    return [f"pos:{topic}:{p}" for topic in LIVE_INPUTS for p in range(partitions)]


async def begin_run(store: RedisStore, run: Run, partitions: int) -> bool:
    """Begin a run in an empty store, or go on with the same one; says whether it goes on.

    Raises
    ------
    SettingError
        Where a system has run on this store, or another history was read into it.
    """
    names = live_positions(partitions)
    marks: Mapping[str, bytes] = {
        RUN_KEY: msgspec.json.encode(run),
        **dict.fromkeys(names, HISTORY),
    }
    if await store.redis.msetnx({**marks}):
        return False
    known = await stored_run(store)
    if known is None:
        found = await store.redis.mget(names)
        at = next(name for name, value in zip(names, found, strict=True) if value is not None)
        raise SettingError(
            f"a system has run on this Redis ({at} is there): history is read into an empty one"
        )
    if known.cut_over is not None:
        raise SettingError(
            f"history was read into this Redis from {known.file} and is done: workers begin at "
            f"{positions_text(known.cut_over)}; nothing was changed"
        )
    different = list(_different(known.given, run.given))
    if different:
        raise SettingError(
            f"history of {known.file} is half read into this Redis, and {'; '.join(different)}: "
            "go on with what it began with, or begin anew with an empty Redis and new topics"
        )
    return True


async def stored_run(store: RedisStore) -> Run | None:
    """Give the run that the store has seen."""
    stored = as_bytes(await store.redis.get(RUN_KEY))
    return msgspec.json.decode(stored, type=Run) if stored else None


async def check_no_run(store: RedisStore) -> None:
    """Refuse to begin while history is read."""
    known = await stored_run(store)
    if known is not None and known.cut_over is None:
        raise CommitError(
            f"history of {known.file} is half read into this Redis: start this once "
            "`fraudstream backfill` has made its cut-over"
        )


def positions_text(offsets: Mapping[int, int]) -> str:
    """Write offsets by partition as `--cut-over` takes them.

    >>> positions_text({1: 20, 0: 7})
    '0:7,1:20'
    """
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(offsets.items()))


def _different(known: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*known, *given}):
        before, now = known.get(name), given.get(name)
        if before != now:
            yield f"{name} was {before!r} and is {now!r}"
