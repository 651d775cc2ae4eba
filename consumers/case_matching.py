"""Cases of a chargeback file meet the decisions they speak of; nothing is guessed.

A reference that is a transaction's id decides. Without one, the token, the amount, the currency
and the date must fit exactly one decision: where they fit none or several, a person must look.
A label's id is a hash of what it says, so that the same row of another file is the same label.

>>> decided = Decided("t1", 1_793_534_400_000, {"card": "c1"}, 950, "EUR")
>>> known = Known(token_entity="card")
>>> known.add(decided)
>>> day = Span(1_793_491_200_000, 1_793_577_599_999)
>>> row = Case(2, "", "c1", 950, "EUR", day, "chargeback", "fraud", "10.4", "k1", 1_795_000_000_000)
>>> [match] = match_cases([row], known, key_entity="card", window_days=2).matches
>>> match.how, match.label.transaction_id, match.label.is_fraud, match.label.source
('token', 't1', True, 'chargeback')
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Literal

from consumers.case_rows import Case, Left, Span
from pipeline.durations import DAY_MS
from pipeline.events import Label

How = Literal["reference", "token"]

ID_BYTES = 16
# More candidates than these are not named.
CANDIDATES_MAX = 5


@dataclass(frozen=True, slots=True)
class Decided:
    """What is needed of a decision; the amount in minor units."""

    transaction_id: str
    event_ms: int
    keys: dict[str, str]
    amount_minor: int
    currency: str


class Known:
    """Decisions by id and by token.

    Parameters
    ----------
    token_entity
        The entity whose ids the file's tokens are.
    """

    def __init__(self, token_entity: str) -> None:
        self.token_entity = token_entity
        self._by_id: dict[str, Decided] = {}
        self._by_token: dict[str, list[Decided]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, decided: Decided) -> None:
        """Remember a decision; one that is published twice is one."""
        if decided.transaction_id not in self._by_id:
            self._by_id[decided.transaction_id] = decided
            self._by_token[decided.keys.get(self.token_entity, "")].append(decided)

    def by_id(self, transaction_id: str) -> Decided | None:
        """Give the decision of a transaction."""
        return self._by_id.get(transaction_id)

    def by_token(self, token: str) -> Sequence[Decided]:
        """Give the decisions of a token."""
        return self._by_token.get(token, ()) if token else ()


@dataclass(frozen=True, slots=True)
class Match:
    """A row whose decision is certain, and its label."""

    case: Case
    how: How
    label: Label


@dataclass(slots=True)
class Matched:
    """What came of a file's cases; labels are given once each, in the order of the rows."""

    matches: list[Match] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    repeated: int = 0

    @property
    def labels(self) -> list[Label]:
        """The labels to publish."""
        return [match.label for match in self.matches]


def match_cases(
    cases: Iterable[Case], known: Known, *, key_entity: str, window_days: int
) -> Matched:
    """Match cases to decisions, and make their labels; `key_entity` is the partition key's."""
    out = Matched()
    found: list[tuple[Case, How, Decided]] = []
    for case in cases:
        answer = _decision_of(case, known, window_days)
        if isinstance(answer, Left):
            out.left.append(answer)
        else:
            found.append((case, *answer))
    certain = _without_rivals(found, out)
    chargebacks = {
        (decided.transaction_id, case.case): _label_id(case, decided)
        for case, _, decided in certain
        if case.stage == "chargeback"
    }
    seen: set[str] = set()
    for case, how, decided in certain:
        before = chargebacks.get((decided.transaction_id, case.case))
        label = _label(case, decided, key_entity, before)
        if label.label_id in seen:
            out.repeated += 1
            continue
        seen.add(label.label_id)
        out.matches.append(Match(case, how, label))
    out.left.sort(key=lambda left: left.line)
    return out


def _decision_of(case: Case, known: Known, window_days: int) -> tuple[How, Decided] | Left:
    by_reference = known.by_id(case.reference) if case.reference else None
    if by_reference is not None:
        token = by_reference.keys.get(known.token_entity, "")
        if case.token and case.token != token:
            why = "its reference is a transaction of another token than the row's"
            return Left(case.line, "contradiction", why, (by_reference.transaction_id,))
        return _in_time(case, "reference", by_reference)
    found = _by_token(case, known, window_days)
    if isinstance(found, Decided):
        return _in_time(case, "token", found)
    if found.kind == "unmatched" and case.reference:
        return replace(found, why=f"no decision has its reference, and {found.why}")
    return found


def _by_token(case: Case, known: Known, window_days: int) -> Decided | Left:
    if not case.token:
        return Left(case.line, "unmatched", "there is no token to find it by")
    for name, value in (("amount", case.amount_minor), ("date", case.when)):
        if isinstance(value, str):
            return Left(case.line, "unmatched", f"its {name}: {value}")
    assert isinstance(case.when, Span), "looked at above"
    fitting = _fitting(case, case.when, known.by_token(case.token), window_days)
    if isinstance(fitting, str):
        return Left(case.line, "unmatched", fitting)
    if len(fitting) > 1:
        ids = tuple(decided.transaction_id for decided in fitting)
        return Left(case.line, "ambiguous", f"{len(ids)} decisions fit", ids[:CANDIDATES_MAX])
    return fitting[0]


def _fitting(
    case: Case, when: Span, decisions: Sequence[Decided], window_days: int
) -> list[Decided] | str:
    """Give the decisions that fit, or what it is that none of them does."""
    if not decisions:
        return "no decision has its token"
    first, last = when.first_ms - window_days * DAY_MS, when.last_ms + window_days * DAY_MS
    near = [item for item in decisions if first <= item.event_ms <= last]
    if not near:
        return f"no decision of its token is within {window_days} days of its date"
    paid = [item for item in near if item.amount_minor == case.amount_minor]
    if not paid:
        return "no decision of its token and date has its amount"
    return [item for item in paid if item.currency == case.currency] or (
        "no decision of its token, date and amount has its currency"
    )


def _in_time(case: Case, how: How, decided: Decided) -> tuple[How, Decided] | Left:
    if case.label_ms < decided.event_ms:
        why = "it became known before its transaction happened: is label_date another column?"
        return Left(case.line, "before_transaction", why, (decided.transaction_id,))
    return how, decided


def _without_rivals(
    found: Sequence[tuple[Case, How, Decided]], out: Matched
) -> list[tuple[Case, How, Decided]]:
    """Leave rows for a person that differ and claim one decision, where a token alone says so."""
    claims: dict[tuple[str, str], list[tuple[Case, How]]] = defaultdict(list)
    for case, how, decided in found:
        claims[decided.transaction_id, case.stage].append((case, how))
    certain = []
    for case, how, decided in found:
        rivals = [
            other
            for other, _ in claims[decided.transaction_id, case.stage]
            if not _same_case(case, other)
        ]
        if how == "token" and rivals:
            why = f"line {rivals[0].line} is of another case and fits the same decision"
            out.left.append(Left(case.line, "ambiguous", why, (decided.transaction_id,)))
        else:
            certain.append((case, how, decided))
    return certain


def _same_case(one: Case, other: Case) -> bool:
    if one.case or other.case:
        return one.case == other.case
    return (one.reason, one.label_ms) == (other.reason, other.label_ms)


def _label(case: Case, decided: Decided, key_entity: str, chargeback: str | None) -> Label:
    is_won = case.stage == "dispute_won"
    return Label(
        label_id=_label_id(case, decided),
        transaction_id=decided.transaction_id,
        key=decided.keys[key_entity],
        is_fraud=not is_won and case.meaning == "fraud",
        source="dispute_won" if is_won else "chargeback",
        label_time_ms=case.label_ms,
        by="chargeback file",
        supersedes=chargeback if is_won else None,
    )


def _label_id(case: Case, decided: Decided) -> str:
    moment = datetime.fromtimestamp(case.label_ms / 1000, UTC).isoformat(timespec="milliseconds")
    said = [decided.transaction_id, case.stage, case.reason, moment, case.case]
    digest = blake2b(json.dumps(said).encode(), digest_size=ID_BYTES).hexdigest()
    return f"{'won' if case.stage == 'dispute_won' else 'cb'}-{digest}"
