"""The road of one transaction with the real models: decided once, explained, labelled as scored."""

import numpy as np
import pytest

from models import make_model
from pipeline.engine import Decisions, Engine, Version
from pipeline.events import Transactions
from pipeline.feedback import MemoryWaiting
from pipeline.learner import Learner
from pipeline.policy import Policy
from pipeline.profiles import MemoryProfiles
from pipeline.records import ACTIONS, decode_decisions, encode_record, unpack_features
from pipeline.settings import Settings
from tests.strategies import CARD, MONDAY_MS, joined, label, traffic, visits

SETTINGS = Settings(review_score_min=0.02, decline_score_min=0.2)
NAMES = ("additive", "logistic")


class World:
    """An engine with its learner, as replay has them; some traffic is decided and learned."""

    def __init__(self, *, learned_events: int = 400, champion: str = "additive") -> None:
        self.waiting = MemoryWaiting(10_000)
        kernel = Engine(CARD, SETTINGS, _no_profiles(), self.waiting).kernel
        names = sorted(NAMES, key=lambda name: (name != champion, name))
        models = [make_model(name, kernel.names) for name in names]
        self.learner = Learner(CARD, kernel.schema_hash, models)
        profiles = MemoryProfiles(CARD, self.learner.profiles)
        self.engine = Engine(CARD, SETTINGS, profiles, self.waiting)
        self._adopt()
        if learned_events:
            self._learn(learned_events)

    def _adopt(self) -> None:
        champion, *others = (Version(model, self.learner.offset) for model in self.learner.models)
        self.engine.adopt(champion, others)

    def _learn(self, events: int) -> None:
        batch = traffic(9, events)
        self.decide(batch)
        labels = [
            label(f"l-{name}", transaction_id=name, is_fraud=amount > 5000)
            for name, amount in zip(batch.transaction_id, batch.amount_minor.tolist(), strict=True)
        ]
        settled = self.engine.label(labels, training_seq=0)
        self.learner.learn([item.example(partition=0) for item in settled])
        self.learner.profiles.offset = len(settled)
        self._adopt()

    def decide(self, batch: Transactions) -> Decisions:
        decisions = self.engine.decide(batch)
        self.waiting.add(decisions)
        return decisions


def _no_profiles() -> MemoryProfiles:
    return MemoryProfiles(CARD, Learner(CARD, "", []).profiles)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_decision_of_every_event_comes_in_the_order_of_the_log(world: World) -> None:
    batch = traffic(20, 60)

    decisions = world.engine.decide(batch)

    assert decisions.rows.tolist() == list(range(60))
    assert decisions.transactions.transaction_id == batch.transaction_id


def test_an_event_that_comes_twice_is_decided_once() -> None:
    world, batch = World(learned_events=0), traffic(21, 10, cards=2)
    first = world.engine.decide(batch)

    again = world.engine.decide(joined(batch, visits([MONDAY_MS], ids=["new"])))

    assert len(first) == 10
    assert (again.rows.tolist(), again.transactions.transaction_id) == ([10], ["new"])
    assert len(again.scores) == len(again.features) == len(again.reasons) == 1


def test_duplicates_within_a_batch_leave_the_others_as_if_alone() -> None:
    batch = traffic(22, 12, cards=2)
    doubled = batch.take(np.repeat(np.arange(12), 2))

    ours, alone = World(learned_events=0), World(learned_events=0)
    decisions, expected = ours.engine.decide(doubled), alone.engine.decide(batch)

    assert decisions.rows.tolist() == list(range(0, 24, 2))
    assert decisions.features.tobytes() == expected.features.tobytes()


def test_a_batch_of_duplicates_alone_gives_no_decision() -> None:
    world, batch = World(learned_events=0), traffic(23, 5)
    world.engine.decide(batch)

    again = world.engine.decide(batch)

    assert (len(again), again.records("transactions", 0, range(5))) == (0, [])


def test_records_name_the_place_of_their_transaction_in_spite_of_duplicates() -> None:
    world = World(learned_events=0)
    batch = visits([MONDAY_MS] * 4, ids=["a", "a", "b", "c"])

    records = world.engine.decide(batch).records("transactions", 3, [10, 11, 12, 17])

    assert [(record.transaction_id, record.source[1:]) for record in records] == [
        ("a", (3, 10)), ("b", (3, 12)), ("c", (3, 17)),
    ]  # fmt: skip


def test_records_hold_what_was_decided(world: World) -> None:
    batch = traffic(24, 60)

    decisions = world.engine.decide(batch)

    for place, record in enumerate(decisions.records("transactions", 0, range(60))):
        assert record.keys == {"card": batch.keys[0][place], "terminal": batch.keys[1][place]}
        assert record.amount == batch.amount_minor[place]
        assert record.event_time == batch.event_time_ms[place]
        assert record.score == decisions.scores[place]
        assert record.action == ACTIONS[decisions.actions[place]]
        assert record.reasons == decisions.reasons[place]
        assert record.features == decisions.features[place].tobytes()
        assert record.challengers.keys() == {f"{name}@400" for name in NAMES if name != "additive"}


def test_records_round_trip(world: World) -> None:
    records = world.engine.decide(traffic(25, 60)).records("transactions", 0, range(60))

    assert list(decode_decisions(map(encode_record, records))) == records


def test_score_action_and_reasons_can_be_computed_again_from_the_record(world: World) -> None:
    table, (model, *challengers) = world.engine.kernel.table, world.learner.models
    policy = Policy(table, review_score_min=0.02, decline_score_min=0.2)

    records = world.engine.decide(traffic(26, 60)).records("transactions", 0, range(60))

    assert {record.action for record in records} == set(ACTIONS)
    for record in records:
        features = unpack_features(record.features)[None, :]
        scored = model.score(features)
        assert scored.scores[0] == record.score
        assert policy.action(record.score) == record.action
        assert policy.reasons(scored.contributions) == [record.reasons]
        for challenger in challengers:
            given = record.challengers[f"{challenger.name}@400"]
            assert challenger.score(features).scores[0] == given


def test_a_decision_is_stamped_with_what_it_was_made_by(world: World) -> None:
    [record] = world.engine.decide(traffic(27, 1)).records("transactions", 0, [0])

    assert (record.model_version, record.label_offset) == ("additive@400", 400)
    assert record.schema_hash == world.engine.kernel.schema_hash
    assert record.propensity == 1.0


def test_a_label_joins_the_features_as_they_were_scored() -> None:
    world = World()
    decisions = world.decide(visits([MONDAY_MS], ids=["t"], amounts=[7000]))
    # The card's history goes on before the label comes.
    world.decide(visits([MONDAY_MS] * 20, ids=[f"u{number}" for number in range(20)]))

    [settled] = world.engine.label([label("l", transaction_id="t")], training_seq=0)

    example = settled.example(partition=0)
    assert example.features == decisions.features[0].tobytes()
    assert (example.score, example.model_version) == (decisions.scores[0], "additive@400")


def test_deciding_never_changes_a_model() -> None:
    world = World()
    model = world.learner.models[0]
    probe = world.engine.decide(traffic(28, 5)).features
    before = model.score(probe).scores.tobytes()

    world.engine.decide(traffic(29, 300))

    assert model.score(probe).scores.tobytes() == before


def test_challengers_never_change_a_decision() -> None:
    alone, watched = World(), World()
    alone.engine.adopt(Version(alone.learner.models[0], 400))

    ours, theirs = alone.engine.decide(traffic(30, 60)), watched.engine.decide(traffic(30, 60))

    assert ours.challengers == {}
    assert ours.scores.tobytes() == theirs.scores.tobytes()
    assert (ours.actions.tolist(), ours.reasons) == (theirs.actions.tolist(), theirs.reasons)


def test_a_version_is_in_force_from_the_next_batch_on() -> None:
    world = World()
    world.engine.adopt(Version(world.learner.models[1], 7))

    assert world.engine.decide(traffic(31, 1)).model_version == "logistic@7"


def test_a_label_of_what_was_never_decided_is_unknown(world: World) -> None:
    [settled] = world.engine.label([label("l", transaction_id="never")], training_seq=0)

    assert (settled.path, settled.decision) == ("unknown", None)


@pytest.mark.parametrize("champion", sorted(NAMES))
@pytest.mark.parametrize("size", [1, 7, 500, 1024])
def test_the_size_of_a_batch_changes_no_decision(size: int, champion: str) -> None:
    batch, whole, cut = traffic(32, 1_100), World(champion=champion), World(champion=champion)
    places = range(1_100)
    expected = whole.engine.decide(batch).records("transactions", 0, places)

    found = []
    for start in range(0, len(batch), size):
        part = cut.engine.decide(batch.slice(start, start + size))
        found += part.records("transactions", 0, places[start : start + size])

    assert [encode_record(one) for one in found] == [encode_record(one) for one in expected]
    assert {len(one.challengers) for one in found} == {len(NAMES) - 1}
