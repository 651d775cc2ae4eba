"""Messages that are nearly right: good records of every input, changed where it hurts.

A mutation knows what it changes: bytes, JSON text, fields, numbers, letters, nesting, or the
envelope. The same seed gives the same messages.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.label_words import OUTCOME_KINDS, SOURCES
from pipeline.records import VERDICTS
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS

TOPICS = (TRANSACTIONS, FEEDBACK, OUTCOMES)
# 2021-01-04T00:00:00Z; an event follows the one before by a minute.
FIRST_MS = 1_609_718_400_000
CARDS = 400
# So many messages of a run are left as they are.
GOOD_SHARE = 0.15

Headers = list[tuple[bytes, bytes | None]]


class RawName(str):
    """A header name whose bytes are chosen: the client would write UTF-8 alone."""

    raw = b""

    def encode(self, *_: object, **__: object) -> bytes:
        """Give the chosen bytes."""
        return self.raw

    @classmethod
    def of(cls, raw: bytes) -> "RawName":
        """Make the name of these bytes."""
        name = cls(raw.decode("utf-8", "backslashreplace"))
        name.raw = raw
        return name


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent, and what was done to it."""

    topic: str
    card: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    mutation: str


NUMBERS = (
    "0", "-0", "1", "-1", "0.1", "1e-400", "5e-324", "1e308", "1e400", "9007199254740993",
    "9223372036854775808", "18446744073709551616", "1e3", "1E+2", "0.30000000000000004",
    "1000000000", "10000000.01", "1609718400", "1609718400000000", "9" * 400,
    "0." + "0" * 400 + "1",
    "NaN", "Infinity", "-Infinity", "0x10", "01", "+1", ".5", "5.", "1_000", "--1",
)  # fmt: skip
LETTERS = (
    "\0", "\n", "\x7f", "\u200b", "\u202e", "\ufeff", "é", "é", "١٢", "ｃ", "с", "\U0001f600",
    "\\ud800", "\\u0000", "\\udc00\\ud800", '\\"', "\\\\", "\\/", "\\x", "'; --", "%00", "../",
    "4111111111111111", "4111 1111 1111 1111", "fraud - at `$.x`", "a" * 65, "a" * 5_000,
)  # fmt: skip
BYTES = (
    b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\xc3",
    b"\x1f\x8b\x08", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"null", b"\r\n", b"//",
)  # fmt: skip
TYPES = (
    "null",
    "true",
    "false",
    "0",
    "1.5",
    '""',
    '"x"',
    "[]",
    "{}",
    "[1]",
    '{"a":1}',
    '[[["x"]]]',
)


class Mutator:
    """Makes messages from a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._made = 0
        self._last = b"{}"
        self._of_value: tuple[Callable[[bytes], bytes], ...] = (
            self.flip_bits, self.cut_off, self.cut_out, self.put_in, self.splice, self.repeat_key,
            self.nest, self.swap_type, self.extreme_number, self.odd_letters, self.leave_out,
            self.grow, self.random_bytes, self.rename,
        )  # fmt: skip

    def messages(self, count: int) -> Iterator[Message]:
        """Give so many messages."""
        for _ in range(count):
            yield self.message()

    def message(self) -> Message:
        """Give the next message; one in three has several mutations."""
        chance = self._chance
        topic = chance.choices(TOPICS, (6, 3, 1))[0]
        card = f"c{chance.randrange(CARDS)}"
        value: bytes | None = self._good(topic, card)
        done: list[str] = []
        if chance.random() > GOOD_SHARE:
            for _ in range(chance.choice((1, 1, 2, 3))):
                mutate = chance.choice(self._of_value)
                value = mutate(value or b"")
                done.append(mutate.__name__)
            self._last = value or b"{}"
        key, headers = self._envelope(card, done)
        if chance.random() < 0.005:  # noqa: PLR2004 - a tombstone now and then
            value = None
            done.append("tombstone")
        self._made += 1
        return Message(topic, card, key, value, headers, " ".join(done) or "none")

    def _envelope(self, card: str, done: list[str]) -> tuple[bytes | None, Headers]:
        chance = self._chance
        key: bytes | None = card.encode()
        headers: Headers = []
        if chance.random() < 0.05:  # noqa: PLR2004 - one in twenty
            key = chance.choice((None, b"", b"\xff\xfe", f"c{chance.randrange(CARDS)}".encode()))
            done.append("key")
        if chance.random() < 0.05:  # noqa: PLR2004 - one in twenty
            headers = [
                (
                    chance.randbytes(chance.randrange(12)),
                    chance.choice((b"", b"1", chance.randbytes(40), b"z" * 9_000)),
                )
                for _ in range(chance.choice((1, 2, 40)))
            ]
            done.append("headers")
        return key, headers

    def _good(self, topic: str, card: str) -> bytes:
        chance, number = self._chance, self._made
        time_ms = FIRST_MS + number * 60_000
        known = f"f{chance.randrange(number + 1)}"
        if topic == TRANSACTIONS:
            record: dict[str, object] = {
                "transaction_id": f"f{number}",
                "event_time": time_ms,
                "card_id": card,
                "terminal_id": f"m{chance.randrange(100)}",
                "amount": f"{chance.randrange(100_000) / 100:.2f}",
                "currency": "EUR",
            }
        elif topic == FEEDBACK:
            record = {
                "label_id": f"l{number}",
                "transaction_id": known,
                "card_id": card,
                "verdict": chance.choice(VERDICTS),
                "source": chance.choice(SOURCES),
                "label_time": time_ms,
            }
        else:
            record = {
                "transaction_id": known,
                "card_id": card,
                "outcome": chance.choice(OUTCOME_KINDS),
                "outcome_time": time_ms,
            }
        return json.dumps(record).encode()

    def _at(self, value: bytes) -> int:
        return self._chance.randrange(len(value) + 1)

    def flip_bits(self, value: bytes) -> bytes:
        """Flip one to four bits."""
        changed = bytearray(value)
        for _ in range(self._chance.randint(1, 4) if value else 0):
            changed[self._chance.randrange(len(changed))] ^= 1 << self._chance.randrange(8)
        return bytes(changed)

    def cut_off(self, value: bytes) -> bytes:
        """Leave out the end, or the beginning."""
        at = self._at(value)
        return value[:at] if self._chance.random() < 0.8 else value[at:]  # noqa: PLR2004

    def cut_out(self, value: bytes) -> bytes:
        """Leave out a few bytes."""
        at = self._at(value)
        return value[:at] + value[at + self._chance.randint(1, 12) :]

    def put_in(self, value: bytes) -> bytes:
        """Put in bytes that mean something to a decoder."""
        at = self._at(value)
        return value[:at] + self._chance.choice(BYTES) + value[at:]

    def splice(self, value: bytes) -> bytes:
        """Go on with another message that was changed."""
        return value[: self._at(value)] + self._last[self._at(self._last) :][:20_000]

    def _fields(self, value: bytes) -> list[tuple[str, str]]:
        """Give fields as pairs of JSON texts, as far as the value still is an object."""
        try:
            record = json.loads(value)
        except (ValueError, RecursionError):
            return []
        if not isinstance(record, dict):
            return []
        try:
            return [(json.dumps(key), json.dumps(item)) for key, item in record.items()]
        except (ValueError, RecursionError):
            return []

    def _with_field(self, value: bytes, change: Callable[[str], str]) -> bytes:
        fields = self._fields(value)
        if not fields:
            return self.flip_bits(value)
        place = self._chance.randrange(len(fields))
        fields[place] = (fields[place][0], change(fields[place][1]))
        return _written(fields)

    def repeat_key(self, value: bytes) -> bytes:
        """Write a field once more, now and then with an escaped key."""
        fields = self._fields(value)
        if not fields:
            return value + value
        key, item = self._chance.choice(fields)
        if self._chance.random() < 0.3 and len(key) > 2:  # noqa: PLR2004
            key = f'"\\u{ord(key[1]):04x}{key[2:]}'
        item = self._chance.choice((item, "null", '"x"'))
        return _written([*fields, (key, item)])

    def nest(self, value: bytes) -> bytes:
        """Put a field into arrays or objects, or add an unknown one that is deep."""
        levels = self._chance.choice((1, 2, 6, 7, 8, 9, 50, 2_000))
        opened, closed = self._chance.choice((("[", "]"), ('{"a":', "}")))
        if self._chance.random() < 0.5:  # noqa: PLR2004
            return self._with_field(value, lambda item: opened * levels + item + closed * levels)
        return _written([*self._fields(value), ('"x"', opened * levels + "1" + closed * levels)])

    def swap_type(self, value: bytes) -> bytes:
        """Give a field another type."""
        return self._with_field(value, lambda _: self._chance.choice(TYPES))

    def extreme_number(self, value: bytes) -> bytes:
        """Give a field an extreme number, or what looks like one; now and then as text."""
        number = self._chance.choice(NUMBERS)
        text = json.dumps(number) if self._chance.random() < 0.3 else number  # noqa: PLR2004
        return self._with_field(value, lambda _: text)

    def odd_letters(self, value: bytes) -> bytes:
        """Put odd letters into a text, or make one of them."""
        letters = self._chance.choice(LETTERS)
        return self._with_field(value, lambda item: f'"{item.strip(chr(34))}{letters}"')

    def leave_out(self, value: bytes) -> bytes:
        """Leave out a field."""
        fields = self._fields(value)
        if not fields:
            return value[1:]
        fields.pop(self._chance.randrange(len(fields)))
        return _written(fields)

    def rename(self, value: bytes) -> bytes:
        """Give a field another name."""
        fields = self._fields(value)
        if not fields:
            return value[:-1]
        place = self._chance.randrange(len(fields))
        key = self._chance.choice(
            ('""', '"Card_id"', '"card_id "', '"x"', '"\\u0000"', "1", "null")
        )
        fields[place] = (key, fields[place][1])
        return _written(fields)

    def grow(self, value: bytes) -> bytes:
        """Make it long, now and then too long."""
        size = self._chance.choice((10, 300, 300, 300, 3_000, 16_100, 20_000))
        fill = self._chance.choice((" ", "[", "0", "é", "\\u0041"))
        if self._chance.random() < 0.5:  # noqa: PLR2004
            return value + fill.encode() * size
        return _written([*self._fields(value), ('"x"', f'"{fill * size}"')])

    def random_bytes(self, value: bytes) -> bytes:
        """Give anything of about the same length."""
        return self._chance.randbytes(self._chance.randrange(len(value) + 2))


def _written(fields: Sequence[tuple[str, str]]) -> bytes:
    text = ",".join(f"{key}:{item}" for key, item in fields)
    return ("{" + text + "}").encode("utf-8", "surrogatepass")
