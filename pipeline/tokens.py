"""Tokens in place of card numbers: a keyed hash of the whole number, with the id of its key.

    tok-1-9f3c-  40 letters of a to p: 160 bits of HMAC-SHA256(key, digits of the number in ASCII)
        |  |
        |  four hex digits of chance, as in the key's file card-tokens-1-9f3c.key
        the key's number

A plain hash is undone by trying all numbers, so the key is what protects (PCI DSS 4.0.1, 3.5.1.1).
The letters hold no digit, so that a token can never be taken for a card number. One number has
one token for as long as one key is in force; which one that is depends on the event's time, so
that a file published again, a label that comes late and a replay find the same token.

>>> token_of("4111111111111111", "card-tokens-1-9f3c", bytes(32))
'tok-1-9f3c-...'
>>> digits_of("4111 1111-1111 1111"), digits_of("4111 1111 1111 1112") is None
('4111111111111111', True)
"""

import hmac
import re
from collections.abc import Iterable

from pipeline.card_numbers import CARD_NUMBER_DIGITS, passes_luhn
from pipeline.errors import KeyFileError
from pipeline.keys import NUMBER, TOKENS_OWNER, TokenKey

TOKEN_BYTES = 20
TOKEN = re.compile(rf"tok({NUMBER})-[a-p]{{{2 * TOKEN_BYTES}}}")

_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_GROUPED = re.compile(r"[1-9][0-9]*(?:[ -][0-9]+)*")
_SEPARATORS = str.maketrans("", "", " -")


def digits_of(text: str) -> str | None:
    """Give the digits of a card number that may be in groups; `None` if it is no card number.

    A field that is said to hold them may have numbers of any issuer: 13 to 19 digits, not begun
    with 0, that pass Luhn's check.
    """
    if not _GROUPED.fullmatch(text):
        return None
    digits = text.translate(_SEPARATORS)
    return digits if len(digits) in CARD_NUMBER_DIGITS and passes_luhn(digits) else None


def token_of(digits: str, key_id: str, secret: bytes) -> str:
    """Give the token of a card number under a key."""
    code = hmac.digest(secret, digits.encode("ascii"), "sha256")[:TOKEN_BYTES].hex()
    return f"tok{key_id.removeprefix(TOKENS_OWNER)}-{code.translate(_LETTERS)}"


def key_id_of(token: str) -> str | None:
    """Give the id of the key that a token was made with; `None` if it is no token.

    >>> key_id_of("tok-1-9f3c-" + "a" * 40), key_id_of("c5") is None
    ('card-tokens-1-9f3c', True)
    """
    found = TOKEN.fullmatch(token)
    return TOKENS_OWNER + token[len("tok") : -2 * TOKEN_BYTES - 1] if found else None


class KeysByTime:
    """Which key is in force when: the one with the latest moment that has come.

    >>> keys = KeysByTime([("card-tokens-1-9f3c", TokenKey(b"")), ("card-tokens-2-00aa",
    ...     TokenKey(b"", from_ms=1_000))])
    >>> keys.at(999)[0], keys.at(1_000)[0]
    ('card-tokens-1-9f3c', 'card-tokens-2-00aa')
    """

    def __init__(self, keys: Iterable[tuple[str, TokenKey]]) -> None:
        self._keys = sorted(keys, key=lambda item: item[1].from_ms, reverse=True)
        for (later, key), (earlier, other) in zip(self._keys, self._keys[1:], strict=False):
            if key.from_ms == other.from_ms:
                raise KeyFileError(
                    f"{earlier} and {later} are in force from the same moment on, so a card would "
                    "have two tokens: take one of the files away"
                )

    def at(self, event_time_ms: int) -> tuple[str, TokenKey] | None:
        """Give the key for events of this time, and its id; `None` where none is in force."""
        return next((item for item in self._keys if item[1].from_ms <= event_time_ms), None)
