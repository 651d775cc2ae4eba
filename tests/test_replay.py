"""Stored events through the core: labels at their true delay, and quality that rises with them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from models import MODELS, make_model
from models.snapshot import Snapshot, decode, encode
from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.errors import SnapshotError
from pipeline.evaluation import quality_over_time
from pipeline.features import FeatureKernel
from pipeline.policy import Reasons
from pipeline.replay import TICK_MS, Labelled, Replay, ReplayOptions, ReplayResult
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD, MONDAY_MS, traffic, visits

HOUR_MS = 3_600_000
ODD_DELAY_MS = 5 * HOUR_MS + 17 * 60_000


def labelled(seed: int = 1, events: int = 600) -> Labelled:
    """Give sorted traffic in which large amounts are frauds."""
    batch = traffic(seed, events)
    batch = batch.take(np.argsort(batch.event_time_ms, kind="stable"))
    return batch, (batch.amount_minor > 4000).astype(np.int8)


@dataclass
class Said:
    """All that a replay decided."""

    scores: list[float] = field(default_factory=list)
    challengers: list[list[float]] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    reasons: list[Reasons] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    features: bytes = b""

    def add(self, decisions: Decisions) -> None:
        self.scores += decisions.scores.tolist()
        watched = [scores.tolist() for scores in decisions.challengers.values()]
        self.challengers += [list(given) for given in zip(*watched, strict=True)]
        self.reasons += decisions.reasons
        self.actions += decisions.actions.tolist()
        self.versions += [decisions.model_version] * len(decisions)
        self.times_ms += decisions.transactions.event_time_ms.tolist()
        self.features += decisions.features.tobytes()


def replayed(
    batches: Iterable[Labelled], options: ReplayOptions, **settings: object
) -> tuple[ReplayResult, Said]:
    said = Said()
    run = Replay(CARD, Settings(**settings), options, decided=said.add)  # type: ignore[arg-type]
    return run.run(batches, lambda result: None), said


def cut(batch: Labelled, size: int) -> Iterator[Labelled]:
    events, is_fraud = batch
    for start in range(0, len(events), size):
        yield events.slice(start, start + size), is_fraud[start : start + size]


@pytest.mark.parametrize("delay_ms", [0, TICK_MS, ODD_DELAY_MS, 2 * DAY_MS])
def test_no_score_knows_a_label_before_its_delay(delay_ms: int) -> None:
    events, is_fraud = labelled()
    flipped = is_fraud.copy()
    flipped[200:] = 1 - flipped[200:]
    known_ms = events.event_time_ms[200] + delay_ms

    _, said = replayed([(events, is_fraud)], ReplayOptions(delay_ms))
    _, other = replayed([(events, flipped)], ReplayOptions(delay_ms))

    before = int(np.searchsorted(events.event_time_ms, known_ms, side="right"))
    assert said.scores[:before] == other.scores[:before]
    assert said.challengers[:before] == other.challengers[:before]
    assert said.scores[before:] != other.scores[before:]


@pytest.mark.parametrize("delay_ms", [0, TICK_MS, ODD_DELAY_MS])
def test_at_a_tick_everything_that_is_known_is_learned(delay_ms: int) -> None:
    events, is_fraud = labelled()

    _, said = replayed([(events, is_fraud)], ReplayOptions(delay_ms))

    ticks_ms = events.event_time_ms // TICK_MS * TICK_MS
    known = np.searchsorted(events.event_time_ms, ticks_ms - delay_ms, side="right")
    assert said.versions == [f"additive@{count}" for count in known]


def test_before_the_first_label_every_score_is_that_of_an_untrained_model() -> None:
    events, is_fraud = labelled()

    _, said = replayed([(events, is_fraud)], ReplayOptions(DAY_MS))

    first_day = int(np.searchsorted(events.event_time_ms, events.event_time_ms[0] + DAY_MS))
    assert len(set(said.scores[:first_day])) == 1
    assert len(set(said.scores)) > 100


@pytest.mark.parametrize("champion", sorted(MODELS))
@pytest.mark.parametrize("size", [1, 7, 500, 1024])
def test_the_size_of_a_batch_never_changes_a_bit(size: int, champion: str) -> None:
    whole = labelled(events=1_200)
    options = ReplayOptions(ODD_DELAY_MS)
    models = {"model": champion, "challengers": ",".join(sorted(MODELS))}
    result, said = replayed([whole], options, batch_events_max=1_200, **models)

    for batches, limit in ((cut(whole, 1_200), size), (cut(whole, size), 1_200)):
        again, other = replayed(batches, options, batch_events_max=limit, **models)

        assert other == said
        assert again.quality == result.quality
        assert (again.actions, again.labels) == (result.actions, result.labels)


def test_a_replay_twice_is_the_same() -> None:
    options = ReplayOptions(HOUR_MS)

    assert replayed([labelled()], options)[1] == replayed([labelled()], options)[1]


def test_every_event_is_counted_once() -> None:
    events, is_fraud = labelled()

    result, said = replayed([(events, is_fraud)], ReplayOptions(HOUR_MS))

    assert (result.events, result.duplicates, result.finished) == (600, 0, True)
    assert sum(result.actions.values()) == 600
    assert (result.first_ms, result.last_ms) == (said.times_ms[0], said.times_ms[-1])
    assert result.model_version == said.versions[-1]


def test_events_that_come_twice_are_counted_apart_and_their_labels_learned_once() -> None:
    events, is_fraud = labelled(events=5)
    rows = np.repeat(np.arange(5), 2)
    end = visits([int(events.event_time_ms[-1]) + DAY_MS], ids=["end"])

    result, _ = replayed(
        [(events.take(rows), is_fraud[rows]), (end, np.zeros(1, dtype=np.int8))],
        ReplayOptions(HOUR_MS),
    )

    assert (result.events, result.duplicates) == (6, 5)
    assert result.labels == {"learned": 5, "repeated": 5}


def interrupted(batches: Iterable[Labelled], after: int) -> Iterator[Labelled]:
    for number, batch in enumerate(batches):
        if number == after:
            raise KeyboardInterrupt
        yield batch


def test_an_interrupt_leaves_what_was_measured_until_then() -> None:
    options = ReplayOptions(HOUR_MS)

    result, said = replayed(interrupted(cut(labelled(), 100), 4), options)

    expected, until_then = replayed(list(cut(labelled(), 100))[:4], options)
    assert (result.finished, expected.finished) == (False, True)
    assert result.events == 400
    assert result.quality == expected.quality
    assert said == until_then


def test_an_interrupt_before_the_first_event_is_no_error() -> None:
    result, _ = replayed(interrupted(cut(labelled(), 100), 0), ReplayOptions(HOUR_MS))

    assert (result.finished, result.events, result.quality) == (False, 0, {})


def test_nothing_to_replay_is_no_error() -> None:
    result, _ = replayed([], ReplayOptions(HOUR_MS))

    assert (result.finished, result.events, result.quality) == (True, 0, {})


def test_progress_is_told_with_every_batch() -> None:
    told: list[int] = []
    run = Replay(CARD, Settings(batch_events_max=50), ReplayOptions(HOUR_MS))

    run.run([labelled()], lambda result: told.append(result.events))

    assert told == sorted(set(told))
    assert told[-1] == 600


def test_quality_is_measured_on_the_period_alone() -> None:
    events, is_fraud = labelled()
    start_ms, end_ms = (int(events.event_time_ms[row]) for row in (100, 300))

    result, _ = replayed([(events, is_fraud)], ReplayOptions(HOUR_MS, start_ms, end_ms))

    assert list(result.quality) == ["additive", "logistic"]
    assert result.quality["additive"].events == 200
    assert result.quality["additive"].frauds == is_fraud[100:300].sum()


def test_events_that_nobody_knows_of_are_not_measured() -> None:
    events, is_fraud = labelled()
    is_fraud[::3] = -1

    result, _ = replayed([(events, is_fraud)], ReplayOptions(HOUR_MS))

    assert result.quality["additive"].events == 400


def test_labels_of_decisions_that_expired_are_unknown() -> None:
    result, _ = replayed([labelled()], ReplayOptions(DAY_MS), feedback_limit=20)

    assert result.labels["unknown"] > 0
    assert result.labels["learned"] + result.labels["unknown"] > 300


# Maturity.


def unlabelled(events: int = 600) -> Labelled:
    batch, is_fraud = labelled(events=events)
    return batch, np.full_like(is_fraud, -1)


def test_approved_events_without_a_label_are_learned_as_genuine() -> None:
    events, unknown = unlabelled()

    result, said = replayed([(events, unknown)], ReplayOptions(HOUR_MS), maturity_days=2.0)

    last_tick_ms = events.event_time_ms[-1] // TICK_MS * TICK_MS
    old_enough = int(np.searchsorted(events.event_time_ms, last_tick_ms - 2 * DAY_MS, "right"))
    assert result.actions == {"approve": 600, "review": 0, "decline": 0}
    assert result.labels == {"learned": old_enough}
    assert 100 < old_enough < 600
    assert said.scores[-1] < said.scores[0]


@pytest.mark.parametrize(("review", "decline"), [(0.001, 0.5), (0.001, 0.002)])
def test_what_did_not_go_through_is_never_learned_as_genuine(review: float, decline: float) -> None:
    result, said = replayed(
        [unlabelled()],
        ReplayOptions(HOUR_MS),
        mode="act",
        maturity_days=2.0,
        review_score_min=review,
        decline_score_min=decline,
    )

    assert result.actions["approve"] == 0
    assert result.labels == Counter()
    assert said.scores == [said.scores[0]] * 600


def test_a_label_that_comes_after_maturity_confirms_or_corrects() -> None:
    events, is_fraud = labelled()

    result, said = replayed([(events, is_fraud)], ReplayOptions(3 * DAY_MS), maturity_days=1.0)

    last_tick_ms = events.event_time_ms[-1] // TICK_MS * TICK_MS
    told = events.event_time_ms + 3 * DAY_MS <= last_tick_ms
    approved = np.array(said.actions) == 0
    assert result.labels["corrected"] == (told & approved & (is_fraud == 1)).sum() > 0
    assert result.labels["confirmed"] == (told & approved & (is_fraud == 0)).sum() > 0
    assert set(result.labels) == {"learned", "corrected", "confirmed"}


def test_a_label_that_comes_first_keeps_its_decision_from_maturing() -> None:
    events, is_fraud = labelled()

    result, _ = replayed([(events, is_fraud)], ReplayOptions(HOUR_MS), maturity_days=1.0)

    assert set(result.labels) == {"learned"}
    assert result.labels["learned"] <= 600


# Quality, on a simulated stream.


@pytest.fixture(scope="module")
def simulated() -> list[Labelled]:
    options = SimulatorOptions(customers=300, terminals=300, days=40, seed=1)
    return [(batch.transactions(), batch.is_fraud) for batch in simulate(options)]


def truth(batches: Iterable[Labelled]) -> NDArray[np.int8]:
    return np.concatenate([is_fraud for _, is_fraud in batches])


def test_average_precision_rises_with_labels_and_ends_above_the_linear_model(
    simulated: list[Labelled],
) -> None:
    half_ms = int(simulated[20][0].event_time_ms[0])

    result, said = replayed(simulated, ReplayOptions(DAY_MS, start_ms=half_ms))

    first, *_, last = quality_over_time(said.scores, truth(simulated), blocks=4)
    additive, logistic = (found.average_precision for found in result.quality.values())
    assert first.average_precision and last.average_precision and additive and logistic
    assert last.average_precision > first.average_precision + 0.3
    assert additive > 0.5
    assert additive > logistic + 0.05


def test_the_first_moment_may_be_any() -> None:
    batch = visits([MONDAY_MS + 17])

    result, _ = replayed([(batch, np.zeros(1, dtype=np.int8))], ReplayOptions(0))

    assert (result.first_ms, result.last_ms) == (MONDAY_MS + 17, MONDAY_MS + 17)


def snapshot_of(schema_hash: str | None = None) -> Snapshot:
    """Give a model that has learned something, as a file would hold it."""
    kernel = FeatureKernel(CARD)
    model = make_model("additive", kernel.names)
    rows = np.random.default_rng(4).normal(2.0, 2.0, (200, len(kernel.names)))
    is_fraud = (np.arange(200) % 4 == 0).astype(np.int8)
    model.learn(rows.astype(np.float32), is_fraud, np.ones(200))
    data = encode(
        model,
        version="additive@200",
        training_offset=200,
        schema_hash=schema_hash or kernel.schema_hash,
    )
    return decode(data)


@pytest.mark.parametrize("size", [1, 7, 500, 1_024])
def test_with_a_snapshot_nothing_is_learned(size: int) -> None:
    events, is_fraud = labelled()
    given = snapshot_of()
    decided: list[Decisions] = []
    run = Replay(
        CARD,
        Settings(batch_events_max=size),
        ReplayOptions(HOUR_MS),
        decided=decided.append,
        snapshot=given,
    )

    result = run.run([(events, is_fraud)], lambda _: None)

    features = np.concatenate([part.features for part in decided])
    scores = np.concatenate([part.scores for part in decided])
    assert {part.model_version for part in decided} == {"additive@200"} == {result.model_version}
    assert {part.label_offset for part in decided} == {0}
    assert scores.tobytes() == snapshot_of().model.score(features).scores.tobytes()
    assert len(set(scores.tolist())) > 50
    assert (result.events, result.labels) == (600, {})
    assert list(result.quality) == ["additive"]


def test_a_snapshot_of_other_features_is_refused() -> None:
    with pytest.raises(SnapshotError, match=r"additive@200: its features have the hash other"):
        Replay(CARD, Settings(), ReplayOptions(HOUR_MS), snapshot=snapshot_of("other"))
