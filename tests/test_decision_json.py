"""Decisions encoded by columns are, byte for byte, their records encoded one by one."""

import base64
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from models import make_model
from pipeline.controls import Allow, Block, Control, fold
from pipeline.decision_json import COLUMNS_FROM, base64_texts, encode_decisions
from pipeline.engine import Decisions, Engine, Version
from pipeline.feedback import MemoryWaiting
from pipeline.incumbent import Incumbent
from pipeline.learner import Learner
from pipeline.profiles import MemoryProfiles
from pipeline.records import decode_decisions, encode_record
from pipeline.rules import NO_RULES, Rules, parse_rules
from pipeline.settings import ACT, Settings
from tests.strategies import CARD, traffic

EVENTS = 300
SETTINGS = Settings(review_score_min=0.02, decline_score_min=0.2)
RULES = """
[[rule]]
code = "RULE_A"
action = "review"
when = ["amount >= 20.00"]
state = "act"
[[rule]]
code = "RULE_B"
action = "decline"
when = ["amount >= 90.00"]
state = "shadow"
"""
LISTS = (
    Block("k1", "ana", "stolen", 1_000, entity="card", id="c1"),
    Allow("k2", "ana", "ours", 1_000, entity="terminal", id="m2"),
)
HOSTILE = ['"', "\\", "a\nb", "\r\n", "\u2028", "\x00\x1f\x7f", "é", "\U0001f600", "a,b", "]]", " "]


def decided(
    settings: Settings = SETTINGS,
    models: Sequence[str] = ("additive",),
    *,
    rules: Rules = NO_RULES,
    words: Sequence[Control] = (),
    count: int = EVENTS,
) -> Decisions:
    """Decide traffic by models that learned some; without models rules decide."""
    learner = Learner(CARD, "", [])
    engine = Engine(CARD, settings, MemoryProfiles(CARD, learner.profiles), MemoryWaiting(1))
    versions = [Version(make_model(name, engine.kernel.names), 400) for name in models]
    engine.adopt_rules(rules)
    batch = traffic(9, 400)
    features = engine.decide(batch).features
    for version in versions:
        is_fraud = (batch.amount_minor > 5000).astype(np.int8)
        version.model.learn(features, is_fraud, np.ones(len(batch)))
    if versions:
        engine.adopt(versions[0], versions[1:], rules)
    engine.adopt_controls(fold("act" if settings.mode == ACT else "observe", enumerate(words)))
    # Its window has passed the time of the traffic that follows.
    engine.breaker.load(b"")
    return engine.decide(traffic(10, count))


def hostile(decisions: Decisions) -> Decisions:
    """Give every text that comes from outside the characters that JSON must escape."""
    events = decisions.transactions
    texts = [HOSTILE[row % len(HOSTILE)] * (1 + row % 3) for row in range(len(events))]
    keys = tuple([text + key for text, key in zip(texts, ids, strict=True)] for ids in events.keys)
    ids = [f"{row}{text}" for row, text in enumerate(texts)]
    told = [Incumbent(0.5, "review"), None, Incumbent(unread=("score",))]
    incumbents = [told[row % 3] for row in range(len(events))]
    events = replace(events, transaction_id=ids, keys=keys, currency=texts, incumbents=incumbents)
    odd = np.array([0.0, 1.0, 5e-324, 1e-7, 0.1 + 0.2, 1 / 3])
    features = decisions.features.copy()
    features[:, 0] = np.resize([np.nan, -0.0, np.inf, 1e-45, 3e38], len(events))
    return replace(
        decisions, transactions=events, features=features, scores=np.resize(odd, len(events))
    )


def check(decisions: Decisions) -> list[bytes]:
    # As after duplicates: the batch that was given had more rows.
    decisions = replace(decisions, rows=decisions.rows * 2 + 1)
    offsets = [1 << 40 | 7 * row for row in range(2 * len(decisions))]
    one_by_one = list(map(encode_record, decisions.records('to"pic', 3, offsets)))

    assert encode_decisions(decisions, 'to"pic', 3, offsets) == one_by_one
    assert None not in list(decode_decisions(one_by_one))
    return one_by_one


CASES = {
    "plain": decided(),
    "acting": decided(replace(SETTINGS, mode=ACT)),
    "challengers": decided(models=("additive", "anomaly", "neural")),
    "members": decided(models=("ensemble",)),
    "rules beside": decided(rules=parse_rules(RULES, CARD, place="mine.toml")),
    "rules alone": decided(models=(), rules=parse_rules(RULES, CARD, place="mine.toml")),
    "no rules alone": decided(models=()),
    "lists": decided(replace(SETTINGS, mode=ACT), words=LISTS),
    "rules and lists": decided(rules=parse_rules(RULES, CARD, place="mine.toml"), words=LISTS),
    "breaker": decided(
        replace(SETTINGS, breaker_decline_share_max=0.01, breaker_events_min=1, mode=ACT)
    ),
}
MARKS = {
    "acting": b'"action_taken":"decline"',
    "challengers": b'"anomaly@400":',
    "members": b'"members":{"',
    "rules beside": b'"rules":["RULE_B"',
    "rules alone": b'"degraded":true',
    "lists": b'"LIST_BLOCKED"',
    "rules and lists": b'[["LIST_ALLOWED",0.0],["RULE_A",1.0],["',
    "breaker": b'"BREAKER"',
}


@pytest.mark.parametrize("name", CASES)
def test_columns_give_the_bytes_of_the_records(name: str) -> None:
    values = check(CASES[name])

    # Whatever the case is about is in it.
    assert any(MARKS.get(name, b"") in value for value in values)


@pytest.mark.parametrize("name", CASES)
def test_columns_give_the_bytes_of_the_records_of_hostile_events(name: str) -> None:
    values = check(hostile(CASES[name]))

    assert any(b'"incumbent":{"unread":["score"]}' in value for value in values)


@pytest.mark.parametrize("count", [0, 1, COLUMNS_FROM - 1, COLUMNS_FROM, COLUMNS_FROM + 1])
def test_a_batch_of_any_size_is_encoded(count: int) -> None:
    assert len(check(decided(count=count, models=("additive",)))) == count


def test_reasons_come_in_every_number() -> None:
    values = check(CASES["plain"])
    counts = {len(record.reasons) for record in decode_decisions(values) if record is not None}

    assert counts >= {2, 3}


@pytest.mark.parametrize("width", range(1, 9))
def test_features_are_standard_base64(width: int) -> None:
    features = np.random.default_rng(width).normal(size=(40, width)).astype(np.float32)

    expected = [base64.b64encode(row.tobytes()) for row in features]

    assert base64_texts(features) == expected
    assert base64_texts(features[::2, ::-1]) == [
        base64.b64encode(row.tobytes()) for row in features[::2, ::-1]
    ]
