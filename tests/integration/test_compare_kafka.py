"""What the present system said goes through Kafka, worker and labels to `fraudstream compare`."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.actions import ACTIONS
from pipeline.durations import DAY_MS
from pipeline.records import DecisionRecord, TrainingExample, decode_decisions, decode_examples
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from pipeline.topics import DECISIONS, TRAINING
from producers.batch import EventBatch, joined
from producers.feed import LabelOptions
from producers.present_system import with_present_system
from producers.publisher import publish
from producers.simulator import SimulatorOptions, simulate
from stack.compare_command import compare_command
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes
from tests.resetting import reset
from tests.strategies import CARD
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MATURITY_DAYS = 3
WORLD = SimulatorOptions(customers=120, terminals=80, days=12, fraud_scale=10.0)


def world() -> EventBatch:
    return joined(list(with_present_system(simulate(WORLD), seed=WORLD.seed)))


class Topics:
    """What the worker has published until now."""

    def __init__(self, settings: Settings) -> None:
        self._decisions, self._training = Log(settings, DECISIONS), Log(settings, TRAINING)

    def decisions(self) -> list[DecisionRecord]:
        found = decode_decisions(record.value for record in self._decisions.read())
        return [record for record in found if record is not None]

    def examples(self) -> list[TrainingExample]:
        found = decode_examples(record.value for record in self._training.read())
        return [record for record in found if record is not None]

    def matured(self) -> set[str]:
        return {item.transaction_id for item in self.examples() if item.source == "matured"}

    def told(self) -> set[str]:
        return {item.transaction_id for item in self.examples() if item.source != "matured"}

    def close(self) -> None:
        self._decisions.close()
        self._training.close()


def provable(decisions: list[DecisionRecord], told: set[str]) -> set[str]:
    """Name the decisions that silence proves genuine: both let them through, long enough ago."""
    newest = max(decision.event_time for decision in decisions)
    return {
        decision.transaction_id
        for decision in decisions
        if decision.action == "approve"
        and decision.incumbent is not None
        and decision.incumbent.action == "approve"
        and decision.event_time + MATURITY_DAYS * DAY_MS <= newest
        and decision.transaction_id not in told
    }


def test_a_team_compares_what_was_decided_live_with_what_it_has(
    stack: Endpoints, settings: Settings
) -> None:
    live = replace(settings, partitions=1, maturity_days=float(MATURITY_DAYS), challengers="none")
    reset(stack, live)
    events = world()
    with Processes(live) as processes:
        processes.ready("trainer", "worker")
        sent = publish(
            [events],
            CARD,
            live.kafka_servers,
            labels=LabelOptions(delay_ms=DAY_MS, genuine_share=0.5, to_end=True),
            signer=LabelSigner.of(live),
        )
        topics = Topics(live)
        wait_until(lambda: len(topics.decisions()) == len(events), "all are decided")
        wait_until(lambda: len(topics.told()) == sent.labels, "all labels are joined")
        decisions, told = topics.decisions(), topics.told()
        wait_until(lambda: topics.matured() >= provable(decisions, told), "silence has matured")
        matured = topics.matured()
        topics.close()

    result = CliRunner().invoke(compare_command, ["--segment", "card", "--json"], obj=live)

    assert result.exit_code == 0, result.output
    assert {d.transaction_id: d.incumbent for d in decisions} == dict(
        zip(events.transaction_id, events.incumbents, strict=True)
    )
    # What the present system held back went nowhere, so nobody could complain of it.
    assert matured == provable(decisions, told)
    assert len(matured) > 100
    check_answer(json.loads(result.stdout), events, len(told), len(matured))


def check_answer(answer: dict, events: EventBatch, told: int, matured: int) -> None:  # type: ignore[type-arg]
    actions = np.array([ACTIONS.index(item.action or "") for item in events.incumbents if item])  # type: ignore[arg-type]
    alerted, fraud = actions > 0, events.is_fraud == 1
    acted, they = answer["acted"], answer["acted"]["they"]
    assert (acted["decisions"], acted["frauds"]) == (len(events), fraud.sum())
    assert (acted["labelled"], acted["matured"]) == (told + matured, matured)
    assert (they["alerts"], they["declined"]) == (alerted.sum(), (actions == 2).sum())
    assert they["caught_minor"] == events.amount_minor[alerted & fraud].sum()
    assert they["caught"] == (alerted & fraud).sum() > 0
    assert answer["their_declines"] == answer["their_declines_unlabelled"] > 0
    assert answer["equal_budget"]["we"]["alerts"] == alerted.sum()
    assert sum(item["part"]["decisions"] for item in answer["segments"]) == len(events)
    assert answer["verdict"]


def test_empty_topics_are_nothing_to_compare(settings: Settings) -> None:
    result = CliRunner().invoke(compare_command, ["--json"], obj=settings)

    assert result.exit_code == 1
    assert "there is nothing to compare" in str(result.exception)
