"""Decisions as the bytes of their topic, a whole batch at a time.

Each value is what `encode_record` gives of the decision's record, byte for byte. Here it is put
together of columns: one call encodes a column of all events, and what is the same in all of them
is encoded once. So no object is made for an event but its bytes.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product, repeat
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.compiled import kernel
from pipeline.engine import Decisions
from pipeline.policy import PrecededReasons, ReasonRows, Reasons
from pipeline.records import ACTIONS, FEATURE_DTYPE, encode_record
from pipeline.settings import ACT

# Of fewer events columns are not worth making.
COLUMNS_FROM = 8

_ENCODER = msgspec.json.Encoder()
_text = _ENCODER.encode
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# Three bytes are two numbers of 12 bits, each of which is two characters of base64.
PAIRS = np.frombuffer(b"".join(map(bytes, product(ALPHABET, ALPHABET))), np.uint16)
PADDED = np.frombuffer(b"".join(b"%c=" % one for one in ALPHABET + b"="), np.uint16)
_ACTION_TEXTS = [_text(action) for action in ACTIONS]


def encode_decisions(
    decisions: Decisions, topic: str, partition: int, offsets: Sequence[int]
) -> list[bytes]:
    """Give each decision as one JSON object; `offsets` are those of the whole batch."""
    if len(decisions) < COLUMNS_FROM:
        return list(map(encode_record, decisions.records(topic, partition, offsets)))
    events, actions = decisions.transactions, decisions.actions.tolist()
    row = _Row()
    row.field("transaction_id", _lines(events.transaction_id))
    row.field("event_time", _lines(events.event_time_ms.tolist()))
    row.fields("keys", dict(zip(decisions.entity_names, map(_lines, events.keys), strict=True)))
    row.field("amount", _lines(events.amount_minor.tolist()))
    row.field("currency", _lines(events.currency))
    row.field("action", [_ACTION_TEXTS[action] for action in actions])
    row.field("score", _lines(decisions.scores.tolist()))
    row.field("reasons", reason_texts(decisions.reasons))
    row.constant("model_version", decisions.model_version)
    row.constant("policy_version", decisions.policy_version)
    row.constant("propensity", 1.0)
    row.constant("label_offset", decisions.label_offset)
    row.constant("schema_hash", decisions.schema_hash)
    row.text(b',"features":"')
    row.column(base64_texts(decisions.features))
    row.text(b'"')
    row.fields("challengers", _score_texts(decisions.challengers))
    row.text(b',"source":[%b,%d,' % (_text(topic), partition))
    row.column(_lines([offsets[place] for place in decisions.rows.tolist()]))
    row.text(b"]")
    if decisions.members:
        row.fields("members", _score_texts(decisions.members))
    if decisions.degraded:
        row.constant("degraded", True)
    row.optional("incumbent", events.incumbents)
    row.optional("rules", decisions.rules)
    if decisions.rules_version:
        row.constant("rules_version", decisions.rules_version)
    row.constant("mode", decisions.mode)
    if decisions.mode == ACT:
        row.field("action_taken", [_ACTION_TEXTS[action] for action in actions])
    else:
        row.constant("action_taken", "none")
    row.constant("control_offset", decisions.control_offset)
    row.text(b"}")
    return row.joined(len(decisions))


class _Row:
    """The columns of an object's text, and what stands between them."""

    def __init__(self) -> None:
        self._columns: list[Iterable[bytes]] = []
        self._between = b""
        self._mark = b"{"

    def text(self, between: bytes) -> None:
        """Put the same text into every row."""
        self._between += between

    def column(self, texts: Iterable[bytes]) -> None:
        """Put a text of its own into every row."""
        self._columns += (repeat(self._between), texts)
        self._between = b""

    def constant(self, name: str, value: object) -> None:
        """Put a field with the same value into every row."""
        self._name(name)
        self.text(_text(value))

    def field(self, name: str, texts: Iterable[bytes]) -> None:
        """Put a field with a value of its own into every row."""
        self._name(name)
        self.column(texts)

    def fields(self, name: str, columns: dict[str, list[bytes]]) -> None:
        """Put a field that is itself an object of columns into every row."""
        self._name(name)
        self._mark = b"{"
        for key, texts in columns.items():
            self.field(key, texts)
        self.text(b"}" if columns else b"{}")
        self._mark = b","

    def optional(self, name: str, values: Sequence[Any]) -> None:
        """Put a field into the rows that have a value for it."""
        if any(values):
            prefix = b',"%b":' % name.encode()
            self.column([prefix + _text(value) if value else b"" for value in values])

    def joined(self, count: int) -> list[bytes]:
        """Give the text of each of so many rows."""
        self.column(repeat(b"", count))
        texts = list(map(b"".join, zip(*self._columns, strict=False)))
        assert len(texts) == count, "a column is not as long as the batch"
        return texts

    def _name(self, name: str) -> None:
        self.text(self._mark + _text(name) + b":")
        self._mark = b","


def _lines(values: Sequence[object]) -> list[bytes]:
    """Encode each value; no JSON text has a line break in it."""
    return _ENCODER.encode_lines(list(values)).splitlines()


def _score_texts(columns: dict[str, NDArray[np.float64]]) -> dict[str, list[bytes]]:
    return {name: _lines(scores.tolist()) for name, scores in columns.items()}


def reason_texts(reasons: Sequence[Reasons]) -> list[bytes]:
    """Encode the reasons of each event."""
    if isinstance(reasons, PrecededReasons):
        texts = reason_texts(reasons.others)
        for row in reasons.first:
            texts[row] = _text(reasons[row])
        return texts
    if isinstance(reasons, ReasonRows):
        return _texts_of_numbers(reasons)
    return _lines(list(reasons))


def _texts_of_numbers(reasons: ReasonRows) -> list[bytes]:
    count, places = reasons.codes.shape
    values = _lines(reasons.values.T.ravel().tolist())
    columns: list[list[bytes]] = []
    for place in range(places):
        codes = reasons.codes[:, place].tolist()
        given = values[place * count : (place + 1) * count]
        texts = _openings(reasons.names, b"],[" if place else b"[[")
        columns.append([texts[code] for code in codes])
        if -1 in codes:
            given = [text if code >= 0 else b"" for text, code in zip(given, codes, strict=True)]
        columns.append(given)
    columns.append([b"]]" if code >= 0 else b"[]" for code in reasons.codes[:, 0].tolist()])
    return list(map(b"".join, zip(*columns, strict=True)))


@cache
def _openings(names: tuple[str, ...], before: bytes) -> list[bytes]:
    """Give what stands before the value of each reason; nothing, at the end, for code -1."""
    return [before + _text(name) + b"," for name in names] + [b""]


def base64_texts(features: NDArray[np.float32]) -> list[bytes]:
    """Encode each event's features: base64 of little-endian float32."""
    rows = np.ascontiguousarray(features, dtype=FEATURE_DTYPE).view(np.uint8)
    texts = np.empty((len(rows), 2 * -(-rows.shape[1] // 3)), dtype=np.uint16)
    base64_kernel(rows, texts)
    found: list[bytes] = texts.view(f"S{2 * texts.shape[1]}").ravel().tolist()
    return found


@kernel
def base64_kernel(rows: NDArray[np.uint8], texts: NDArray[np.uint16]) -> None:
    """Write each row as base64 (RFC 4648, with padding); a number is two characters."""
    width = rows.shape[1]
    whole = width // 3
    for row in range(len(rows)):
        for group in range(whole):
            bits = np.uint32(rows[row, 3 * group]) << 16
            bits |= np.uint32(rows[row, 3 * group + 1]) << 8
            bits |= np.uint32(rows[row, 3 * group + 2])
            texts[row, 2 * group] = PAIRS[bits >> 12]
            texts[row, 2 * group + 1] = PAIRS[bits & 4095]
        left = width - 3 * whole
        if left:
            bits = np.uint32(rows[row, 3 * whole]) << 16
            if left > 1:
                bits |= np.uint32(rows[row, 3 * whole + 1]) << 8
            texts[row, 2 * whole] = PAIRS[bits >> 12]
            texts[row, 2 * whole + 1] = PADDED[bits >> 6 & 63] if left > 1 else PADDED[64]
