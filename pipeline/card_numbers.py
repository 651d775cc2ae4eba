"""Payment card numbers: told from other numbers, found in texts, and masked wherever they stand.

None may be kept anywhere: an id that holds one is refused, logs and dead letters mask its digits.
Finding is strict, since what is found is refused: the digits in a row, or in the groups that cards
are printed with. Masking is not, since a star too many costs nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CARD_NUMBER_DIGITS = range(13, 20)
LENGTH_MIN = CARD_NUMBER_DIGITS[0]
NUMBER_MIN = 10.0 ** (LENGTH_MIN - 1)
# Cards are printed with 4-4-4-4-3 digits at most; a bound keeps the search linear.
CARD_NUMBER_GROUPS_MAX = 5
# So many hex digits with a letter among them are a digest or a UUID, whatever digits it holds.
DIGEST_LENGTH_MIN = 32

# What numbers of each network begin with (ISO/IEC 7812), and how long they are. None begins with 1,
# as times in milliseconds do, and 15 digits that begin with 35 are the number of a telephone.
_MAESTRO = ("50", "56", "57", "58", "6")
_FROM_16 = ("30", "36", "38", "39", "35", "220", "81", "82")
_MASTERCARD = (
    *("51", "52", "53", "54", "55"),
    *(str(first) for first in (*range(223, 230), *range(23, 27), 270, 271)),
    *(str(first) for first in (*range(2221, 2230), 2720)),
)
_BEGINS: dict[int, tuple[str, ...]] = {
    13: ("4", *_MAESTRO),
    14: ("30", "36", "38", "39", *_MAESTRO),
    15: ("34", "37", *_MAESTRO),
    16: ("4", *_MASTERCARD, "9792", *_FROM_16, *_MAESTRO),
    17: (*_FROM_16, *_MAESTRO),
    18: (*_FROM_16, *_MAESTRO),
    19: ("4", *_FROM_16, *_MAESTRO),
}


def passes_luhn(digits: str) -> bool:
    """Say whether the last digit is the check digit of those before it.

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    doubled = sum(_TWICE[digit] for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


_TWICE = {str(digit): 2 * digit - 9 * (digit > 4) for digit in range(10)}  # noqa: PLR2004


def is_card_number(text: str) -> bool:
    """Say whether a text is a payment card number: 13 to 19 digits of a network, Luhn's check.

    >>> is_card_number("4111111111111111"), is_card_number("4111111111111112")
    (True, False)
    """
    return (
        len(text) in CARD_NUMBER_DIGITS
        and text.isascii()
        and text.isdigit()
        and text.startswith(_BEGINS[len(text)])
        and passes_luhn(text)
    )


@dataclass(frozen=True, slots=True)
class FoundNumber:
    """A card number in a text: where it begins and ends, and its digits, which nobody is shown."""

    start: int
    end: int
    digits: str

    def __repr__(self) -> str:
        return f"FoundNumber({self.start}, {self.end})"


# Digits in a row, but not those behind a decimal point; or groups as they are printed on cards,
# with one and the same character between them, and perhaps a date behind them.
_IN_A_ROW = r"(?<![0-9])(?<![0-9]\.)[2-9][0-9]{12,18}(?![0-9])"
_PRINTED = (
    r"[2-9][0-9]{3}([ _-])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}",
    r"[2-9][0-9]{3}([ _-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}\1[0-9]{1,3}",
    r"3[0-9]{3}([ _-])[0-9]{6}\1[0-9]{4,5}",
    r"4[0-9]{3}([ _-])[0-9]{3}\1[0-9]{3}\1[0-9]{3}",
    r"6[0-9]{5}[ _-][0-9]{13}",
)
_CANDIDATES = tuple(
    re.compile(pattern)
    for pattern in (
        _IN_A_ROW,
        *(rf"(?<![0-9A-Za-z])(?<![0-9]\.){shape}(?![0-9A-Za-z])" for shape in _PRINTED),
    )
)
# What every candidate begins with: most texts are done with after this.
_MAYBE = re.compile(r"[2-9][0-9 _-]{12}")
# The characters of a candidate as one, and the shortest of them.
_KINDS = bytes(ord("0") if byte in b"0123456789 _-" else ord("x") for byte in range(256))
_RUN = b"0" * LENGTH_MIN
_HEX = frozenset("0123456789abcdefABCDEF")
_SEPARATORS = str.maketrans("", "", " _-")


def find_card_numbers(text: str) -> Iterator[FoundNumber]:
    """Give the card numbers that stand in a text, in a row or in printed groups.

    >>> [found.start for found in find_card_numbers("a 4111-1111-1111-1111, b4222222222222")]
    [2, 24]
    """
    position = 0
    while maybe := _MAYBE.search(text, position):
        found = _number_at(text, maybe.start())
        if found is not None:
            yield found
        position = maybe.start() + 1 if found is None else found.end


def _number_at(text: str, start: int) -> FoundNumber | None:
    for candidate in _CANDIDATES:
        found = candidate.match(text, start)
        if found is None:
            continue
        digits = found[0].translate(_SEPARATORS)
        if is_card_number(digits) and not _is_in_digest(text, start, found.end()):
            return FoundNumber(start, found.end(), digits)
    return None


def holds_card_number(text: str) -> bool:
    """Say whether a card number stands in a text.

    >>> holds_card_number("card_4111111111111111"), holds_card_number("411111111111")
    (True, False)
    """
    return len(text) >= LENGTH_MIN and any(True for _ in find_card_numbers(text))


def places_of_card_numbers(texts: Sequence[str]) -> list[int]:
    """Give the places of the texts that a card number stands in.

    >>> places_of_card_numbers(["c1", "4111-1111-1111-1111", "1522540880052"])
    [1]
    """
    # Most ids are too short, and most others hold no such run: that is seen of all at once.
    if max(map(len, texts), default=0) < LENGTH_MIN:
        return []
    kinds = "\n".join(texts).encode(errors="surrogatepass").translate(_KINDS)
    if _RUN not in kinds:
        return []
    return [place for place, text in enumerate(texts) if holds_card_number(text)]


def field_with_card_number(
    fields: Sequence[str], values: Sequence[str | float | None]
) -> str | None:
    """Give the first field whose text holds a card number, or whose number is one.

    >>> field_with_card_number(("id", "card", "n"), ("t1", "4111-1111-1111-1111", 4e15))
    'card'
    """
    for field, value in zip(fields, values):  # noqa: B905 - strict costs time for every event
        if isinstance(value, str):
            # Most ids are too short to be asked.
            if len(value) >= LENGTH_MIN and holds_card_number(value):
                return field
        elif value is not None and value >= NUMBER_MIN and is_card_number(f"{value:.0f}"):
            return field
    return None


def _is_in_digest(text: str, start: int, end: int) -> bool:
    first, last = start, end
    while first > 0 and text[first - 1] in _HEX and end - first < DIGEST_LENGTH_MIN:
        first -= 1
    while last < len(text) and text[last] in _HEX and last - first < DIGEST_LENGTH_MIN:
        last += 1
    return last - first >= DIGEST_LENGTH_MIN


# Groups of digits, one blank, hyphen or underscore apart; a card number may be any of them, or some
# in a row. JSON may write a digit as its code.
_DIGIT = rb"(?:\\u003[0-9]|[0-9])"
_GROUPS = re.compile(rb"%b+(?:[ _-]%b+)*" % (_DIGIT, _DIGIT))
_GROUP = re.compile(rb"%b+" % _DIGIT)
_CODE = re.compile(rb"\\u003([0-9])")


def mask_card_numbers(value: bytes) -> bytes:
    """Replace the digits of every card number in the bytes by `*`, keeping their length.

    >>> mask_card_numbers(b'{"pan":"4111 1111 1111 1111","n":"4111111111111112"}')
    b'{"pan":"**** **** **** ****","n":"4111111111111112"}'
    """
    return _GROUPS.sub(_masked, value)


def mask_card_numbers_in_text(text: str) -> str:
    """Replace the digits of every card number in a text by `*`.

    >>> mask_card_numbers_in_text("no card 4111111111111111")
    'no card ****************'
    """
    return mask_card_numbers(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _masked(found: re.Match[bytes]) -> bytes:
    masked = bytearray(found[0])
    groups = list(_GROUP.finditer(found[0]))
    for place, first in enumerate(groups):
        digits = ""
        for last in groups[place : place + CARD_NUMBER_GROUPS_MAX]:
            digits += _CODE.sub(rb"\1", last[0]).decode("ascii")
            if is_card_number(digits):
                span = slice(first.start(), last.end())
                masked[span] = _GROUP.sub(lambda group: b"*" * len(group[0]), found[0][span])
    return bytes(masked)
