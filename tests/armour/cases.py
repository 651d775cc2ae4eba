"""A row of the tables about single transactions."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import Reason
from tests.strategies import event_bytes

# Stands for what must not be found in the message of a rejection.
SECRET = "s3cret"
CARD_NUMBER = "4111111111111111"
GOOD = event_bytes()
AMOUNT = b'"9.50"'


@dataclass(frozen=True)
class Case:
    """A value of `transactions`; without a reason it must be accepted, else `place` is named.

    `said` is a part of the message; `got` are columns and what they must hold.
    """

    name: str
    value: bytes | None
    reason: Reason | None = None
    place: str = "$"
    said: str = ""
    got: dict[str, Any] = field(default_factory=dict)
    secret: str = SECRET


def _shown(value: object) -> str:
    if value is ...:
        return "left out"
    # Python would not write a number of thousands of digits.
    if isinstance(value, int) and abs(value) > 10**60:
        return f"number of {value.bit_length()} bits"
    return repr(value)


def wrong(field: str, value: object, *, reason: Reason = "schema", said: str = "") -> Case:
    """Give the row of one field that is wrong; `...` leaves it out."""
    shown = _shown(value)
    text = _shown(value) if isinstance(value, int) else str(value)
    # A shorter text may well stand in the sentence that says what was expected.
    secret = text if len(text) >= 5 and value is not ... else SECRET
    changed = event_bytes(**{field: value})
    return Case(f"{field}: {shown}", changed, reason, f"$.{field}", said, secret=secret)


def right(field: str, value: object, **got: Any) -> Case:
    """Give the row of one field that is odd and accepted."""
    shown = _shown(value)
    return Case(f"{field}: {shown} is fine", event_bytes(**{field: value}), got=got)
