"""Decisions made again from what the logs keep: equal to the last bit, or named."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from models.snapshot import encode
from pipeline.policy import Policy
from pipeline.recomputation import Recomputation
from pipeline.records import DecisionRecord, decode_decisions, encode_record
from pipeline.rules import NO_RULES, Rules, load_rules, parse_rules
from pipeline.settings import Settings
from pipeline.topics import TRANSACTIONS
from pipeline.verification import (
    FINDINGS_MAX,
    NOT_RECOMPUTED,
    POLICY_UNKNOWN,
    RULES_UNKNOWN,
    Verification,
    Verified,
)
from pipeline.version_fold import VersionFold
from tests.recorded import (
    KERNEL,
    NAMES,
    Partition,
    Record,
    as_log,
    chunks,
    folded,
    training,
    transactions,
)
from tests.strategies import CARD

LOG = training(300)
# Within what the models of these versions give, so that every action occurs.
REVIEW, DECLINE = 0.12, 0.16
SETTINGS = Settings(partitions=1, review_score_min=REVIEW, decline_score_min=DECLINE)
# The versions that each partition had in force: one is slow, one goes back.
VERSIONS = ((0, 40, 80, 200), (0, 80, 290), (0, 200, 80, 200, 300))
EACH = 25
DECISIONS = EACH * sum(map(len, VERSIONS))


def recorded(settings: Settings = SETTINGS) -> list[Partition]:
    partitions = [Partition(number, settings, LOG) for number in range(len(VERSIONS))]
    for partition, versions in zip(partitions, VERSIONS, strict=True):
        values = transactions(partition.number, EACH * len(versions))
        for place, version in enumerate(versions):
            partition.decide(values[place * EACH : (place + 1) * EACH], version)
    return partitions


@pytest.fixture(scope="module")
def whole() -> list[Partition]:
    return recorded()


@pytest.fixture
def partitions(whole: list[Partition]) -> list[Partition]:
    """Partitions whose decisions a test may add to."""
    return [replace(item, decisions=list(item.decisions)) for item in whole]


def verified(
    partitions: Sequence[Partition],
    *,
    size: int = 1_000,
    policies: Sequence[tuple[float, float]] = ((REVIEW, DECLINE),),
    champion_only: bool = False,
    names: Sequence[str] = NAMES,
    published: Mapping[str, bytes] | None = None,
    rules: Rules = NO_RULES,
) -> Verified:
    fold = VersionFold(CARD, names, as_log(LOG), end=len(LOG), published=published)
    known = [
        Policy(KERNEL.table, review_score_min=review, decline_score_min=decline)
        for review, decline in policies
    ]
    recomputation = Recomputation(KERNEL, fold, known, champion_only=champion_only, rules=rules)
    ends = {item.number: len(item.transactions) for item in partitions}
    run = Verification(recomputation, ends)
    return run.run([chunks(item.decisions, size) for item in partitions], fold, lambda _: None)


def first(partition: Partition) -> DecisionRecord:
    [decision] = decode_decisions([partition.decisions[0].value])
    assert decision is not None
    return decision


def forged(decision: DecisionRecord, **changes: object) -> bytes:
    return encode_record(msgspec.structs.replace(decision, **changes))


def substituted(partition: Partition, **changes: object) -> None:
    """Put a forged decision into the place of the first one."""
    value = forged(first(partition), **changes)
    partition.decisions[0] = replace(partition.decisions[0], value=value)


@pytest.mark.parametrize("size", [1, 7, 500, 1_024])
def test_every_decision_is_made_again_with_any_number_of_partitions(
    whole: list[Partition], size: int
) -> None:
    result = verified(whole, size=size)

    assert (result.read, result.distinct, result.equal) == (DECISIONS,) * 3
    assert result.is_equal
    assert (result.findings, result.examples) == ([], len(LOG))


def test_all_actions_and_many_scores_are_among_what_is_tested(whole: list[Partition]) -> None:
    found = [
        item
        for partition in whole
        for item in decode_decisions(record.value for record in partition.decisions)
        if item is not None
    ]

    assert {item.action for item in found} == {"approve", "review", "decline"}
    assert len({item.score for item in found}) > DECISIONS / 2
    assert max(len(item.reasons) for item in found) > 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", 0.25),
        ("action", "decline"),
        ("reasons", [("AMOUNT_UNUSUAL", 0.25)]),
        ("challengers", {"logistic@0": 0.25}),
    ],
)
def test_a_decision_that_says_something_else_is_named(
    partitions: list[Partition], field: str, value: object
) -> None:
    right = first(partitions[1])
    substituted(partitions[1], **{field: value})

    result = verified(partitions)

    assert not result.is_equal
    assert (result.different, result.equal) == (1, DECISIONS - 1)
    [finding] = result.findings
    assert finding == (
        right.transaction_id, "decisions[1] offset 0", field, getattr(right, field), value,
    )  # fmt: skip


def test_the_last_bit_of_a_score_counts(partitions: list[Partition]) -> None:
    right = first(partitions[2])
    substituted(partitions[2], score=float(np.nextafter(right.score, 1.0)))

    [finding] = verified(partitions).findings

    assert (finding.transaction_id, finding.what) == (right.transaction_id, "score")


def test_a_decision_that_names_another_version_is_found(partitions: list[Partition]) -> None:
    substituted(partitions[0], model_version="additive@1")

    assert verified(partitions).different == 1


def test_what_was_published_again_is_counted_and_no_error(partitions: list[Partition]) -> None:
    for record in partitions[0].decisions[5:15]:
        partitions[0].put(record.value)

    result = verified(partitions, size=7)

    assert (result.read, result.repeated, result.distinct) == (DECISIONS + 10, 10, DECISIONS)
    assert result.is_equal


def test_two_different_decisions_of_one_transaction_are_an_error(
    partitions: list[Partition],
) -> None:
    right = first(partitions[0])
    partitions[0].put(forged(right, propensity=0.5))

    result = verified(partitions)

    assert (result.conflicting, result.different, result.is_equal) == (1, 0, False)
    [finding] = result.findings
    assert (finding.what, finding.expected) == (
        "conflict",
        "one decision of transactions[0] offset 0",
    )


def test_a_forged_score_beside_the_true_one_is_named(partitions: list[Partition]) -> None:
    right = first(partitions[0])
    partitions[0].put(forged(right, score=0.5))

    result = verified(partitions)

    assert (result.conflicting, result.different, result.equal) == (1, 1, DECISIONS)
    assert {finding.what for finding in result.findings} == {"conflict", "score"}
    assert {finding.transaction_id for finding in result.findings} == {right.transaction_id}


def test_only_the_first_findings_are_kept_and_all_are_counted(partitions: list[Partition]) -> None:
    for record in list(partitions[0].decisions):
        [decision] = decode_decisions([record.value])
        assert decision is not None
        partitions[0].put(forged(decision, propensity=0.5))

    result = verified(partitions)

    assert result.conflicting == EACH * len(VERSIONS[0]) > FINDINGS_MAX == len(result.findings)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_hash": "other"}, "schema hash is of other features"),
        ({"features": b"1234"}, "features are of another length"),
        ({"model_version": "forest9@3"}, "no such model"),
        ({"model_version": "additive@999"}, "the training log ends before the version"),
        ({"model_version": "?"}, "version is not the name of one"),
        ({"challengers": {"forest9@3": 0.5}}, "no such model"),
        (
            {"source": (TRANSACTIONS, 1, 0)},
            "source is not a place of the same partition",
        ),
        (
            {"source": (TRANSACTIONS, 0, 1 << 60)},
            "source is not a place of the same partition",
        ),
        ({"source": ("feedback", 0, 0)}, "source is not a place of the same partition"),
    ],
)
def test_what_cannot_be_made_again_is_said_with_its_reason(
    partitions: list[Partition], changes: dict[str, object], reason: str
) -> None:
    right = first(partitions[0])
    substituted(partitions[0], **changes)

    result = verified(partitions)

    assert not result.is_equal
    assert result.not_recomputed == {reason: 1}
    assert (result.different, result.equal) == (0, DECISIONS - 1)
    [finding] = result.findings
    assert finding[:4] == (
        right.transaction_id, "decisions[0] offset 0", NOT_RECOMPUTED, reason,
    )  # fmt: skip


@pytest.mark.parametrize("value", [None, b"", b"{}", b"hello", b"\xff"])
def test_a_record_that_is_no_decision_is_said(
    partitions: list[Partition], value: bytes | None
) -> None:
    partitions[0].put(value)

    result = verified(partitions)

    assert result.not_recomputed == {"record is not a decision": 1}
    assert (result.equal, result.distinct) == (DECISIONS, DECISIONS + 1)


def test_decisions_of_other_thresholds_are_said_and_the_rest_of_them_is_compared() -> None:
    earlier = recorded(replace(SETTINGS, decline_score_min=0.9))
    substituted(earlier[0], score=0.5)

    result = verified(earlier)

    assert result.not_recomputed == {POLICY_UNKNOWN: DECISIONS - 1}
    assert (result.different, result.equal) == (1, 0)


def test_decisions_of_earlier_thresholds_are_made_again_where_they_are_given(
    partitions: list[Partition],
) -> None:
    earlier = recorded(replace(SETTINGS, decline_score_min=0.9))

    mixed = [earlier[0], *partitions[1:]]
    result = verified(mixed, policies=((REVIEW, DECLINE), (REVIEW, 0.9)))

    assert result.is_equal


def test_challengers_can_be_left_out(partitions: list[Partition]) -> None:
    substituted(partitions[0], challengers={"logistic@0": 0.25})

    result = verified(partitions, champion_only=True, names=("additive",))

    assert result.is_equal


def test_a_challenger_that_the_settings_do_not_name_is_said(whole: list[Partition]) -> None:
    result = verified(whole, names=("additive",))

    assert result.not_recomputed == {"model is not among --model and --challengers": DECISIONS}


def test_a_published_snapshot_that_is_not_the_fold_is_an_error(whole: list[Partition]) -> None:
    [model, _] = folded(LOG, 40).models
    wrong = encode(model, version="additive@50", training_offset=50, schema_hash=KERNEL.schema_hash)

    result = verified(whole, published={"additive@50": wrong})

    assert (result.equal, result.is_equal) == (DECISIONS, False)
    assert result.snapshots.different == ["additive@50"]
    assert [finding.what for finding in result.findings] == ["snapshot additive@50"]


def interrupted(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    yield records
    raise KeyboardInterrupt


def test_an_interrupt_leaves_what_was_found_until_then(whole: list[Partition]) -> None:
    fold = VersionFold(CARD, NAMES, as_log(LOG), end=len(LOG))
    policy = Policy(KERNEL.table, review_score_min=REVIEW, decline_score_min=DECLINE)
    run = Verification(Recomputation(KERNEL, fold, [policy]), {0: EACH * len(VERSIONS[0])})

    result = run.run([interrupted(whole[0].decisions)], fold, lambda _: None)

    assert (result.finished, result.is_equal) == (False, False)
    assert 0 < result.equal < EACH * len(VERSIONS[0])


def test_progress_is_told(whole: list[Partition]) -> None:
    told: list[int] = []
    fold = VersionFold(CARD, NAMES, as_log(LOG), end=len(LOG))
    policy = Policy(KERNEL.table, review_score_min=REVIEW, decline_score_min=DECLINE)
    run = Verification(Recomputation(KERNEL, fold, [policy]), {0: EACH * len(VERSIONS[0])})

    run.run([chunks(whole[0].decisions, 10)], fold, lambda found: told.append(found.read))

    assert told == sorted(told)
    assert told[-1] == EACH * len(VERSIONS[0])


@pytest.fixture(scope="module")
def degraded() -> Partition:
    """A partition whose models were gone for a while."""
    partition = Partition(0, SETTINGS, LOG)
    values = transactions(3, 3 * EACH)
    partition.decide(values[:EACH], 80)
    partition.decide_by_rules(values[EACH : 2 * EACH], load_rules(SETTINGS, CARD))
    partition.decide(values[2 * EACH :], 200)
    return partition


def test_what_rules_decided_is_made_again_between_what_models_decided(degraded: Partition) -> None:
    rules = load_rules(SETTINGS, CARD)

    result = verified([degraded], rules=rules)

    assert (result.equal, result.distinct) == (3 * EACH, 3 * EACH)
    assert result.is_equal
    assert verified([degraded], rules=rules, champion_only=True).is_equal


def test_rules_of_another_file_are_named_and_not_guessed(degraded: Partition) -> None:
    result = verified([degraded])

    assert result.equal == 2 * EACH
    assert result.not_recomputed == {"rules are of another file (--rules names it)": EACH}


def test_by_unknown_thresholds_the_rest_of_a_ruling_is_compared(degraded: Partition) -> None:
    result = verified([degraded], rules=load_rules(SETTINGS, CARD), policies=[(0.3, 0.4)])

    assert result.not_recomputed == {POLICY_UNKNOWN: 3 * EACH}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"score": 0.9}, "score"),
        ({"action": "decline"}, "action"),
        ({"reasons": [("RULE_BURST", 1.0)]}, "reasons"),
        ({"degraded": False}, "degraded"),
        ({"challengers": {"logistic@80": 0.5}}, "challengers"),
    ],
)
def test_a_ruling_that_was_changed_is_named(
    degraded: Partition, change: dict[str, object], what: str
) -> None:
    changed = replace(degraded, decisions=list(degraded.decisions))
    [decision] = decode_decisions([changed.decisions[EACH].value])
    assert decision is not None
    value = forged(decision, **change)
    changed.decisions[EACH] = replace(changed.decisions[EACH], value=value)

    result = verified([changed], rules=load_rules(SETTINGS, CARD))

    assert (result.equal, result.different) == (3 * EACH - 1, 1)
    assert [finding.what for finding in result.findings] == [what]


def test_a_refused_snapshot_keeps_the_whole_from_passing(whole: list[Partition]) -> None:
    result = verified(whole)
    assert result.is_equal

    result.snapshots.refused["additive@80"] = "forged"

    assert not result.is_equal


# Rules beside the model.

BESIDE = parse_rules(
    """
    [[rule]]
    code = "RULE_LARGE"
    action = "decline"
    state = "act"
    when = ["amount >= 40"]
    [[rule]]
    code = "RULE_NEW"
    action = "review"
    state = "shadow"
    when = ["card_counterpart_new == 1"]
    """,
    CARD,
    place="beside.toml",
)


@pytest.fixture(scope="module")
def ruled() -> Partition:
    """A partition where rules stood beside the model for a while."""
    partition = Partition(0, SETTINGS, LOG)
    values = transactions(3, 3 * EACH)
    partition.decide(values[:EACH], 80)
    partition.decide(values[EACH : 2 * EACH], 200, rules=BESIDE)
    partition.decide(values[2 * EACH :], 200)
    return partition


def test_what_rules_beside_the_model_did_is_made_again(ruled: Partition) -> None:
    found = list(decode_decisions(record.value for record in ruled.decisions))
    said = {code for item in found if item is not None for code in item.rules}

    assert said == {"RULE_LARGE", "RULE_NEW"}
    assert verified([ruled], rules=BESIDE).is_equal
    assert verified([ruled], rules=BESIDE, champion_only=True).is_equal


def test_beside_the_model_rules_of_another_file_are_named_and_the_rest_is_compared(
    ruled: Partition,
) -> None:
    result = verified([ruled], rules=load_rules(SETTINGS, CARD))

    assert (result.equal, result.different) == (2 * EACH, 0)
    assert result.not_recomputed == {RULES_UNKNOWN: EACH}


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"score": 0.9}, ("score", "score")),
        ({"reasons": [("RULE_FORGED", 1.0), ("RULE_FORGED", 2.0)]}, ("reasons", "reasons")),
        # The reasons name rules that are then not among those that held.
        ({"rules": ["RULE_FORGED"]}, ("rules", "reasons")),
        ({"action": "approve"}, ("action", None)),
    ],
)
def test_a_change_of_what_rules_and_model_said_is_named(
    ruled: Partition, change: dict[str, object], what: tuple[str, str | None], is_known: bool
) -> None:
    changed = replace(ruled, decisions=list(ruled.decisions))
    decisions = decode_decisions(record.value for record in changed.decisions)
    place, decision = next(
        (place, item)
        for place, item in enumerate(decisions)
        if item is not None and "RULE_LARGE" in item.rules
    )
    changed.decisions[place] = replace(changed.decisions[place], value=forged(decision, **change))

    result = verified([changed], rules=BESIDE if is_known else NO_RULES)

    # Without their file nobody can know which rules held, nor the action that came of it.
    expected = what[0] if is_known else what[1]
    found = [item.what for item in result.findings if item.what != NOT_RECOMPUTED]
    assert found == ([expected] if expected else [])
