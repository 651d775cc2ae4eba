"""Builders and Hypothesis strategies that several test files share.

A builder gives something valid, and takes what the test is about as keyword arguments.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import Label, Transactions, no_numbers
from pipeline.records import DecisionRecord, TrainingExample, pack_features
from pipeline.schema import load_schema, parse_schema

CARD = load_schema("card")
HANDBOOK = load_schema("handbook")
ONE_ENTITY = parse_schema(
    """
    name = "one"
    version = 1
    event = {id = "id", time = "time", amount = "amount", currency_default = "EUR"}
    entity = [{name = "card", field = "card_id"}]
    """,
    place="one.toml",
)
# 2021-01-04T00:00:00Z, a Monday: the first moment of an hour, a day and a week.
MONDAY_MS = 1_609_718_400_000

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
LABELS = st.builds(
    Label,
    label_id=IDS,
    transaction_id=IDS,
    key=IDS,
    is_fraud=st.booleans(),
    source=st.sampled_from(["analyst", "chargeback", "customer", "matured"]),
    label_time_ms=st.integers(946_684_800_000, 4_102_444_800_000),
    by=st.none() | st.text(max_size=20),
    supersedes=st.none() | IDS,
)
MOMENTS_MS = st.integers(MONDAY_MS, MONDAY_MS + 70 * DAY_MS)
VISITS = st.lists(st.tuples(MOMENTS_MS, st.integers(0, 1_000_000)), min_size=1, max_size=60)
"""Times and amounts at one place, in any order."""


def event(**changes: object) -> dict[str, object]:
    """Give the fields of a transaction; a field that is set to `...` is left out."""
    fields: dict[str, object] = {
        "transaction_id": "t1",
        "event_time": MONDAY_MS,
        "card_id": "c1",
        "terminal_id": "m1",
        "amount": "9.50",
        "currency": "EUR",
    }
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def event_bytes(**changes: object) -> bytes:
    """Give a transaction in its wire form."""
    return json.dumps(event(**changes)).encode()


def label_bytes(**changes: object) -> bytes:
    """Give a label in its wire form."""
    fields: dict[str, object] = {
        "label_id": "l1",
        "transaction_id": "t1",
        "card_id": "c1",
        "verdict": "fraud",
        "source": "analyst",
        "label_time": MONDAY_MS,
    }
    given = {name: value for name, value in (fields | changes).items() if value is not ...}
    return json.dumps(given).encode()


def outcome_bytes(**changes: object) -> bytes:
    """Give an outcome in its wire form."""
    fields: dict[str, object] = {
        "transaction_id": "t1",
        "card_id": "c1",
        "outcome": "settled",
        "outcome_time": MONDAY_MS,
    }
    given = {name: value for name, value in (fields | changes).items() if value is not ...}
    return json.dumps(given).encode()


def visits(
    times_ms: Sequence[int],
    *,
    amounts: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    cards: Sequence[str] | None = None,
    terminals: Sequence[str] | None = None,
    declined: Sequence[bool] | None = None,
) -> Transactions:
    """Give a batch; without more it is one card at one terminal, 10.00 each time."""
    count = len(times_ms)
    return Transactions(
        transaction_id=list(ids or [f"t{row}" for row in range(count)]),
        event_time_ms=np.array(times_ms, dtype=np.int64),
        keys=(list(cards or ["c1"] * count), list(terminals or ["m1"] * count)),
        amount_minor=np.array(amounts or [1000] * count, dtype=np.int64),
        currency=["EUR"] * count,
        numbers=no_numbers(count),
        declined=None if declined is None else np.array(declined, dtype=np.bool_),
    )


def first_entity(batch: Transactions) -> Transactions:
    """Give a batch as a schema of one entity would have it."""
    return replace(batch, keys=batch.keys[:1])


def joined(first: Transactions, second: Transactions) -> Transactions:
    """Put two batches together."""
    return Transactions(
        first.transaction_id + second.transaction_id,
        np.concatenate([first.event_time_ms, second.event_time_ms]),
        tuple(ours + theirs for ours, theirs in zip(first.keys, second.keys, strict=True)),
        np.concatenate([first.amount_minor, second.amount_minor]),
        first.currency + second.currency,
        np.concatenate([first.numbers, second.numbers]),
        declined=np.concatenate([declined_of(first), declined_of(second)]),
    )


def declined_of(batch: Transactions) -> NDArray[np.bool_]:
    """Give which attempts of a batch were declined; none where no answer is known."""
    return np.zeros(len(batch), np.bool_) if batch.declined is None else batch.declined


def traffic(seed: int, events: int, *, cards: int = 20, terminals: int = 30) -> Transactions:
    """Give seeded traffic, about five events an hour; now and then one comes late."""
    chance = np.random.default_rng(seed)
    steps = chance.exponential(HOUR_MS / 5, events).astype(np.int64)
    late = np.where(chance.random(events) < 0.05, chance.integers(0, 3 * HOUR_MS, events), 0)
    return Transactions(
        transaction_id=[f"t{seed}-{row}" for row in range(events)],
        event_time_ms=MONDAY_MS + np.cumsum(steps) - late,
        keys=(
            [f"c{number}" for number in chance.integers(0, cards, events).tolist()],
            [f"m{number}" for number in chance.integers(0, terminals, events).tolist()],
        ),
        amount_minor=chance.lognormal(7.5, 1.0, events).astype(np.int64),
        currency=["EUR"] * events,
        numbers=no_numbers(events),
        declined=np.random.default_rng([seed, 1]).random(events) < 0.1,
    )


def decision(transaction_id: str = "t1", **changes: object) -> DecisionRecord:
    """Give a decision, approved unless the changes say otherwise."""
    fields: dict[str, object] = {
        "transaction_id": transaction_id,
        "event_time": MONDAY_MS,
        "keys": {"card": "c1", "terminal": "m1"},
        "amount": 950,
        "currency": "EUR",
        "action": "approve",
        "score": 0.02,
        "reasons": [],
        "model_version": "additive@0",
        "policy_version": "p1",
        "propensity": 1.0,
        "label_offset": 0,
        "schema_hash": "s1",
        "features": pack_features([1.0, 2.0]),
        "challengers": {"logistic@0": 0.03},
        "source": ("transactions", 0, 0),
    }
    return DecisionRecord(**(fields | changes))  # type: ignore[arg-type]


def label(label_id: str = "l1", **changes: object) -> Label:
    """Give an analyst's label: fraud, unless the changes say otherwise."""
    first = Label(label_id, "t1", "c1", True, "analyst", MONDAY_MS + DAY_MS)
    return msgspec.structs.replace(first, **changes)


def example(training_seq: int, **changes: object) -> TrainingExample:
    """Give a training example: a fraud of card `c1` at terminal `m1`."""
    fields: dict[str, object] = {
        "label_id": f"l{training_seq}",
        "transaction_id": f"t{training_seq}",
        "partition": 0,
        "training_seq": training_seq,
        "verdict": "fraud",
        "source": "analyst",
        "weight": 1.0,
        "supersedes": None,
        "keys": {"card": "c1", "terminal": "m1"},
        "amount": 950,
        "event_time": MONDAY_MS,
        "label_time": MONDAY_MS + DAY_MS,
        "schema_hash": "s1",
        "features": pack_features([1.0, 2.0]),
        "score": 0.02,
        "action": "approve",
        "model_version": "additive@0",
        "challengers": {},
    }
    return TrainingExample(**(fields | changes))  # type: ignore[arg-type]
