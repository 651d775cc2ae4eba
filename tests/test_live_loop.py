"""The closed loop's records as decisions come in: once each, in time, and never far ahead."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import LabelDecoder, Outcome, OutcomeDecoder
from pipeline.feedback_encoding import encode_outcome
from pipeline.records import Action, DecisionRecord
from pipeline.topics import FEEDBACK, OUTCOMES
from producers.batch import EventBatch, joined
from producers.closed_loop import ClosedLoop, LoopOptions
from producers.feed import Block, limited
from producers.live_loop import BLOCK_EVENTS, LEAD_MS_MAX, LiveLoop, Undecided
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD, MONDAY_MS, decision

WORLD = SimulatorOptions(customers=100, terminals=100, days=40, seed=3)
OPTIONS = LoopOptions(called_share=0.5, mistaken_share=0.01, issuer_declined_share=0.05)


class Deciders:
    """Somebody who decides what it is given, late, and now and then says it twice."""

    def __init__(self, *, late: int = 0, twice: bool = False, silent_after: int = 10**9) -> None:
        self._late, self._twice, self._silent_after = late, twice, silent_after
        self._given: list[DecisionRecord] = []
        self.decided = 0

    def give(self, block: Block) -> None:
        for row, name in enumerate(block.transaction_id):
            if name:
                action: Action = ("approve", "approve", "review", "decline")[hash_of(name) % 4]  # type: ignore[assignment]
                keys = {"card": block.key[row], "terminal": "m1"}
                event_time = block.time_ms[row]
                found = decision(name, event_time=event_time, keys=keys, action=action)
                self._given += [found] * (1 + self._twice)

    def poll(self, wait_ms: int) -> list[DecisionRecord]:
        # Whoever waits gets all; whoever only looks gets what is no longer late.
        ready = len(self._given) - (0 if wait_ms else self._late)
        ready = max(0, min(ready, self._silent_after - self.decided))
        came, self._given = self._given[:ready], self._given[ready:]
        self.decided += len(came)
        return came


def hash_of(name: str) -> int:
    return sum(name.encode())


def run(
    deciders: Deciders,
    *,
    days: int = 40,
    options: LoopOptions = OPTIONS,
    to_end: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[LiveLoop, ClosedLoop, list[Block]]:
    world = ClosedLoop(options)
    loop = LiveLoop(CARD, world, deciders, stop)
    blocks: list[Block] = []
    for block in loop.blocks(simulate(replace(WORLD, days=days)), to_end=to_end):
        deciders.give(block)
        blocks.append(block)
    return loop, world, blocks


def records(blocks: list[Block], topic: str) -> Iterator[bytes]:
    for block in blocks:
        if block.topic == topic:
            for name, value in zip(block.transaction_id, block.value, strict=True):
                if not name:
                    yield value


def test_every_transaction_is_sent_once_in_order_and_answered_once() -> None:
    loop, world, blocks = run(Deciders(), to_end=True)

    whole = joined(list(simulate(WORLD)))
    sent = [name for block in blocks for name in block.transaction_id if name]
    report = world.report()
    assert sent == whole.transaction_id
    assert (report.decided, report.alerts_waiting, len(loop.undecided)) == (len(whole), 0, 0)
    assert (loop.ignored, loop.gave_up) == (0, False)


def test_what_the_world_counts_is_what_is_sent() -> None:
    _, world, blocks = run(Deciders(), to_end=True)

    decoder, outcome_decoder = LabelDecoder(CARD), OutcomeDecoder(CARD)
    labels = [decoder.decode_one(value) for value in records(blocks, FEEDBACK)]
    outcomes = [outcome_decoder.decode_one(value) for value in records(blocks, OUTCOMES)]
    report = world.report()
    assert len({label.label_id for label in labels}) == len(labels)  # type: ignore[union-attr]
    assert len(labels) == sum(report.labels.values()) > 50
    assert len(outcomes) == sum(report.outcomes.values()) > 50
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)


def test_an_outcome_can_be_read_as_it_was_written() -> None:
    outcome = Outcome("t1", "c1", "issuer_declined", MONDAY_MS)

    assert OutcomeDecoder(CARD).decode_one(encode_outcome(outcome, CARD)) == outcome


def test_a_decision_that_comes_twice_is_answered_once() -> None:
    _, world, blocks = run(Deciders())
    loop, other, other_blocks = run(Deciders(twice=True))

    assert other.report() == world.report()
    assert other_blocks == blocks
    assert loop.ignored == other.report().decided + other.report().alerts_waiting


@pytest.mark.parametrize("late", [1, 40, 300])
def test_late_decisions_have_the_same_consequences(late: int) -> None:
    _, world, blocks = run(Deciders(), to_end=True)
    _, other, other_blocks = run(Deciders(late=late), to_end=True)

    assert other.report() == world.report()
    for topic in (FEEDBACK, OUTCOMES):
        assert sorted(records(other_blocks, topic)) == sorted(records(blocks, topic))


@pytest.mark.parametrize("late", [0, 10_000])
def test_labels_come_in_time_and_transactions_never_run_far_ahead(late: int) -> None:
    deciders = Deciders(late=late)
    world = ClosedLoop(OPTIONS)
    loop = LiveLoop(CARD, world, deciders, lambda: False)
    now_ms, lead_ms = 0, 0

    for block in loop.blocks(simulate(WORLD), to_end=False):
        deciders.give(block)
        if block.transaction_id[0]:
            now_ms = block.time_ms[-1]
            lead_ms = max(lead_ms, loop.undecided.lead_ms)
            assert len(block.value) <= BLOCK_EVENTS
            assert block.time_ms[-1] // HOUR_MS == block.time_ms[0] // HOUR_MS
        else:
            # Nothing of the future, nothing late by more than what may be undecided, and a block.
            assert all(
                now_ms - LEAD_MS_MAX - 9 * HOUR_MS < moment <= now_ms for moment in block.time_ms
            )

    assert lead_ms <= LEAD_MS_MAX
    assert late == 0 or lead_ms > 0


def test_no_more_than_so_many_are_undecided() -> None:
    deciders = Deciders(late=10_000)
    loop = LiveLoop(CARD, ClosedLoop(OPTIONS), deciders, lambda: False, undecided_max=50)

    for block in loop.blocks(limited(simulate(WORLD), 2_000), to_end=False):
        assert len(loop.undecided) <= 50
        deciders.give(block)


def test_where_nobody_decides_any_more_the_run_ends() -> None:
    deciders, world = Deciders(silent_after=500), ClosedLoop(OPTIONS)
    loop = LiveLoop(CARD, world, deciders, lambda: False, patience_seconds=0.2)

    for block in loop.blocks(simulate(WORLD), to_end=True):
        deciders.give(block)

    assert loop.gave_up
    assert len(loop.undecided) > 0
    assert world.report().decided + world.report().alerts_waiting == 500


def test_a_wish_to_stop_is_heard_while_it_waits() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    loop, _, _ = run(Deciders(silent_after=0), stop=stop)

    assert not loop.gave_up
    assert asked == 22


def test_the_end_brings_what_is_known_by_then_and_no_more_unless_wanted() -> None:
    _, world, blocks = run(Deciders())
    _, other, to_end = run(Deciders(), to_end=True)

    assert world.report().labels_waiting > 0
    assert other.report().labels_waiting == 0
    tail = [block for block in to_end if block.is_tail]
    assert to_end[: len(blocks)] == blocks
    assert to_end[len(blocks) :] == tail
    last_ms = max(moment for block in tail for moment in block.time_ms)
    whole = joined(list(simulate(WORLD)))
    assert 60 * DAY_MS < last_ms - whole.event_time_ms[-1] < 151 * DAY_MS


def test_what_is_undecided_keeps_the_clock_at_its_oldest() -> None:
    undecided = Undecided()
    assert (undecided.clock_ms, undecided.lead_ms) == (0, 0)

    undecided.add(["t1", "t2", "t3"], [1, 5, 9], [0, 1, -1])

    assert (undecided.clock_ms, undecided.lead_ms) == (1, 8)
    assert undecided.take("t2") == 1
    assert undecided.clock_ms == 1
    assert undecided.take("t1") == 0
    assert undecided.clock_ms == 9
    assert undecided.take("t3") == -1
    assert (undecided.clock_ms, undecided.lead_ms, len(undecided)) == (9, 0, 0)
    assert undecided.take("t1") is None


def test_the_truth_never_travels() -> None:
    _, _, blocks = run(Deciders(), days=2)

    batch: EventBatch = joined(list(simulate(replace(WORLD, days=2))))
    sent = [
        json.loads(value)
        for block in blocks
        for name, value in zip(block.transaction_id, block.value, strict=True)
        if name
    ]
    assert len(sent) == len(batch)
    assert {name for record in sent for name in record} == {*CARD.event_fields, CARD.response}
    assert np.count_nonzero(batch.is_fraud) > 0
