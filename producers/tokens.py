"""Card numbers become tokens here, before anything is encoded: the one import a producer needs.

>>> import tempfile
>>> from pipeline.keys import init_keys
>>> folder = Path(tempfile.mkdtemp())
>>> _ = init_keys(folder, ["card-tokens"])
>>> tokeniser = Tokeniser(folder)
>>> token = tokeniser.token("4111 1111 1111 1111", event_time_ms=1_793_534_400_000)
>>> token == tokeniser.token("4111111111111111", event_time_ms=0) == tokeniser.token(token, 0)
True
>>> tokeniser.token("4111 1111 1111 1112", event_time_ms=0)
Traceback (most recent call last):
pipeline.errors.DataError: expected a card number of 13 to 19 digits, or its token, got another text
"""

import time
from pathlib import Path
from typing import Self

from pipeline.errors import DataError, KeyFileError
from pipeline.keys import TOKENS_OWNER, TokenKey, token_keys
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.tokens import KeysByTime, digits_of, key_id_of, token_of

EXPECTED = "a card number of 13 to 19 digits, or its token"
# A new key is seen within this time; its moment should be further away.
REFRESH_SECONDS = 10.0


class Tokeniser:
    """Replaces card numbers by tokens, with the keys of a folder (`fraudstream keys`).

    Parameters
    ----------
    keys_dir
        The folder that `tokens/` is in; where that has no key, a `KeyFileError` says so.
    """

    def __init__(self, keys_dir: Path) -> None:
        self._folder = token_keys(keys_dir)
        self._keys = self._read()
        self._read_at = time.monotonic()

    @classmethod
    def of(cls, settings: Settings, schema: Schema) -> Self | None:
        """Give the tokeniser that a schema asks for; `None` where no field holds card numbers."""
        return cls(settings.keys_path) if schema.is_tokenised else None

    def token(self, number: str, event_time_ms: int) -> str:
        """Give the token of a card number, by the key for events of this time.

        Blanks and hyphens between the digits do not matter. A token is given back as it is, if its
        key is here. What else is no card number raises `DataError`, which never shows it. A label
        must name the token of its transaction: give the time of the transaction, not the label's.
        """
        found = self.find(number, event_time_ms)
        if found is None:
            raise DataError(f"expected {EXPECTED}, got {'another text' if number else 'nothing'}")
        return found

    def find(self, number: str, event_time_ms: int) -> str | None:
        """Give the token of a card number as `token` does; `None` if it is no card number."""
        self._refresh()
        digits = digits_of(number)
        if digits is None:
            key_id = key_id_of(number)
            return number if key_id and self._folder.get(key_id) else None
        key = self._keys.at(event_time_ms)
        if key is None:
            raise KeyFileError(
                f"no key of {TOKENS_OWNER} in {self._folder.path} is for events as early as "
                f"{event_time_ms} ms: the one for them was retired, or was never brought here"
            )
        return token_of(digits, key[0], key[1].secret)

    def every(self, number: str) -> dict[str, str]:
        """Give a card number's token under each key, by the key's id, the oldest first.

        For those who have a number and look for what was kept of it: a list of blocked cards, a
        file of chargebacks. Raises `DataError` for what is no card number.
        """
        digits = digits_of(number)
        if digits is None:
            raise DataError("expected a card number of 13 to 19 digits, got another text")
        return {key_id: token_of(digits, key_id, key.secret) for key_id, key in self._all()}

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._read_at > REFRESH_SECONDS:
            self._read_at = now
            self._folder.refresh()
            self._keys = self._read()

    def _read(self) -> KeysByTime:
        keys = self._all()
        if not keys:
            raise KeyFileError(
                f"no key of {TOKENS_OWNER} in {self._folder.path}: make the first one "
                f"(fraudstream keys init --source {TOKENS_OWNER}), or bring it here"
            )
        return KeysByTime(keys)

    def _all(self) -> list[tuple[str, TokenKey]]:
        found = [(key_id, self._folder.get(key_id)) for key_id in self._folder.ids]
        return [(key_id, key) for key_id, key in found if key is not None]
