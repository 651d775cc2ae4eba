"""Every counted case of odd input comes to what its row says, and no row gets lost."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import make_model
from pipeline.admission import Admission
from pipeline.durations import HOUR_MS
from pipeline.engine import Engine, Version
from pipeline.errors import REASONS
from pipeline.events import Label, LabelDecoder, Outcome, OutcomeDecoder, Problem, Transactions
from pipeline.feedback import MemoryWaiting, join
from pipeline.learner import Learner
from pipeline.profiles import MemoryProfiles
from pipeline.settings import Settings
from pipeline.transactions import TransactionDecoder
from tests.armour.amounts import AMOUNTS
from tests.armour.cases import GOOD, Case
from tests.armour.damage import DAMAGE
from tests.armour.duplicates import DUPLICATES, Again
from tests.armour.envelopes import ENVELOPES
from tests.armour.fields import FIELDS
from tests.armour.labels import LABELS, REFUSED, Refused, Said
from tests.armour.orderings import ORDERINGS, Ordering
from tests.armour.parsing import PARSING
from tests.armour.sizes import SIZES
from tests.armour.times import ARRIVALS, TIMES, Arrival
from tests.strategies import CARD, MONDAY_MS, decision, event, event_bytes, visits
from tests.test_feedback import Records

DECODER = TransactionDecoder(CARD)
PROPERTIES = 4
# How many rows the specification of each group asks for.
COUNTED = {
    "parsing and encoding": (PARSING, 24),
    "schema and types": (FIELDS, 30),
    "numbers": (AMOUNTS, 18),
    "sizes and compression": (SIZES, 8),
    "time": ((*TIMES, *ARRIVALS), 14),
    "duplicates": (DUPLICATES, 10),
    "ordering": (ORDERINGS, 8),
    "labels": ((*LABELS, *REFUSED), 16),
    "envelope": (ENVELOPES, 12),
    "damage of the store": (DAMAGE, 8),
}
CASES = (*PARSING, *FIELDS, *AMOUNTS, *SIZES, *TIMES)


def named(row: Case | Arrival | Again | Ordering | Said | Refused) -> str:
    return row.name


@pytest.mark.parametrize("group", COUNTED)
def test_a_group_has_its_rows_each_with_a_name_of_its_own(group: str) -> None:
    rows, asked = COUNTED[group]
    names = Counter(row.name for row in rows)

    assert len(names) >= asked
    assert [name for name, count in names.items() if count > 1] == []


def test_the_rows_and_properties_are_as_many_as_were_asked_for() -> None:
    asked = sum(count for _, count in COUNTED.values()) + PROPERTIES
    properties = [name for name in globals() if name.startswith("test_any_")]

    assert asked == 152
    assert len(properties) == PROPERTIES
    assert sum(len(rows) for rows, _ in COUNTED.values()) + len(properties) >= 300


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_transaction_is_accepted_or_says_what_is_wrong_and_where(case: Case) -> None:
    """It stands between two good ones, which must not notice."""
    before, after = event_bytes(transaction_id="before"), event_bytes(transaction_id="after")

    batch, rows, rejected = DECODER.decode([before, case.value, after])

    found = batch.slice(1, len(batch) - 1)
    assert (batch.transaction_id[0], batch.transaction_id[-1]) == ("before", "after")
    assert rows == ([0, 2] if case.reason else [0, 1, 2])
    if case.reason is None:
        for column, expected in case.got.items():
            assert list(getattr(found, column)) == expected
        return
    [problem] = [item.problem for item in rejected]
    assert (problem.reason, problem.place) == (case.reason, case.place)
    assert case.said in str(problem)


@pytest.mark.parametrize("case", [case for case in CASES if case.reason], ids=named)
def test_what_is_said_never_holds_the_value(case: Case) -> None:
    [rejected] = DECODER.decode([case.value])[2]

    assert case.secret not in str(rejected.problem)


@pytest.mark.parametrize("case", ARRIVALS, ids=named)
def test_the_time_of_an_event_is_held_against_its_arrival(case: Arrival) -> None:
    limits = Settings(
        partitions=1, event_ahead_seconds_max=300.0, event_age_days_max=case.age_days_max
    )

    problem = Admission(CARD, limits, 0).problem(
        "c1", time_ms=MONDAY_MS + case.ahead_ms, appended_ms=MONDAY_MS
    )

    assert (problem and problem.reason) == case.reason
    assert case.said in str(problem)


class World:
    """An engine of one partition, in memory."""

    def __init__(self) -> None:
        learner = Learner(CARD, "", [])
        self.profiles = MemoryProfiles(CARD, learner.profiles)
        self.engine = Engine(CARD, Settings(), self.profiles, MemoryWaiting(1))
        self.names = self.engine.kernel.names
        self.engine.adopt(Version(make_model("additive", self.names), 0))
        self.conflicts: list[int] = []

    def decided(self, batch: Transactions, size: int) -> list[tuple[int, bytes]]:
        """Give the rows that are decided and their features, in batches of a size."""
        found: list[tuple[int, bytes]] = []
        for start in range(0, len(batch), size):
            decisions = self.engine.decide(batch.slice(start, start + size))
            rows = (decisions.rows + start).tolist()
            self.conflicts += (decisions.conflicts + start).tolist()
            found += zip(rows, [row.tobytes() for row in decisions.features], strict=True)
        return found

    def ring(self, batch: Transactions) -> bytes:
        """Give the ring of the only terminal."""
        return self.profiles.open(batch.slice(0, 1)).shared[0].values[:1].tobytes()


@pytest.mark.parametrize("size", [1, 7, 500])
@pytest.mark.parametrize("case", DUPLICATES, ids=named)
def test_an_event_that_comes_again_is_decided_once(case: Again, size: int) -> None:
    ids, cards, times = zip(*case.events, strict=True)
    batch = visits([MONDAY_MS + time for time in times], ids=ids, cards=cards)
    world = World()

    assert [row for row, _ in world.decided(batch, size)] == list(case.decided)
    assert world.conflicts == list(case.conflicts)


@pytest.mark.parametrize("case", ORDERINGS, ids=named)
def test_events_in_odd_order_are_decided_the_same_in_batches_of_any_size(case: Ordering) -> None:
    times_ms = [MONDAY_MS + int(hours * HOUR_MS) for hours in case.hours]
    batch = visits(times_ms, amounts=[1000 + row for row in range(len(times_ms))])
    world = World()
    found = world.decided(batch, len(batch))

    assert [row for row, _ in found] == list(range(len(batch)))
    assert World().decided(batch, 1) == found
    features = np.array([np.frombuffer(row, dtype=np.float32) for _, row in found])
    elapsed = features[:, [name.endswith("seconds_since_last") for name in world.names]]
    assert elapsed.size and not (elapsed < 0).any()
    assert not np.isinf(features).any()
    # A ring ends the same whatever the order.
    order = np.argsort(batch.event_time_ms, kind="stable")
    sorted_world = World()
    sorted_world.decided(batch.take(order), 1)
    newest = batch.event_time_ms.max() // HOUR_MS
    if newest - batch.event_time_ms.min() // HOUR_MS < 24:
        assert sorted_world.ring(batch) == world.ring(batch)


@pytest.mark.parametrize("case", LABELS, ids=named)
def test_a_label_is_learned_or_counted_as_why_not(case: Said) -> None:
    waiting = MemoryWaiting(10)
    waiting.add(Records([decision("t1"), decision("t2")]))

    settled = list(join(waiting, case.labels, training_seq=0))

    verdict = waiting.verdict("t1")
    assert [item.path for item in settled] == list(case.paths)
    assert (None if verdict is None else verdict.is_fraud) == case.is_fraud
    learned = [item.training_seq for item in settled if item.decision is not None]
    assert learned == list(range(len(learned)))


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_a_bad_label_says_what_is_wrong_and_where(case: Refused) -> None:
    problem = LabelDecoder(CARD).decode_one(case.value)

    assert isinstance(problem, Problem)
    assert (problem.reason, problem.place) == (case.reason, case.place)


@pytest.mark.parametrize("case", PARSING, ids=named)
def test_what_is_no_json_is_no_label_and_no_outcome(case: Case) -> None:
    for decoder in (LabelDecoder(CARD), OutcomeDecoder(CARD)):
        found = decoder.decode_one(case.value)

        assert isinstance(found, Problem)
        assert found.reason in ("malformed", "schema")


def mutations() -> st.SearchStrategy[bytes]:
    """Good records with a part replaced by anything."""
    return st.builds(
        lambda start, length, part: GOOD[:start] + part + GOOD[start + length :],
        st.integers(0, len(GOOD)),
        st.integers(0, 20),
        st.binary(max_size=12),
    )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
RECORDS = st.dictionaries(st.sampled_from(list(event())), JSON_VALUES).map(
    lambda changes: event_bytes(**changes)
)
VALUES = st.none() | st.binary(max_size=80) | mutations() | RECORDS | st.just(GOOD)


@settings(max_examples=10_000)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_one_rejection(value: bytes) -> None:
    batch, rows, rejected = DECODER.decode([value])

    assert (len(batch), len(rows), len(rejected)) in ((1, 1, 0), (0, 0, 1))
    assert all(item.problem.reason in REASONS for item in rejected)


@settings(max_examples=300)
@given(st.lists(VALUES, max_size=8))
def test_any_batch_is_decoded_as_its_records_are_one_by_one(values: list[bytes | None]) -> None:
    batch, rows, rejected = DECODER.decode(values)
    alone = [DECODER.decode([value]) for value in values]

    assert sorted([*rows, *(item.row for item in rejected)]) == list(range(len(values)))
    assert rows == [row for row, (_, accepted, _) in enumerate(alone) if accepted]
    assert batch.transaction_id == [name for one, _, _ in alone for name in one.transaction_id]
    assert batch.amount_minor.tolist() == [
        int(amount) for one, _, _ in alone for amount in one.amount_minor
    ]
    assert rejected == [
        replace(item, row=row) for row, (_, _, refused) in enumerate(alone) for item in refused
    ]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(VALUES, st.none() | st.integers(-(2**40), 2**42), st.none() | st.binary())),
    st.integers(0, 3),
)
def test_any_decoded_batch_is_admitted_or_rejected(
    records: list[tuple[bytes | None, int | None, bytes | None]], partition: int
) -> None:
    batch, rows, rejected = DECODER.decode([value for value, _, _ in records])
    admission = Admission(CARD, Settings(partitions=4), partition)

    kept, kept_rows, refused = admission.admit(
        batch, rows, [moment for _, moment, _ in records], [key for _, _, key in records]
    )

    given_back = [*kept_rows, *(item.row for item in (*rejected, *refused))]
    assert sorted(given_back) == list(range(len(records)))
    assert len(kept) == len(kept_rows)


@settings(max_examples=300)
@given(VALUES)
def test_any_bytes_are_a_label_an_outcome_or_a_problem(value: bytes | None) -> None:
    assert isinstance(LabelDecoder(CARD).decode_one(value), Label | Problem)
    assert isinstance(OutcomeDecoder(CARD).decode_one(value), Outcome | Problem)
