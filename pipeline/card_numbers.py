"""Payment card numbers: told from other numbers, and masked wherever they stand.

None may be kept anywhere, so an id that is one is refused, and a dead letter masks its digits.
"""

import re

CARD_NUMBER_DIGITS = range(13, 20)
# Cards are printed with 4-4-4-4-3 digits at most; a bound keeps the search linear.
CARD_NUMBER_GROUPS_MAX = 5


def is_card_number(text: str) -> bool:
    """Say whether a text is a payment card number (ISO/IEC 7812: 13 to 19 digits, Luhn's check).

    >>> is_card_number("4111111111111111"), is_card_number("4111111111111112")
    (True, False)
    """
    if len(text) not in CARD_NUMBER_DIGITS or not (text.isascii() and text.isdigit()):
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(text))]
    # Payment networks' numbers begin with 2 to 6; a time in milliseconds begins with 1.
    return text[0] in "23456" and sum(value - 9 * (value > 9) for value in doubled) % 10 == 0  # noqa: PLR2004


# Groups of digits, one blank or hyphen apart; a card number may be any of them, or some in a row.
_GROUPS = re.compile(rb"[0-9]+(?:[ -][0-9]+)*")
_GROUP = re.compile(rb"[0-9]+")


def mask_card_numbers(value: bytes) -> bytes:
    """Replace the digits of every card number in the bytes by `*`, keeping their length.

    >>> mask_card_numbers(b'{"pan":"4111 1111 1111 1111","n":"4111111111111112"}')
    b'{"pan":"**** **** **** ****","n":"4111111111111112"}'
    """
    return _GROUPS.sub(_masked, value)


def _masked(found: re.Match[bytes]) -> bytes:
    masked = bytearray(found[0])
    groups = list(_GROUP.finditer(found[0]))
    for place, first in enumerate(groups):
        digits = ""
        for last in groups[place : place + CARD_NUMBER_GROUPS_MAX]:
            digits += last[0].decode("ascii")
            if is_card_number(digits):
                span = slice(first.start(), last.end())
                masked[span] = _GROUP.sub(lambda group: b"*" * len(group[0]), found[0][span])
    return bytes(masked)
