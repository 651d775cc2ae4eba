"""Sizes: a record is measured before it is parsed."""

from pipeline.events import RECORD_BYTES_MAX
from tests.armour.cases import GOOD, Case


def _large(value: bytes) -> Case:
    name = f"{len(value)} bytes, begins with {value[:1]!r}, ends with {value[-1:]!r}"
    said = f"at most {RECORD_BYTES_MAX} bytes, got {len(value)} bytes"
    return Case(name, value, "too_large", "$", said)


_FILL = RECORD_BYTES_MAX - len(GOOD)
SIZES = (
    Case("the largest, of blanks", GOOD + b" " * _FILL),
    Case("the largest, of one field", GOOD[:-1] + b',"x":"' + b"y" * (_FILL - 7) + b'"}'),
    Case("the largest, of many fields",
         GOOD[:-1] + b"".join(b',"%04d":0' % n for n in range(_FILL // 9)) + b"}"),
    _large(GOOD + b" " * (_FILL + 1)),
    _large(GOOD[:-1] + b',"x":"' + b"y" * _FILL + b'"}'),
    _large(b"[" * (RECORD_BYTES_MAX + 1)),
    _large(bytes(RECORD_BYTES_MAX + 1)),
    _large(b"\xff" * 65_536),
    Case("the largest, of zeros", bytes(RECORD_BYTES_MAX), "malformed"),
)  # fmt: skip
