"""Rules that decide without a model: they say what the file says, and nothing is guessed."""

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models import make_model
from pipeline.engine import Decisions, Engine, Version
from pipeline.errors import RulesError
from pipeline.features import FeatureKernel, feature_table
from pipeline.feedback import MemoryWaiting
from pipeline.learner import Learner
from pipeline.profiles import MemoryProfiles
from pipeline.records import DecisionRecord, decode_decisions, encode_record
from pipeline.rules import NO_RULES, Rules, load_rules, parse_rules
from pipeline.schema import load_schema, shipped_schemas
from pipeline.settings import Settings
from pipeline.version_names import split_version
from producers.simulator import CARD_TESTING, SimulatorOptions, simulate
from tests.strategies import CARD, MONDAY_MS, label, visits

NAMES = [feature.name for feature in feature_table(CARD)]
PHISHING = load_schema("phishing")


def rule(
    code: str = "RULE_A", action: str = "review", when: str = '"amount >= 5"', state: str = ""
) -> str:
    text = f'[[rule]]\ncode = "{code}"\naction = "{action}"\nwhen = [{when}]\n'
    return text + (f'state = "{state}"\n' if state else "")


def rules(*texts: str) -> Rules:
    return parse_rules("\n".join(texts), CARD, place="mine.toml")


def events(count: int, **columns: list[float]) -> NDArray[np.float32]:
    found = np.zeros((count, len(NAMES)), dtype=np.float32)
    for name, values in columns.items():
        found[:, NAMES.index(name)] = values
    return found


def judged(of: Rules, features: NDArray[np.float32], minor: list[int]) -> list[object]:
    ruling = of.judge(features, np.array(minor, dtype=np.int64))
    return list(zip(ruling.actions.tolist(), ruling.reasons, strict=True))


def test_amounts_are_compared_in_minor_units_exactly() -> None:
    of = rules(rule(when='"amount >= 0.29", "amount <= 1000000000.1"'))

    assert [action for action, _ in judged(of, events(2), [28, 29])] == [0, 1]  # type: ignore[misc]


def test_all_conditions_must_hold_and_a_missing_feature_fulfils_none() -> None:
    of = rules(rule(when='"card_count_1h >= 2.5", "card_counterpart_new == 1"'))
    features = events(
        4, card_count_1h=[2.5, 2.4, 9.0, float("nan")], card_counterpart_new=[1, 1, 0, 1]
    )

    assert [action for action, _ in judged(of, features, [0] * 4)] == [1, 0, 0, 0]  # type: ignore[misc]


def test_a_number_of_the_file_equals_the_same_number_of_a_feature() -> None:
    features = events(1, card_burst=[0.1])

    for operator in ("==", ">=", "<="):
        assert judged(rules(rule(when=f'"card_burst {operator} 0.1"')), features, [0])[0] == (
            1,
            [("RULE_A", 1.0)],
        )


def test_the_strongest_action_is_taken_and_its_reasons_come_first() -> None:
    of = rules(
        rule("RULE_A"), rule("RULE_B", "decline", '"amount >= 7"'), rule("RULE_C"), rule("RULE_D")
    )

    weak, strong = judged(of, events(2), [600, 700])

    assert weak == (1, [("RULE_A", 1.0), ("RULE_C", 1.0), ("RULE_D", 1.0)])
    assert strong == (2, [("RULE_B", 1.0), ("RULE_A", 1.0), ("RULE_C", 1.0)])


def test_rules_are_named_by_what_they_say() -> None:
    same = rules(rule(when='"amount  >=  5"'), "# a remark")

    assert same.version == rules(rule()).version
    assert same.version != rules(rule(when='"amount >= 6"')).version
    assert same.version != rules(rule(action="decline")).version
    # Never taken for the version of a model, whatever the hash is.
    assert split_version(same.version) is None
    assert same.version.startswith("rules@r")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "missing required field `rule`"),
        ("rule = []", r"1 to 100 \[\[rule\]\] \(got 0\)"),
        ("[[rule]", "line 1"),
        (rule(code="rule_a"), r"rule 1: code must match .* \(got 'rule_a'\)"),
        (rule() + rule(), "rule 1: code 'RULE_A' is used twice"),
        (rule(action="approve"), "Invalid enum value 'approve'"),
        (rule(code="AMOUNT_UNUSUAL"), "code 'AMOUNT_UNUSUAL' is a reason code of the models"),
        (rule() + 'state = "on"\n', "Invalid enum value 'on'"),
        (rule(when=""), r"rule 1 \(RULE_A\): when needs at least one condition"),
        (rule() + "weight = 1\n", "unknown field `weight`"),
        (rule(when='"card_cuont_1h >= 1"'), "'card_cuont_1h' is no feature of schema 'card'"),
        (rule(when='"amount > 5"'), r"one of >= <= ==, and a number \(got 'amount > 5'\)"),
        (rule(when='"amount >= nan"'), "and a number"),
        (rule(when='"amount >= 1e99"'), "and a number"),
        (rule(when='"amount >= 5 or hour >= 3"'), "and a number"),
        (rule(when='"amount >= 0.001"'), r"at most 2 decimal places \(got 0.001\)"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(RulesError, match=f"rules mine.toml: .*{said}"):
        parse_rules(text, CARD, place="mine.toml")


def test_a_schema_without_amounts_has_none_to_compare() -> None:
    with pytest.raises(RulesError, match="'amount' is no feature of schema 'phishing'"):
        parse_rules(rule(), PHISHING, place="mine.toml")


@pytest.mark.parametrize("name", shipped_schemas())
def test_every_shipped_schema_has_rules(name: str) -> None:
    found = load_rules(Settings(schema=name), load_schema(name))

    assert found.rules
    assert len({rule.code for rule in found.rules}) == len(found.rules)


def test_a_file_of_ones_own_is_taken_and_one_that_is_missing_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(RulesError, match=f"rules file {path} cannot be read"):
        load_rules(Settings(rules=str(path)), CARD)
    path.write_text(rule())

    assert load_rules(Settings(rules=str(path)), CARD) == rules(rule())
    # A schema of one's own has features that no shipped rule knows.
    assert load_rules(Settings(schema="own.toml"), CARD) is NO_RULES


def engine() -> Engine:
    learned = Learner(CARD, "", ())
    return Engine(CARD, Settings(), MemoryProfiles(CARD, learned.profiles), MemoryWaiting(10))


def decided(of: Engine) -> Decisions:
    return of.decide(visits([MONDAY_MS + n for n in range(3)], amounts=[100, 600, 900]))


def test_an_engine_without_a_model_decides_by_rules_and_says_so() -> None:
    of, settings = engine(), Settings()
    given = rules(rule(), rule("RULE_B", "decline", '"amount >= 9"'))
    of.adopt_rules(given)

    decisions = decided(of)

    records = [decisions.record(place) for place in range(3)]
    assert [record.action for record in records] == ["approve", "review", "decline"]
    assert [record.score for record in records] == [
        0.0, settings.review_score_min, settings.decline_score_min,
    ]  # fmt: skip
    assert {record.model_version for record in records} == {given.version}
    assert [record.reasons[:1] for record in records] == [[], [("RULE_A", 1.0)], [("RULE_B", 1.0)]]
    assert all(record.degraded and not record.challengers for record in records)
    assert list(decode_decisions(map(encode_record, records))) == records
    # What the model will learn from is recorded all the same.
    assert all(len(record.features) == 4 * len(NAMES) for record in records)


def test_a_model_that_comes_takes_over_and_its_decisions_say_nothing_of_rules() -> None:
    of = engine()
    of.adopt_rules(NO_RULES)
    assert decided(of).degraded
    of.adopt(Version(make_model("additive", of.kernel.names), 0))

    record = of.decide(visits([MONDAY_MS + 9], ids=["later"])).record(0)

    assert (record.degraded, record.model_version) == (False, "additive@0")
    assert b"degraded" not in encode_record(record)
    assert b'"degraded":true' in encode_record(msgspec.structs.replace(record, degraded=True))


def test_no_rules_approve_everything() -> None:
    of = engine()
    of.adopt_rules(NO_RULES)

    assert decided(of).actions.tolist() == [0, 0, 0]


# Beside a model.


def with_model(beside: Rules, **options: object) -> list[DecisionRecord]:
    of = engine()
    of.adopt(Version(make_model("additive", of.kernel.names), 0), rules=beside)
    decisions = decided(of)
    return [decisions.record(place) for place in range(3)]


def test_the_stronger_action_stands_and_the_codes_of_rules_come_first() -> None:
    given = rules(
        rule(state="act"), rule("RULE_B", "decline", '"amount >= 9"', "act"),
        rule("RULE_C", "decline", '"amount >= 6"', "shadow"), rule("RULE_D", "decline"),
    )  # fmt: skip

    plain, ruled = with_model(NO_RULES), with_model(given)

    assert [record.action for record in plain] == ["approve"] * 3
    assert [record.action for record in ruled] == ["approve", "review", "decline"]
    assert [record.rules for record in ruled] == [
        [], ["RULE_C", "RULE_A"], ["RULE_B", "RULE_C", "RULE_A"],
    ]  # fmt: skip
    assert {record.rules_version for record in ruled} == {given.version}
    assert [record.score for record in ruled] == [record.score for record in plain]
    # What the model said stands behind, as it was.
    first = [[], [("RULE_A", 1.0)], [("RULE_B", 1.0), ("RULE_A", 1.0)]]
    assert [record.reasons for record in ruled] == [
        [*codes, *record.reasons] for codes, record in zip(first, plain, strict=True)
    ]
    assert not any(record.degraded for record in ruled)
    assert list(decode_decisions(map(encode_record, ruled))) == ruled


def test_a_rule_never_weakens_what_the_model_says() -> None:
    features, amounts = events(3), np.array([600] * 3, dtype=np.int64)
    actions = np.array([0, 1, 2], dtype=np.int64)

    ruling = rules(rule(state="act")).overrule(features, amounts, actions, [[("M", 0.5)]] * 3)

    assert ruling.actions.tolist() == [1, 1, 2]
    assert ruling.reasons[1:] == [[("RULE_A", 1.0), ("M", 0.5)]] * 2
    assert ruling.reasons[-1] == ruling.reasons[0]
    with pytest.raises(IndexError):
        ruling.reasons[3]


def test_a_rule_that_watches_changes_nothing_but_what_is_recorded_of_rules() -> None:
    plain = with_model(NO_RULES)
    watched = with_model(rules(rule(action="decline", state="shadow")))

    assert [record.rules for record in watched] == [[], ["RULE_A"], ["RULE_A"]]
    assert [
        msgspec.structs.replace(record, rules=[], rules_version="") for record in watched
    ] == plain


def test_rules_of_before_states_are_asked_only_without_a_model() -> None:
    assert [encode_record(item) for item in with_model(rules(rule()))] == [
        encode_record(item) for item in with_model(NO_RULES)
    ]


def test_without_a_model_rules_that_act_beside_one_act_too_and_shadows_watch() -> None:
    of = engine()
    of.adopt_rules(rules(rule(state="act"), rule("RULE_B", "decline", state="shadow")))

    record = decided(of).record(2)

    assert (record.action, record.reasons) == ("review", [("RULE_A", 1.0)])
    assert record.rules == ["RULE_B", "RULE_A"]


def test_a_state_is_part_of_what_rules_say_and_the_default_is_not_new() -> None:
    versions = {rules(rule(state=state)).version for state in ("", "act", "shadow", "fallback")}

    assert len(versions) == 3
    assert rules(rule(state="fallback")).version == rules(rule()).version
    assert rules(rule()).version == "rules@r781ff498e89"


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_size_of_batches_changes_no_ruling(size: int) -> None:
    given = rules(rule(state="act", when='"card_count_1h >= 1.5"'))
    batch = visits([MONDAY_MS + n for n in range(9)])

    def all_of(size: int) -> list[DecisionRecord]:
        of = engine()
        of.adopt(Version(make_model("additive", of.kernel.names), 0), rules=given)
        parts = [of.decide(batch.slice(n, n + size)) for n in range(0, 9, size)]
        return [part.record(place) for part in parts for place in range(len(part))]

    assert all_of(size) == all_of(9)
    assert [bool(record.rules) for record in all_of(9)] == [False] * 2 + [True] * 7


def test_labels_of_a_decision_carry_its_rules_to_what_is_learned() -> None:
    waiting = MemoryWaiting(10)
    learned = Learner(CARD, "", ())
    of = Engine(CARD, Settings(), MemoryProfiles(CARD, learned.profiles), waiting)
    of.adopt(Version(make_model("additive", of.kernel.names), 0), rules=rules(rule(state="shadow")))
    waiting.add(of.decide(visits([MONDAY_MS], amounts=[900], ids=["t1"])))

    [settled] = of.label([label(transaction_id="t1")], training_seq=0)

    assert settled.example(partition=0).rules == ["RULE_A"]


# The ready rules of card testing.


def test_the_ready_rules_find_a_burst_and_only_watch() -> None:
    found = load_rules(Settings(), CARD)
    assert {rule.code for rule in found.beside} == {
        "RULE_CARD_TESTING_TERMINAL", "RULE_CARD_TESTING_CARD",
        "RULE_DECLINES_TERMINAL", "RULE_DECLINES_CARD",
    }  # fmt: skip
    assert {rule.state for rule in found.beside} == {"shadow"}
    profiles = MemoryProfiles(CARD, Learner(CARD, "", ()).profiles)
    kernel, attacks, false_alarms, hits = FeatureKernel(CARD), 0, 0, Counter[str]()
    options = SimulatorOptions(customers=1_000, terminals=1_000, days=3, burst_days=(1,), seed=7)
    for day in simulate(options):
        batch = day.transactions()
        features = kernel.read_and_record(batch, profiles.open(batch))
        none = np.zeros(len(batch), dtype=np.int64)
        ruling = found.overrule(features, batch.amount_minor, none, [[]] * len(batch))
        is_attack = day.scenario == CARD_TESTING
        held = np.array([bool(codes) for codes in ruling.held])
        hits.update(code for row in np.flatnonzero(is_attack) for code in ruling.held[row])
        false_alarms += int((held & ~is_attack).sum())
        attacks += int(is_attack.sum())

    assert (attacks, false_alarms) == (300, 0)
    assert hits["RULE_CARD_TESTING_TERMINAL"] >= 0.95 * attacks
    # Of amounts this one asks nothing.
    assert hits["RULE_DECLINES_TERMINAL"] >= 0.95 * attacks


def test_one_card_that_is_declined_again_and_again_is_found() -> None:
    found = load_rules(Settings(), CARD)
    profiles = MemoryProfiles(CARD, Learner(CARD, "", ()).profiles)
    batch = visits([MONDAY_MS + n for n in range(7)], declined=[True] * 3 + [False] + [True] * 3)
    features = FeatureKernel(CARD).read_and_record(batch, profiles.open(batch))
    none = np.zeros(7, dtype=np.int64)

    ruling = found.overrule(features, batch.amount_minor, none, [[]] * 7)

    assert [codes == ["RULE_DECLINES_CARD"] for codes in ruling.held] == [False] * 5 + [True] * 2


def test_one_card_at_several_terminals_is_found() -> None:
    found = load_rules(Settings(), CARD)
    profiles = MemoryProfiles(CARD, Learner(CARD, "", ()).profiles)
    batch = visits(
        [MONDAY_MS + n for n in range(6)], terminals=[f"m{n}" for n in range(6)], amounts=[100] * 6
    )
    features = FeatureKernel(CARD).read_and_record(batch, profiles.open(batch))
    none = np.zeros(6, dtype=np.int64)

    ruling = found.overrule(features, batch.amount_minor, none, [[]] * 6)

    assert [codes == ["RULE_CARD_TESTING_CARD"] for codes in ruling.held] == [False] * 3 + [
        True
    ] * 3
