"""When a label is given up that finds no decision: not before its decision would be in the index.

The index lies one commit behind what is published, so whoever reads a decision and labels it at
once is ahead of it, and the label may be of a time that is over long since.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from consumers.dead_letters import InputRecord
from consumers.labeller import Labeller
from consumers.scorer import Parts, Scorer
from models import make_model
from pipeline.counts import WorkerCounts
from pipeline.durations import DAY_MS
from pipeline.features import FeatureKernel
from pipeline.records import decode_examples
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, FEEDBACK, TRAINING, TRANSACTIONS
from tests.integration.parts import opened
from tests.integration.processes import key_of, keyed, read, signed_by_source
from tests.strategies import CARD, MONDAY_MS, event_bytes, label_bytes

pytestmark = pytest.mark.integration

PARTITION = 1
NEW_MS = MONDAY_MS + 365 * DAY_MS


class Both:
    """A scorer and a labeller of one partition, told one record at a time."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self.settings, self.card = settings, key_of(PARTITION, settings)
        self.scorer, self.labeller = Scorer(parts, PARTITION), Labeller(parts, PARTITION)
        self.events = self.labels = 0

    async def decide(self, name: str, event_time: int) -> None:
        """Decide an event and publish that, as one batch."""
        value = event_bytes(transaction_id=name, card_id=self.card, event_time=event_time)
        place = (TRANSACTIONS, PARTITION, self.events)
        await self.scorer.handle([InputRecord(*place, self.card.encode(), value, NEW_MS)])
        self.events += 1
        await self.scorer.end()

    async def label(self, name: str) -> None:
        """Label an event of the old time."""
        value = label_bytes(
            label_id=f"l-{name}", transaction_id=name, card_id=self.card,
            label_time=MONDAY_MS + DAY_MS,
        )  # fmt: skip
        sent = keyed(self.settings, self.card, value)
        headers = tuple(signed_by_source(self.settings)(sent))
        place = (FEEDBACK, PARTITION, self.labels)
        record = InputRecord(*place, self.card.encode(), value, NEW_MS, headers)
        assert await self.labeller.handle([record])
        self.labels += 1

    async def idle(self) -> None:
        """Let the scorer put its last decisions into the index, as it does where nothing comes."""
        for _ in range(2):
            await self.scorer.tick()

    def learned(self) -> list[str]:
        found = decode_examples(record.value for record in read(self.settings, TRAINING))
        return [example.transaction_id for example in found if example]

    def given_up(self) -> int:
        return len(read(self.settings, DEAD_LETTERS))


def with_both(settings: Settings, story: Callable[[Both], Awaitable[None]]) -> None:
    async def run() -> None:
        model = make_model("additive", FeatureKernel(CARD).names)
        async with opened(settings, WorkerCounts(schema="card"), model) as parts:
            both = Both(settings, parts)
            await both.scorer.recover()
            await both.labeller.recover()
            await story(both)
            await both.labeller.end()

    asyncio.run(run())


def test_a_label_of_a_late_event_waits_until_its_decision_is_in_the_index(
    settings: Settings,
) -> None:
    async def story(both: Both) -> None:
        await both.decide("new", NEW_MS)
        await both.decide("late", MONDAY_MS)
        await both.label("late")
        await both.labeller.tick()
        assert (both.labeller.pending, both.given_up()) == (1, 0)
        await both.idle()
        await both.labeller.tick()
        assert (both.labeller.pending, both.given_up()) == (0, 0)
        assert both.learned() == ["late"]

    with_both(settings, story)


def test_a_label_of_nothing_is_given_up_once_the_scorer_has_moved_on(settings: Settings) -> None:
    async def story(both: Both) -> None:
        await both.decide("new", NEW_MS)
        await both.decide("newer", NEW_MS + 1)
        await both.label("nothing")
        await both.labeller.tick()
        assert both.given_up() == 0
        await both.decide("newest", NEW_MS + 2)
        await both.labeller.tick()
        assert (both.labeller.pending, both.given_up(), both.learned()) == (0, 1, [])

    with_both(settings, story)


def test_a_label_of_nothing_is_given_up_at_once_where_all_is_in_the_index(
    settings: Settings,
) -> None:
    async def story(both: Both) -> None:
        await both.decide("new", NEW_MS)
        await both.idle()
        await both.label("nothing")
        await both.labeller.tick()
        assert (both.labeller.pending, both.given_up(), both.learned()) == (0, 1, [])

    with_both(settings, story)
