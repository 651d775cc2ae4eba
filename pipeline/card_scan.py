"""The search for card numbers where none may be: what was looked at, and where one was found.

Texts are read as they stand, with JSON's codes for digits, and with what base64 in them holds. A
number is never kept: two places that hold the same one have the same mark, which is keyed with a
secret of this search alone, so that it cannot be undone by trying all numbers.

>>> scan = CardScan(secret=b"of this search")
>>> scan.text("file a.log", b'{"x":"NDExMTExMTExMTExMTExMQ=="}', "line 3")
>>> [(place.where, place.place, place.digits) for place in scan.places]
[('file a.log', 'line 3', 16)]
"""

import binascii
import hmac
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.card_numbers import find_card_numbers, mask_card_numbers_in_text

PLACES_MAX = 1_000
MARK_LETTERS = 8
# Thirteen digits and more make so many letters of base64.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{18,}={0,2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_CODE = re.compile(rb"\\u00(3[0-9]|2[0Dd])")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a card number stands: it has so many digits, and the same mark wherever it stands."""

    where: str
    place: str
    digits: int
    mark: str


class CardScan:
    """Keeps count of what was looked at and of what was found.

    Parameters
    ----------
    secret
        What marks are keyed with; random, and forgotten with the search.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.looked_at: Counter[str] = Counter()
        """How many records, keys, files, pages were looked at, by kind."""
        self.hits: Counter[str] = Counter()
        """How many numbers were found, by where."""
        self.places: list[Place] = []
        """The first of them."""
        self.marks: set[str] = set()
        """The different numbers."""
        self.not_read: list[str] = []
        """What could not be looked at, and why."""

    def text(
        self, where: str, value: bytes | str | None, place: str | Callable[[int], str]
    ) -> None:
        """Look at a text or at bytes; `place` may depend on how many bytes stand before."""
        if value is None:
            return
        data = value.encode(errors="surrogatepass") if isinstance(value, str) else value
        for start, digits in _numbers(data):
            self._add(where, place, start, digits)

    def cannot_read(self, what: str, why: str) -> None:
        """Remember what could not be looked at."""
        self.not_read.append(mask_card_numbers_in_text(f"{what}: {why}"))

    def _add(self, where: str, place: str | Callable[[int], str], start: int, digits: str) -> None:
        mark = hmac.digest(self._secret, digits.encode(), "sha256").hex()[:MARK_LETTERS]
        # A name of a key or of a file may be what holds the number.
        where = mask_card_numbers_in_text(where)
        self.hits[where] += 1
        self.marks.add(mark)
        if len(self.places) < PLACES_MAX:
            said = place if isinstance(place, str) else place(start)
            found = Place(where, mask_card_numbers_in_text(said), len(digits), mark)
            self.places.append(found)


def _numbers(data: bytes) -> Iterator[tuple[int, str]]:
    """Give the place and the digits of each number in some bytes, and in base64 among them."""
    for found in find_card_numbers(data.decode("latin-1")):
        yield found.start, found.digits
    if b"\\u00" in data:
        plain = _CODE.sub(lambda code: bytes.fromhex(code[1].decode()), data)
        known = {found.digits for found in find_card_numbers(data.decode("latin-1"))}
        for found in find_card_numbers(plain.decode("latin-1")):
            if found.digits not in known:
                yield min(found.start, len(data)), found.digits
    for word in _BASE64.finditer(data):
        letters = word[0].rstrip(b"=").translate(_URL_SAFE)
        # One letter too many belongs to nothing.
        letters = letters[: len(letters) - (len(letters) % 4 == 1)]
        decoded = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
        for found in find_card_numbers(decoded.decode("latin-1")):
            yield word.start(), found.digits
