"""Decisions made under controls are made again by the log, and a changed word is named."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pipeline.controls import (
    Allow,
    Block,
    Control,
    ControlLog,
    SetMode,
    encode_control,
)
from pipeline.keys import init_keys
from pipeline.policy import Policy
from pipeline.recomputation import Recomputation
from pipeline.records import DecisionRecord, decode_decisions, encode_record
from pipeline.replay import Replay, ReplayOptions
from pipeline.settings import Settings
from pipeline.signing import ControlSigner, ControlVerifier
from pipeline.verification import (
    POLICY_UNKNOWN,
    Verification,
    Verified,
)
from pipeline.version_fold import VersionFold
from producers.simulator import SimulatorOptions, simulate
from tests.recorded import KERNEL, NAMES, Partition, as_log, chunks, training, transactions
from tests.strategies import CARD, DAY_MS, MONDAY_MS

LOG = training(100)
SETTINGS = Settings(
    partitions=1, review_score_min=0.125, decline_score_min=0.135,
    breaker_decline_share_max=0.5, breaker_events_min=4,
)  # fmt: skip
SAID = ("ana", "because", MONDAY_MS)
EACH = 40


def control_log(folder: Path, words: list[Control]) -> ControlLog:
    init_keys(folder)
    settings = Settings(keys_dir=str(folder))
    log, signer = ControlLog("observe", ["card", "terminal"], ControlVerifier(settings)), None
    signer = ControlSigner(settings)
    for offset, word in enumerate(words):
        value = encode_control(word)
        assert log.take(offset, None, value, signer.headers(None, value)) is None
    return log


@pytest.fixture
def log(tmp_path: Path) -> ControlLog:
    return control_log(tmp_path, [
        Block("k0", *SAID, entity="terminal", id="m1"),
        Allow("k1", *SAID, entity="terminal", id="m2", until=MONDAY_MS + DAY_MS),
        SetMode("k2", *SAID, mode="act"),
    ])  # fmt: skip


@pytest.fixture
def partition(log: ControlLog) -> Partition:
    """Decisions of before any word, of after each, and of the last word again."""
    found = Partition(0, SETTINGS, LOG)
    values = transactions(4, 5 * EACH)
    for place, offset in enumerate((-1, 0, 1, 2, 2)):
        state = log.at(offset)
        assert state is not None
        found.say(state)
        found.decide(values[place * EACH : (place + 1) * EACH], 80)
    return found


def verified(
    partition: Partition, log: ControlLog | None, policy: tuple[float, float] = (0.125, 0.135)
) -> Verified:
    fold = VersionFold(CARD, NAMES, as_log(LOG), end=len(LOG))
    known = [Policy(KERNEL.table, review_score_min=policy[0], decline_score_min=policy[1])]
    run = Verification(
        Recomputation(KERNEL, fold, known, controls=log), {0: len(partition.transactions)}
    )
    return run.run([chunks(partition.decisions, 1_000)], fold, lambda _: None)


def decisions(partition: Partition) -> list[DecisionRecord]:
    found = decode_decisions(record.value for record in partition.decisions)
    return [item for item in found if item is not None]


def first_reason(decision: DecisionRecord) -> str:
    return decision.reasons[0][0] if decision.reasons else ""


def test_lists_mode_and_breaker_are_made_again(partition: Partition, log: ControlLog) -> None:
    found = decisions(partition)
    first = {first_reason(item) for item in found}
    assert {"LIST_BLOCKED", "LIST_ALLOWED", "BREAKER"} <= first
    assert {item.action_taken for item in found} == {"none", "approve", "review", "decline"}

    result = verified(partition, log)

    assert (result.findings, result.equal, result.is_equal) == ([], 5 * EACH, True)


def test_what_nobody_said_is_not_made_again(partition: Partition) -> None:
    result = verified(partition, None)

    assert result.equal == EACH
    assert result.not_recomputed == {"control offset names no record that counts": 4 * EACH}


def test_a_list_is_known_where_the_policy_is_not(partition: Partition, log: ControlLog) -> None:
    result = verified(partition, log, policy=(0.01, 0.02))

    listed = sum(first_reason(item).startswith("LIST_") for item in decisions(partition))
    assert (result.equal, result.different) == (listed, 0)
    assert result.not_recomputed == {POLICY_UNKNOWN: 5 * EACH - listed}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mode": "observe"}, ["mode"]),
        ({"action_taken": "none"}, ["action_taken"]),
        ({"control_offset": -1}, ["reasons", "action_taken", "action"]),
        ({"action": "approve", "action_taken": "approve"}, ["action_taken", "action"]),
        ({"reasons": [("BREAKER", 0.0)]}, ["reasons"]),
    ],
)
def test_a_word_that_was_changed_is_named(
    partition: Partition, log: ControlLog, change: dict[str, object], named: list[str]
) -> None:
    place, honest = next(
        (place, item)
        for place, item in enumerate(decisions(partition))
        if item.control_offset == 2
        and first_reason(item) == "LIST_BLOCKED"
        and item.score < SETTINGS.review_score_min
    )
    forged = encode_record(msgspec.structs.replace(honest, **change))
    partition.decisions[place] = replace(partition.decisions[place], value=forged)

    result = verified(partition, log)

    assert result.different == 1
    assert [finding.what for finding in result.findings] == named


def test_a_replay_that_observes_differs_in_nothing_but_mode_and_what_is_taken() -> None:
    told: dict[str, list[DecisionRecord]] = {}
    events = list(simulate(SimulatorOptions(customers=60, terminals=40, days=20, seed=3)))
    for mode in ("observe", "act"):
        seen = told.setdefault(mode, [])
        run = Replay(
            CARD,
            replace(SETTINGS, mode=mode, review_score_min=0.05, decline_score_min=0.051),
            ReplayOptions(DAY_MS),
            decided=lambda found, seen=seen: seen.extend(  # type: ignore[misc]
                found.records("transactions", 0, [0] * 10_000)
            ),
        )
        run.run([(batch.transactions(), batch.is_fraud) for batch in events], lambda _: None)

    assert {item.action_taken for item in told["observe"]} == {"none"}
    assert len({item.action for item in told["act"]}) > 1
    as_acting = [
        msgspec.structs.replace(item, mode="act", action_taken=item.action)
        for item in told["observe"]
    ]
    assert list(map(encode_record, as_acting)) == list(map(encode_record, told["act"]))
