"""The columns of a replay that other models are judged on: the same rows, the same labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.feature_log import log_features
from pipeline.feedback import Settled
from pipeline.replay import Labelled, Learned, Replay, ReplayOptions
from pipeline.settings import Settings
from tests.strategies import CARD, traffic

SETTINGS = Settings(challengers="none")


def labelled(events: int = 500) -> Labelled:
    """Give sorted traffic in which large amounts are frauds, and some events nobody knows of."""
    batch = traffic(3, events)
    batch = batch.take(np.argsort(batch.event_time_ms, kind="stable"))
    is_fraud = (batch.amount_minor > 4000).astype(np.int8)
    is_fraud[::17] = -1
    return batch, is_fraud


def test_the_rows_are_those_that_were_decided_on(tmp_path: Path) -> None:
    events, is_fraud = labelled()
    decided: list[Decisions] = []
    run = Replay(CARD, SETTINGS, ReplayOptions(DAY_MS), decided=decided.append)
    run.run([(events, is_fraud)], lambda result: None)

    logged = log_features(
        CARD, SETTINGS, [(events, is_fraud)], label_delay_ms=DAY_MS, path=tmp_path / "features"
    )

    wanted = np.concatenate([decisions.features for decisions in decided])
    assert logged.features.tobytes() == wanted.tobytes()
    assert logged.features.shape == (500, len(logged.names))
    assert logged.is_fraud.tolist() == is_fraud.tolist()
    assert logged.event_time_ms.tolist() == events.event_time_ms.tolist()
    assert logged.amount_minor.tolist() == events.amount_minor.tolist()
    scores = np.concatenate([decisions.scores for decisions in decided])
    assert logged.scores["additive"].tolist() == scores.tolist()


def test_the_labels_stand_in_the_order_in_which_they_were_learned(tmp_path: Path) -> None:
    batch = labelled()
    settled: list[str] = []
    learned: list[str] = []

    def settle(items: Sequence[Settled]) -> None:
        settled.extend(item.label.transaction_id for item in items)

    def learn(found: Learned) -> None:
        learned.extend(found.examples.transaction_id)

    run = Replay(CARD, SETTINGS, ReplayOptions(DAY_MS), settled=settle, learned=learn)
    run.run([batch], lambda result: None)

    logged = log_features(
        CARD, SETTINGS, [batch], label_delay_ms=DAY_MS, path=tmp_path / "features"
    )

    ids = [batch[0].transaction_id[row] for row in logged.labels]
    assert 300 < len(learned) < len(ids)
    assert ids[: len(learned)] == learned == settled
    assert logged.labels_known[-1] == len(learned)


def test_no_label_is_known_before_its_delay(tmp_path: Path) -> None:
    logged = log_features(
        CARD, SETTINGS, [labelled()], label_delay_ms=DAY_MS, path=tmp_path / "features"
    )

    assert (np.diff(logged.labels_known) >= 0).all()
    for row in range(0, 500, 7):
        known = logged.labels[: logged.labels_known[row]]
        assert (logged.event_time_ms[known] + DAY_MS <= logged.event_time_ms[row]).all()


def test_what_was_learned_goes_with_what_was_said_of_it(tmp_path: Path) -> None:
    batch = labelled()
    said: dict[str, tuple[float, float]] = {}
    learned: list[Learned] = []

    def decide(decisions: Decisions) -> None:
        [challenger] = decisions.challengers.values()
        both = zip(decisions.scores.tolist(), challenger.tolist(), strict=True)
        said.update(zip(decisions.transaction_ids, both, strict=True))

    run = Replay(
        CARD, Settings(challengers="logistic"), ReplayOptions(DAY_MS),
        decided=decide, learned=learned.append,
    )  # fmt: skip
    run.run([batch], lambda result: None)

    for found in learned:
        wanted = [said[name] for name in found.examples.transaction_id]
        assert list(found.scores) == ["additive", "logistic"]
        assert list(zip(*(given.tolist() for given in found.scores.values()), strict=True)) == (
            wanted
        )
