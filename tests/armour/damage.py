"""What may be found damaged in Redis, and what is said of it.

Every row is about a store in which partition 0 has decided two events of the cards `c1` and `c2` at
the terminals `m1` and `m2`, and learned something of `c1`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.stored_rows import VERSION, sealed

Reader = Literal["profiles", "store", "index", "commit", "pending"]
Change = bytes | Literal["missing", "list"] | Callable[[bytes], bytes]


@dataclass(frozen=True)
class Damage:
    """What is done to a key (or to a field of one), who reads it then, and what that says.

    Nothing is said of what cannot be told from what was never there.
    """

    name: str
    key: str
    change: Change
    reader: Reader
    said: str
    field: bytes | None = None


def flipped(stored: bytes) -> bytes:
    """Flip a bit in the middle."""
    middle = len(stored) // 2
    return stored[:middle] + bytes([stored[middle] ^ 8]) + stored[middle + 1 :]


def _cut(stored: bytes) -> bytes:
    return stored[:-9]


def _longer(stored: bytes) -> bytes:
    return stored + b"\0"


def _next_version(stored: bytes) -> bytes:
    return stored[:-5] + bytes([VERSION[0] + 1]) + stored[-4:]


def _one_further(stored: bytes) -> bytes:
    offset, _, rest = stored.partition(b":")
    return b"%d:%s" % (int(offset) + 1, rest)


_CARD, _RING, _LEARNED, _PROBES = "c:0:c1", "r:terminal:m1", "l:card:c1", "p:card:c1"
_INPUT = "transactions:0"
_NO_SUM = "its checksum does not fit"
_NOT_OF_POSITION = "it does not belong to position 2:0"

DAMAGE = (
    Damage("card: missing", _CARD, "missing", "profiles", ""),
    Damage("card: empty", _CARD, b"", "profiles", "it has 0 bytes"),
    Damage("card: truncated", _CARD, _cut, "profiles", _NO_SUM),
    Damage("card: longer", _CARD, _longer, "profiles", _NO_SUM),
    Damage("card: a bit flipped", _CARD, flipped, "profiles", _NO_SUM),
    Damage("card: another version", _CARD, _next_version, "profiles", _NO_SUM),
    Damage("card: zeros", _CARD, bytes(300), "profiles", _NO_SUM),
    Damage("card: a text", _CARD, b"hello", "profiles", _NO_SUM),
    Damage("card: of another kind", _CARD, "list", "profiles", "it holds a list"),
    Damage("ring: missing", _RING, "missing", "profiles", ""),
    Damage("ring: truncated", _RING, _cut, "profiles", _NO_SUM),
    Damage("ring: longer", _RING, _longer, "profiles", _NO_SUM),
    Damage("ring: a bit flipped", _RING, flipped, "profiles", _NO_SUM),
    Damage("ring: garbage", _RING, b"\xa5" * 1120, "profiles", _NO_SUM),
    Damage("ring: of another kind", _RING, "list", "profiles", "it holds a list"),
    Damage("card testing: missing", _PROBES, "missing", "profiles", ""),
    Damage("card testing: truncated", _PROBES, _cut, "profiles", _NO_SUM),
    Damage("card testing: a bit flipped", _PROBES, flipped, "profiles", _NO_SUM),
    Damage("card testing: of another kind", _PROBES, "list", "profiles", "it holds a list"),
    Damage("additions: missing", "additions", "missing", "profiles", "hold all, is missing"),
    Damage("additions: empty", "additions", b"", "profiles", "it has 0 bytes"),
    Damage("additions: truncated", "additions", _cut, "profiles", _NO_SUM),
    Damage("additions: a bit flipped", "additions", flipped, "profiles", _NO_SUM),
    Damage("additions: no additions", "additions", sealed("additions", b"\x93\x00\x90"), "profiles",
           "entry 2 is none"),
    Damage("additions: of another kind", "additions", "list", "profiles", "additions"),
    Damage("additions: of another kind when committed", "additions", "list", "commit",
           "it holds a list"),
    Damage("number of additions: garbage", "shared", b"many", "profiles", "shared",
           field=b"additions"),
    Damage("number of additions: garbage when committed", "shared", b"many", "commit",
           "a commit broke off halfway", field=b"additions"),
    Damage("number of additions: too high", "shared", b"7", "profiles",
           "entries after 2 are missing", field=b"additions"),
    Damage("rows' place in the log: garbage", "shared", b"many", "profiles", "shared",
           field=b"folded"),
    Damage("rows' place in the log: beyond it", "shared", b"9", "profiles", "entry 9",
           field=b"folded"),
    Damage("shared: of another kind", "shared", "list", "commit", "it holds a list"),
    Damage("learned: missing", _LEARNED, "missing", "profiles", ""),
    Damage("learned: truncated", _LEARNED, _cut, "profiles", _NO_SUM),
    Damage("learned: a bit flipped", _LEARNED, flipped, "profiles", _NO_SUM),
    Damage("learned: of another kind", _LEARNED, "list", "profiles", "it holds a list"),
    Damage("position: missing", f"pos:{_INPUT}", "missing", "store", "it holds '', expected a"),
    Damage("position: garbage", f"pos:{_INPUT}", b"\xffsoon", "store", "expected a position"),
    Damage("position: one further", f"pos:{_INPUT}", _one_further, "store", "to position 3:0"),
    Damage("position: of another kind", f"pos:{_INPUT}", "list", "store", "it holds a list"),
    Damage("position of the trainer: garbage", "pos:training", b"x:0", "profiles",
           "expected a whole number"),
    Damage("outbox: missing", f"out:{_INPUT}", "missing", "store", _NOT_OF_POSITION),
    Damage("outbox: truncated", f"out:{_INPUT}", _cut, "store", _NOT_OF_POSITION),
    Damage("outbox: a bit flipped", f"out:{_INPUT}", flipped, "store", _NOT_OF_POSITION),
    Damage("outbox: of another kind", f"out:{_INPUT}", "list", "store", "it holds a list"),
    Damage("waiting entry: truncated", "w:0", b"\1\2\3", "index", "an entry of 3 bytes is none",
           field=b"t1"),
    Damage("waiting entry: a bit too long", "w:0", _longer, "index", "an entry of 8 bytes is none",
           field=b"t1"),
    Damage("waiting entry: unknown outcome", "w:0", lambda entry: entry[:6] + b"\x7f", "index",
           "an entry of 7 bytes is none", field=b"t1"),
    Damage("waiting entry: unknown source", "w:0", lambda entry: entry[:7] + b"\xff" * 20, "index",
           "an entry of 27 bytes is none", field=b"t1"),
    Damage("ledger: of another kind", "ledger:0", "list", "commit", "it holds a list"),
    Damage("ledger: no number", "ledger:0", b"many", "commit", "a commit broke off halfway",
           field=b"learned"),
    Damage("label that waits: a bit flipped", "pend:0", flipped, "pending", _NO_SUM,
           field=b"t1/l1"),
    Damage("labels that wait: of another kind", "pend:0", "list", "pending",
           "finds another kind of value"),
)  # fmt: skip
