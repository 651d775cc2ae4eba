"""What a chargeback's reason code says: somebody else paid, the cardholder did, or neither.

The table of the main schemes is data (`schemas/codes/chargebacks.toml`), and a mapping may add to
it. A code that is not known is no guess: it has no meaning, and a person must look.

>>> codes = ReasonCodes.shipped()
>>> codes.meaning("10.4", "Visa"), codes.meaning("4853 Cardholder dispute"), codes.meaning("99")
('fraud', 'genuine', None)
>>> codes.with_own({"99": "fraud"}).meaning("99")
'fraud'
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import msgspec

Meaning = Literal["fraud", "genuine", "ignore"]

# Names that files give to the schemes, without blanks and in lower case.
SCHEMES = {
    "visa": ("visa", "vi", "vs"),
    "mastercard": ("mastercard", "mc", "master", "maestro"),
    "amex": ("amex", "americanexpress", "ax", "ae"),
    "discover": ("discover", "ds", "di", "diners", "dinersclub", "dn"),
}
_CODE = re.compile(r"[A-Z0-9.]+")


@dataclass(frozen=True, slots=True)
class ReasonCodes:
    """Codes of the schemes, and a mapping's own, which go first."""

    schemes: Mapping[str, Mapping[str, Meaning]]
    own: Mapping[str, Meaning]

    @classmethod
    def shipped(cls) -> "ReasonCodes":
        """Give the table that comes with the package."""
        place = resources.files("schemas").joinpath("codes", "chargebacks.toml")
        tables = tomllib.loads(place.read_text(encoding="utf-8"))
        return cls(msgspec.convert(tables, dict[str, dict[str, Meaning]]), {})

    def with_own(self, own: Mapping[str, Meaning]) -> "ReasonCodes":
        """Give a table in which these codes mean what is said here, whatever the scheme."""
        return ReasonCodes(self.schemes, {_normal(code): said for code, said in own.items()})

    def meaning(self, text: str, scheme: str = "") -> Meaning | None:
        """Say what a code means; `None` where nobody knows, or schemes disagree."""
        whole, first = _normal(text), _CODE.match(_normal(text))
        codes = list(dict.fromkeys([whole, *([first[0].strip(".")] if first else [])]))
        for code in codes:
            if code in self.own:
                return self.own[code]
        name = scheme.lower().replace(" ", "")
        tables = [table for key, table in self.schemes.items() if name in SCHEMES[key]]
        for code in codes:
            found = {table[code] for table in tables or self.schemes.values() if code in table}
            if found:
                return found.pop() if len(found) == 1 else None
        return None


def _normal(code: str) -> str:
    return code.strip().upper()
