"""The closed loop live: a worker and a trainer whose decisions the world answers to.

The worker is killed on the way, so that decisions are published again. The story is told once; the
tests look at what it left.
"""

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from pipeline.durations import DAY_MS
from pipeline.events import LabelDecoder, OutcomeDecoder
from pipeline.partitioner import partition_of
from pipeline.records import (
    ACTIONS,
    DecisionRecord,
    TrainingExample,
    decode_decisions,
    decode_examples,
)
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, FEEDBACK, OUTCOMES, TRAINING
from pipeline.verdicts import LABEL_PATHS
from producers.batch import joined
from producers.loop_command import loop_command
from producers.loop_options import CLOSED_LOOP_FRAUD_SCALE
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, hashes, read
from tests.resetting import reset
from tests.strategies import CARD
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAYS, CARDS = 60, 40
WORLD = ("--customers", str(CARDS), "--terminals", str(CARDS), "--days", str(DAYS), "--seed", "3")
KILLED_AFTER = 1_500
BUDGET = 5
RATE = 120


def decided(settings: Settings) -> dict[str, DecisionRecord]:
    found = decode_decisions(record.value for record in read(settings, DECISIONS))
    return {item.transaction_id: item for item in found if item is not None}


def learned(settings: Settings) -> list[TrainingExample]:
    """Give the training examples once each: a worker that was killed may publish some again."""
    found = decode_examples(record.value for record in read(settings, TRAINING))
    examples = [item for item in found if item is not None]
    return list({(item.partition, item.training_seq): item for item in examples}.values())


class Left:
    """What a run left in the topics and the ledger."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        labels, outcomes = LabelDecoder(CARD), OutcomeDecoder(CARD)
        self.decisions = decided(settings)
        self.training = learned(settings)
        self.feedback = read(settings, FEEDBACK)
        self.outcome_records = read(settings, OUTCOMES)
        self.labels = [labels.decode_one(record.value) for record in self.feedback]
        self.outcomes = [outcomes.decode_one(record.value) for record in self.outcome_records]
        self.ledger: Counter[str] = Counter()
        for part in hashes(client, "ledger", settings.partitions):
            self.ledger.update({path: int(count) for path, count in part.items()})

    @property
    def matured(self) -> list[TrainingExample]:
        return [example for example in self.training if example.source == "matured"]

    @property
    def learned(self) -> int:
        """Labels and silences that were to be learned."""
        return self.ledger["learned"] + self.ledger["corrected"]

    @property
    def joined(self) -> int:
        """Labels that found their decision; nobody gave those that matured."""
        return sum(self.ledger[path] for path in LABEL_PATHS) - self.ledger["matured"]


@dataclass
class Loop:
    """One run of the loop, what it said and what it left; and one that was interrupted."""

    settings: Settings
    redis: redis.Redis
    said: dict[str, Any] = field(default_factory=dict)
    remembered: Left | None = None
    interrupted: Result | None = None

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(loop_command, ["--json", *WORLD, *arguments], obj=self.settings)

    @property
    def left(self) -> Left:
        assert self.remembered is not None, "the story was told to its end"
        return self.remembered


def is_settled(loop: Loop) -> bool:
    """Say whether every label was joined, and all that came of it is published."""
    left = Left(loop.settings, loop.redis)
    return left.joined == loop.said["published"]["labels"] and left.learned == len(left.training)


def tell(loop: Loop, processes: Processes) -> None:
    worker, _ = processes.ready("worker", "trainer")

    def kill_and_restart() -> None:
        with closing(Log(loop.settings, DECISIONS)) as log:
            wait_until(
                lambda: len(log.read()) > KILLED_AFTER, "some are decided", seconds_max=120.0
            )
        worker.started.process.kill()
        processes.start("worker")

    accident = threading.Thread(target=kill_and_restart)
    accident.start()
    # What is learned of the first days must be in force in the last.
    paced = ("--rate", str(RATE))
    done = loop.run("--review-budget", str(BUDGET), "--labels-to-end", *paced)
    accident.join()
    assert done.exit_code == 0, done.output
    loop.said = json.loads(done.stdout)
    wait_until(lambda: is_settled(loop), "every label is joined", seconds_max=120.0)
    # The next run has other events of the same ids.
    loop.remembered = Left(loop.settings, loop.redis)
    threading.Timer(2.0, signal.raise_signal, (signal.SIGINT,)).start()
    loop.interrupted = loop.run("--seed", "4", "--rate", "20")


@pytest.fixture(scope="module")
def loop(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("loop")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        snapshot_interval_seconds=0.3,
        maturity_days=10.0,
        # Nothing is learned at first, so that all is reviewed; then all three actions come up.
        review_score_min=0.009,
        decline_score_min=0.0101,
    )
    reset(stack, settings)
    with redis.from_url(stack.redis_url) as client:
        loop = Loop(settings, client)
        with Processes(settings) as processes:
            tell(loop, processes)
        yield loop


def whole() -> list[str]:
    world = SimulatorOptions(
        customers=CARDS, terminals=CARDS, days=DAYS, seed=3, fraud_scale=CLOSED_LOOP_FRAUD_SCALE
    )
    return joined(list(simulate(world))).transaction_id


def test_every_transaction_was_decided_and_answered_once(loop: Loop) -> None:
    published, report = loop.said["published"], loop.said["report"]

    assert published["transactions"] == len(whole()) > 3_000
    assert (published["failed"], loop.said["undecided"], loop.said["gave_up"]) == (0, 0, False)
    assert report["decided"] == len(whole())
    assert set(whole()) == set(loop.left.decisions)


def test_the_report_agrees_with_the_decisions_that_were_published(loop: Loop) -> None:
    report = loop.said["report"]
    actions = Counter(item.action for item in loop.left.decisions.values())

    highest = sorted(item.score for item in loop.left.decisions.values())[-200::10]
    assert set(actions) == set(ACTIONS), (actions, highest)
    assert report["alerts_reviewed"] + report["alerts_unreviewed"] == actions["review"]
    assert report["frauds_declined"] + report["false_declines"] == actions["decline"]


def test_labels_and_outcomes_are_in_their_topics_and_partitions(loop: Loop) -> None:
    published, report, left = loop.said["published"], loop.said["report"], loop.left

    assert Counter(label.source for label in left.labels) == report["labels"]
    assert Counter(outcome.outcome for outcome in left.outcomes) == report["outcomes"]
    assert (len(left.labels), len(left.outcomes)) == (published["labels"], published["outcomes"])
    assert min(published["labels"], published["outcomes"]) > 10
    for record in (*left.feedback, *left.outcome_records):
        assert record.key == json.loads(record.value)["card_id"].encode()
        assert record.partition == partition_of(record.key, loop.settings.partitions)


def test_the_budget_was_kept(loop: Loop) -> None:
    days = Counter(
        loop.left.decisions[label.transaction_id].event_time // DAY_MS
        for label in loop.left.labels
        if label.source == "analyst"
    )

    assert 0 < max(days.values()) <= BUDGET


def test_of_what_was_declined_nothing_was_said_and_nothing_learned(loop: Loop) -> None:
    left = loop.left
    declined = {name for name, item in left.decisions.items() if item.action == "decline"}

    assert declined
    for items in (left.labels, left.outcomes, left.training):
        assert declined.isdisjoint(item.transaction_id for item in items)


def test_the_ledger_closes(loop: Loop) -> None:
    left = loop.left
    given = {example.label_id for example in left.training} - {
        example.label_id for example in left.matured
    }

    assert left.matured
    assert given <= {label.label_id for label in left.labels}
    assert left.learned == len(left.training)
    assert left.joined == len(left.labels)


def test_an_outcome_decides_whether_silence_is_learned(loop: Loop) -> None:
    left = loop.left
    outcomes = {outcome.transaction_id: outcome.outcome for outcome in left.outcomes}
    matured = {example.transaction_id for example in left.matured}
    let_through = {name for name, kind in outcomes.items() if kind == "approved"}
    refused = {name for name, kind in outcomes.items() if kind == "issuer_declined"}

    assert refused
    assert refused.isdisjoint(matured)
    assert {left.decisions[name].action for name in let_through & matured} == {"review"}


def test_ctrl_c_ends_it_with_what_was_done(loop: Loop) -> None:
    assert loop.interrupted is not None
    assert loop.interrupted.exit_code == 0, loop.interrupted.output
    said = json.loads(loop.interrupted.stdout)

    assert 0 < said["published"]["transactions"] < 200
    assert said["published"]["failed"] == 0
    assert not said["gave_up"]
