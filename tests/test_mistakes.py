"""What mistakes cost, which are kept, and that the model scores them better once it learned."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from models import make_model
from pipeline.durations import DAY_MS
from pipeline.features import FeatureKernel
from pipeline.mistakes import Costs, Entry, Ledger, Mistake, Narrator, ReplayMistakes
from pipeline.policy import Policy
from pipeline.records import Action, TrainingExample, Verdict, pack_features
from pipeline.replay import Replay, ReplayOptions
from pipeline.schema import load_schema
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD

COSTS = Costs(decline_cost_minor=1000.0, decline_cost_share=0.1)
KERNEL = FeatureKernel(load_schema("card"))
NARRATOR = Narrator(
    KERNEL.names, Policy(KERNEL.table, review_score_min=0.15, decline_score_min=0.7)
)


def example(
    name: str,
    amount: int,
    action: Action,
    verdict: Verdict,
    *,
    time_ms: int = 0,
    supersedes: int | None = None,
) -> TrainingExample:
    return TrainingExample(
        label_id=f"l-{name}", transaction_id=name, partition=0, training_seq=0, verdict=verdict,
        source="simulated", weight=1.0, supersedes=supersedes, keys={"card": "c1"}, amount=amount,
        event_time=time_ms, label_time=time_ms + DAY_MS, schema_hash=KERNEL.schema_hash,
        features=pack_features(np.zeros(len(KERNEL.names))), score=0.1, action=action,
        model_version="additive@0", challengers={},
    )  # fmt: skip


def ledger_of(*examples: TrainingExample, limit: int = 10, **period: int) -> Ledger:
    ledger = Ledger(COSTS, limit=limit, **period)
    for place, item in enumerate(examples):
        ledger.add(msgspec.structs.replace(item, training_seq=place), place)
    return ledger


def names(ledger: Ledger) -> list[str]:
    return [entry.example.transaction_id for entry in ledger.costliest]


def test_totals_add_up_what_each_kind_cost() -> None:
    totals = ledger_of(
        example("missed", 9000, "approve", "fraud"),
        example("reviewed", 500, "review", "fraud"),
        example("declined", 700, "decline", "fraud"),
        example("insulted", 2000, "decline", "genuine"),
        example("bought", 100, "approve", "genuine"),
        example("looked at", 100, "review", "genuine"),
    ).totals

    assert (totals.missed_frauds, totals.value_lost_minor) == (1, 9000.0)
    assert (totals.caught_frauds, totals.value_saved_minor) == (2, 1200.0)
    assert (totals.false_declines, totals.decline_cost_minor) == (1, 1200.0)
    assert totals.labels == 6


def test_the_costliest_come_first_and_the_cheapest_goes() -> None:
    ledger = ledger_of(
        example("b", 5000, "approve", "fraud"),
        example("a", 9000, "approve", "fraud"),
        example("declined", 60_000, "decline", "genuine"),
        example("small", 100, "approve", "fraud"),
        example("also b", 5000, "approve", "fraud"),
        limit=3,
    )

    assert names(ledger) == ["a", "declined", "b"]
    assert ledger.totals.missed_frauds == 4


def test_a_correction_takes_back_what_the_label_before_it_said() -> None:
    ledger = ledger_of(
        example("t1", 9000, "approve", "fraud"),
        example("t1", 9000, "approve", "genuine", supersedes=0),
        example("t2", 700, "decline", "genuine"),
        example("t2", 700, "decline", "fraud", supersedes=2),
    )

    assert names(ledger) == []
    assert (ledger.totals.missed_frauds, ledger.totals.value_lost_minor) == (0, 0.0)
    assert (ledger.totals.caught_frauds, ledger.totals.false_declines) == (1, 0)
    assert ledger.totals.labels == 2


def test_a_record_that_was_published_twice_counts_once() -> None:
    ledger = ledger_of(example("t1", 9000, "approve", "fraud"))
    again = msgspec.structs.replace(example("t1", 9000, "approve", "fraud"), training_seq=0)

    assert not ledger.add(again, 1)
    assert (ledger.totals.labels, ledger.costliest[0].place) == (1, 0)


def test_only_events_of_the_period_count() -> None:
    given = [example(f"t{day}", 100, "approve", "fraud", time_ms=day) for day in range(6)]

    assert names(ledger_of(*given, start_ms=2, end_ms=5)) == ["t2", "t3", "t4"]


def told(limit: int = 20) -> tuple[Ledger, list[Mistake]]:
    """Replay a few simulated weeks."""
    options = SimulatorOptions(customers=150, terminals=60, days=40, seed=5)
    settings = replace(Settings(), challengers="none")
    ledger = Ledger(COSTS, limit=limit)
    following = ReplayMistakes(ledger, NARRATOR)
    run = Replay(
        CARD,
        settings,
        ReplayOptions(2 * DAY_MS),
        decided=following.decided,
        settled=following.settled,
    )
    following.run = run

    def batches():  # type: ignore[no-untyped-def]
        for batch in simulate(options):
            events = batch.transactions()
            following.expect(events.transaction_id, batch.is_fraud)
            yield events, batch.is_fraud

    run.run(batches(), lambda result: None)
    return ledger, following.finish()


@pytest.fixture(scope="module")
def replayed() -> tuple[Ledger, list[Mistake]]:
    return told()


def test_a_missed_fraud_scores_higher_once_it_is_learned(
    replayed: tuple[Ledger, list[Mistake]],
) -> None:
    missed = [item for item in replayed[1] if item.kind == "missed_fraud"]
    learned = [item.score_learned or 0.0 for item in missed]
    then = [item.score_then for item in missed]

    assert len(missed) > 5
    assert np.mean(learned) > 1.2 * np.mean(then)
    assert np.mean([now > before for now, before in zip(learned, then, strict=True)]) > 0.7


def test_a_mistake_says_what_the_decision_said_and_what_moved(
    replayed: tuple[Ledger, list[Mistake]],
) -> None:
    ledger, found = replayed

    assert [item.cost_minor for item in found] == [entry.cost for entry in ledger.costliest]
    for item in found:
        assert item.score_now is not None
        assert item.score_learned is not None
        assert item.moved == sorted(item.moved, key=lambda move: -abs(move[2] - move[1]))
        assert len(item.moved) == 3
        assert {name for name, _, _ in item.moved} <= set(KERNEL.names)


def test_reasons_are_those_of_the_decision() -> None:
    model = make_model("additive", KERNEL.names)
    chance = np.random.default_rng(2)
    rows = chance.normal(size=(500, len(KERNEL.names))).astype(np.float32)
    model.learn(rows, (rows[:, 0] > 1.0).astype(np.int8), np.ones(500))
    found = replace_features(example("t1", 9000, "approve", "fraud"), rows[:1])
    entry = Entry(9000.0, "missed_fraud", 0, found)
    then = model.score(rows[:1]).contributions[0]

    same = NARRATOR.tell(entry, then=then, learned=None, now=model)

    assert same.moved == []
    assert same.score_now == float(model.score(rows[:1]).scores[0])
    policy = Policy(KERNEL.table, review_score_min=0.15, decline_score_min=0.7)
    assert same.reasons == policy.reasons(then[None, :])[0]


def replace_features(found: TrainingExample, row: np.ndarray) -> TrainingExample:
    return msgspec.structs.replace(found, features=pack_features(row))


def test_the_costliest_is_the_same_however_many_are_kept() -> None:
    first, second = told(limit=1)[1][0], told(limit=20)[1][0]

    assert first == second
