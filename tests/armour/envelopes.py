"""Records whose envelope is odd: keys, partitions, null values, headers."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import Reason

NOT_UTF8 = b"\xff\xfename"
NOT_UTF8_KEPT = "\ufffd\ufffdname"

GiveKey = str
"""`own`: the card's; `none`; `empty`; `neighbour`: of another card of the same partition."""


@dataclass(frozen=True)
class Envelope:
    """A record of the card of partition 1, its value good unless it is said otherwise.

    `kept` are the headers of its dead letter, where they differ from those that were sent.
    """

    name: str
    key: GiveKey = "own"
    partition: int = 1
    value: bytes | None | str = "good"
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    reason: Reason | None = None
    place: str = "$"
    kept: Sequence[tuple[str, bytes | None]] | None = None


HUGE = [(b"huge", bytes(range(256)) * 200)]
MANY = [(b"n%d" % number, b"") for number in range(1_000)]
FORGED = [(b"fraud.errors.reason", b"schema"), (b"fraud.errors.partition", b"x")]

ENVELOPES: tuple[Envelope, ...] = (
    Envelope("its own key"),
    Envelope("no key, in its partition", key="none"),
    Envelope("no key, elsewhere", "none", 2, reason="wrong_partition", place="$.card_id"),
    Envelope("its own key, elsewhere", partition=3, reason="wrong_partition", place="$.card_id"),
    Envelope("empty key", "empty", reason="wrong_key", place="$.card_id"),
    Envelope("key of a neighbour", "neighbour", reason="wrong_key", place="$.card_id"),
    Envelope("key that is no UTF-8", "bytes", reason="wrong_key", place="$.card_id"),
    Envelope("tombstone", value=None, reason="malformed"),
    Envelope("neither key nor value", key="none", value=None, reason="malformed"),
    Envelope("empty value", value=b"", reason="malformed"),
    Envelope("header", headers=[(b"trace", b"1")]),
    Envelope("header name that is no UTF-8", headers=[(NOT_UTF8, b"1"), (b"b", b"2")]),
    Envelope(
        "header name that is no UTF-8, on a dead letter",
        value=b"bad",
        headers=[(NOT_UTF8, b"1"), (b"b", b"2")],
        reason="malformed",
        kept=[(NOT_UTF8_KEPT, b"1"), ("b", b"2")],
    ),
    Envelope("header value that is no UTF-8", value=b"bad", headers=[(b"a", b"\xff")],
             reason="malformed"),
    Envelope("null header value", value=b"bad", headers=[(b"a", None)], reason="malformed"),
    Envelope("empty header name", value=b"bad", headers=[(b"", b"1")], reason="malformed"),
    Envelope("header that comes twice", value=b"bad", headers=[(b"a", b"1"), (b"a", b"2")],
             reason="malformed"),
    Envelope("huge header", headers=HUGE),
    Envelope("huge header, on a dead letter", value=b"bad", headers=HUGE, reason="malformed"),
    Envelope("a thousand headers", value=b"bad", headers=MANY, reason="malformed"),
    Envelope("headers of a dead letter, forged", value=b"bad", headers=FORGED, reason="malformed"),
)  # fmt: skip
