"""A defect of our own code: the event that meets it becomes a dead letter, all others are decided.

The defect is a model that fails on one amount; Kafka and Redis are real.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import redis
from faust.types import TP

from benchmarks.chaos.held import write_rows_back
from consumers.chunks import Chunk
from consumers.lane import Lane
from consumers.scorer import Parts, Scorer
from models import make_model
from models.contract import Float32s, Model, Scored
from pipeline.counts import WorkerCounts
from pipeline.features import FeatureKernel
from pipeline.profiles import LearnedProfiles, MemoryProfiles
from pipeline.records import decode_decisions
from pipeline.settings import Settings
from pipeline.stored_rows import unsealed
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from tests.integration.parts import opened
from tests.integration.processes import key_of, read
from tests.strategies import CARD, MONDAY_MS, event_bytes

pytestmark = pytest.mark.integration

PARTITION = 2
EVENTS = 300
FAILING = (41, 42, 299)


class Defective:
    """A model with a defect: amounts above a limit are an error."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def score(self, features: Float32s) -> Scored:
        # The amount is a feature by its logarithm.
        if (features[:, 0] > 15.0).any():
            raise ZeroDivisionError("a defect of the test")
        return self._model.score(features)


@dataclass
class Fetched:
    """A record as the client gives it."""

    offset: int
    key: bytes | None
    value: bytes
    timestamp: int = MONDAY_MS
    headers: Sequence[tuple[str, bytes]] = (("trace", b"1"),)


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with redis.from_url(settings.redis_url) as client:
        yield client


def values(settings: Settings) -> list[bytes]:
    cards = [key_of(PARTITION, settings, prefix) for prefix in ("card", "other", "third")]
    return [
        event_bytes(
            transaction_id=f"t{number}",
            card_id=cards[number % 3],
            event_time=MONDAY_MS + number * 1_000,
            amount="9000000" if number in FAILING else "9.50",
        )
        for number in range(EVENTS)
    ]


async def work(settings: Settings, records: list[Fetched], counts: WorkerCounts) -> None:
    """Let a scorer's lane work on the records."""
    model = Defective(make_model("additive", FeatureKernel(CARD).names))
    async with opened(settings, counts, model) as parts:
        await work_with(parts, records)


async def work_with(parts: Parts, records: list[Fetched]) -> None:
    finished = asyncio.Event()

    async def read_again(tp: TP, offset: int) -> None:
        raise AssertionError("nothing is missing")

    lane = Lane(
        TP(TRANSACTIONS, PARTITION),
        Scorer(parts, PARTITION),
        batch_events_max=100,
        interval_seconds=0.0,
        read_again=read_again,
        finished=lambda _, count: finished.set() if count else None,
    )
    await lane.recover()
    lane.put(Chunk(0, records), lambda task: task)
    async with asyncio.timeout(60):
        await finished.wait()
    await lane.end()


def test_only_the_events_that_meet_the_defect_become_dead_letters(
    settings: Settings, client: redis.Redis
) -> None:
    counts = WorkerCounts(schema="card")
    given = values(settings)
    asyncio.run(work(settings, [Fetched(n, None, value) for n, value in enumerate(given)], counts))

    letters = read(settings, DEAD_LETTERS)
    assert [letter.value for letter in letters] == [given[number] for number in FAILING]
    for number, letter in zip(FAILING, letters, strict=True):
        said = dict(letter.headers)
        assert said["trace"] == b"1"
        assert said["fraud.errors.reason"] == b"internal_error"
        assert said["fraud.errors.offset"] == str(number).encode()
        assert b"ZeroDivisionError in test_own_defects.py" in said["fraud.errors.message"]
    decided = decode_decisions(record.value for record in read(settings, DECISIONS))
    names = [item.transaction_id for item in decided if item is not None]
    assert names == [f"t{number}" for number in range(EVENTS) if number not in FAILING]
    assert counts.rejected["internal_error"] == len(FAILING)
    assert counts.events == EVENTS
    assert client.get(f"pos:{TRANSACTIONS}:{PARTITION}") == f"{EVENTS}:0".encode()


def test_profiles_hold_nothing_of_an_event_that_failed(
    settings: Settings, client: redis.Redis
) -> None:
    given = values(settings)
    records = [Fetched(number, None, value) for number, value in enumerate(given)]
    asyncio.run(work(settings, records, WorkerCounts(schema="card")))

    write_rows_back(settings.redis_url, CARD)
    profiles = MemoryProfiles(CARD, LearnedProfiles(CARD))
    kernel = FeatureKernel(CARD)
    good = [value for number, value in enumerate(given) if number not in FAILING]
    batch, _, _ = TransactionDecoder(CARD).decode(good)
    view = profiles.open(batch)
    kernel.read_and_record(batch, view)
    for card, slot in zip(batch.keys[0], view.traffic.slots, strict=True):
        name = f"c:{PARTITION}:{card}"
        row = view.traffic.values[slot].tobytes()
        assert unsealed(name, client.get(name) or b"")[: len(row)] == row
