"""What a column of an unknown table looks like: its values' form, and how sure that is.

Names are split into words, since `TX_DATETIME`, `txDateTime` and `tx datetime` say the same. Forms
are judged on distinct values, so that one common value does not speak for the others.

>>> words_of("TX_DATETIME"), words_of("cardHolderId"), words_of("amt_eur2")
(('tx', 'datetime'), ('card', 'holder', 'id'), ('amt', 'eur'))
>>> profile_of("when", pd.Series(["01.02.2026 10:00", "28.02.2026 11:30"])).time
TimeForm(name='%d.%m.%Y %H:%M', loads=False, has_clock=True, is_ambiguous=False)
>>> profile_of("price", pd.Series(["1,50", "2,75", "2,75"])).numeric
'comma'
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.card_numbers import is_card_number, mask_card_numbers
from pipeline.events import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN
from producers import columns
from producers.columns import Column, ColumnError

# Forms are judged on so many distinct values, and dates of uncommon forms on fewer.
FORM_VALUES_MAX = 20_000
DATE_VALUES_MAX = 1_000
EXAMPLES = 3
EXAMPLE_LENGTH_MAX = 24
# A column is of a form if so large a part of its values is: a file may hold a few slips.
OF_FORM = 0.98

Numeric = Literal["whole", "decimal", "comma", "grouped", "money"]

# What a float may be off a whole number of minor units, as for `columns.amounts`.
FLOAT_ERROR = 1e-6
DECIMALS_MAX = 5

# In this order: the first that nearly all values have.
NUMERIC: dict[Numeric, re.Pattern[str]] = {
    "whole": re.compile(r"[-+]?[0-9]{1,18}"),
    "decimal": re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"),
    "grouped": re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[-+]?[0-9]+(?:\.[0-9]+)?"),
    "comma": re.compile(r"[-+]?(?:[0-9]{1,3}(?:[.' ][0-9]{3})+|[0-9]+)(?:,[0-9]{1,4})?"),
    "money": re.compile(
        r"[-+]?(?:[A-Z]{3}|[$€£¥]) ?[-+]?[0-9][0-9.,' ]*"
        r"|[-+]?[0-9][0-9.,' ]* ?(?:[A-Z]{3}|[$€£¥])"
    ),
}
EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")
IP = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|(?=.*:.*:)[0-9a-fA-F:]{3,39}")
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")

ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)?"
    r" ?(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
)
CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?: ?[AaPp][Mm])?")
DAYS = (
    *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y"),
    *("%b %d %Y", "%b %d, %Y", "%B %d, %Y", "%Y%m%d"),
)
CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p", "T%H:%M:%S")
WHOLE_FORMS = ("%a, %d %b %Y %H:%M:%S %z", "%Y%m%d%H%M%S", "%d/%b/%Y:%H:%M:%S %z")
DATES = (*(day + clock for day, clock in product(DAYS, CLOCKS)), *WHOLE_FORMS)
SWAPPED = str.maketrans({"d": "m", "m": "d"})

TIME_WORDS = frozenset(
    ("time", "date", "datetime", "timestamp", "ts", "at", "when", "created", "placed", "occurred")
    + ("epoch", "day", "dt", "zeit", "datum", "posted", "processed", "moment")
)
# Digits since 1970, and what makes milliseconds of them.
EPOCHS = {10: ("epoch seconds", 1_000, 1), 13: ("epoch milliseconds", 1, 1)}
EPOCHS |= {16: ("epoch microseconds", 1, 1_000), 19: ("epoch nanoseconds", 1, 1_000_000)}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")


@dataclass(frozen=True, slots=True)
class TimeForm:
    """How a column writes times, and whether `fraudstream` reads them so."""

    name: str
    loads: bool
    has_clock: bool = True
    is_ambiguous: bool = False


def words_of(name: str) -> tuple[str, ...]:
    """Split a column's name into its words, in lower case and without digits."""
    return tuple(word.lower() for word in _WORD.findall(name))


@dataclass(frozen=True)
class Profile:
    """A column: its values as they were read, and what they look like."""

    name: str
    values: "pd.Series[Any]"

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the name."""
        return words_of(self.name)

    @cached_property
    def texts(self) -> "pd.Series[Any]":
        """The values that are there, as text."""
        return self.values.dropna().map(str).astype(object)

    @cached_property
    def uniques(self) -> list[str]:
        """The distinct values, in the order in which they come."""
        return [str(text) for text in self.texts.unique().tolist()]

    @cached_property
    def forms(self) -> list[str]:
        """The distinct values that forms are judged on."""
        return [text.strip() for text in self.uniques[:FORM_VALUES_MAX]]

    @property
    def rows(self) -> int:
        """How many rows were looked at."""
        return len(self.values)

    @property
    def nulls(self) -> int:
        """How many of them have no value."""
        return self.rows - len(self.texts)

    @property
    def distinct(self) -> int:
        """How many different values there are."""
        return len(self.uniques)

    @property
    def is_unique(self) -> bool:
        """Whether each row has a value that no other has."""
        return self.distinct == self.rows > 0

    def share(self, form: re.Pattern[str]) -> float:
        """Give the part of the distinct values that have a form."""
        return sum(map(bool, map(form.fullmatch, self.forms))) / max(len(self.forms), 1)

    @cached_property
    def card_numbers(self) -> float:
        """The part of the distinct values that are payment card numbers."""
        found = sum(is_card_number(re.sub("[ -]", "", text)) for text in self.forms)
        return found / max(len(self.forms), 1)

    @cached_property
    def numeric(self) -> Numeric | None:
        """How numbers are written, if the values are numbers."""
        if pd.api.types.is_bool_dtype(self.values.dtype) or not self.forms:
            return None
        return next((name for name, form in NUMERIC.items() if self.share(form) >= OF_FORM), None)

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The values as floats, NaN where there is none; for looking at, never for money."""
        return np.asarray(pd.to_numeric(self.values, errors="coerce"), dtype=np.float64)

    @cached_property
    def decimals(self) -> int:
        """The most digits behind the point, trailing zeros and a float's own error aside."""
        if pd.api.types.is_float_dtype(self.values.dtype):
            numbers = self.numbers[np.isfinite(self.numbers)]
            scaled = (numbers * 10.0**digits for digits in range(DECIMALS_MAX))
            exact = (bool((np.abs(item - np.rint(item)) < FLOAT_ERROR).all()) for item in scaled)
            return next((digits for digits, good in enumerate(exact) if good), DECIMALS_MAX)
        tails = (text.partition(".")[2].rstrip("0") for text in self.forms if "." in text)
        return max((len(tail) for tail in tails if tail.isdigit()), default=0)

    @cached_property
    def time(self) -> TimeForm | None:
        """How times are written, if the values are times."""
        if pd.api.types.is_datetime64_any_dtype(self.values.dtype):
            clocks = self.values.dropna()
            has_clock = bool((clocks != clocks.dt.normalize()).any())
            return TimeForm("datetime", self._is_read, has_clock)
        if not self.forms:
            return None
        if self.numeric == "whole":
            return self._epoch()
        if self.share(ISO) >= OF_FORM and _fits(self.forms, "ISO8601") >= OF_FORM:
            return TimeForm("RFC 3339", self._is_read, any(":" in text for text in self.forms))
        return self._date()

    @property
    def _is_read(self) -> bool:
        """Whether reading takes nearly all of the values for times."""
        values = pd.Series(self.values.dropna().unique()[:FORM_VALUES_MAX])
        try:
            columns.times(Column("", self.name, 1, values))
        except ColumnError as error:
            return 1 - float(error.wrong.mean()) >= OF_FORM
        return True

    def _epoch(self) -> TimeForm | None:
        """Whole numbers are times only where the name says so: ids have ten digits too."""
        if not TIME_WORDS.intersection(self.words):
            return None
        for digits, (name, times, part) in EPOCHS.items():
            in_range = sum(
                len(text) == digits
                and text.isdigit()
                and EVENT_TIME_MS_MIN <= int(text) * times // part <= EVENT_TIME_MS_MAX
                for text in self.forms
            )
            if in_range >= OF_FORM * len(self.forms):
                return TimeForm(name, self._is_read)
        return self._date()

    def _date(self) -> TimeForm | None:
        some = self.forms[:DATE_VALUES_MAX]
        if not 6 <= min(map(len, some)) <= max(map(len, some)) <= 32:  # noqa: PLR2004
            return None
        few = [name for name in DATES if _fits(some[:5], name) == 1.0]
        found = [name for name in few if _fits(some, name) >= OF_FORM]
        if not found:
            return None
        swapped = found[0].translate(SWAPPED)
        has_clock = "%H" in found[0] or "%I" in found[0]
        return TimeForm(found[0], self._is_read, has_clock, swapped in found[1:])

    @property
    def is_clock(self) -> bool:
        """Whether the values are times of day without a date."""
        return bool(self.forms) and self.share(CLOCK) >= OF_FORM

    def evidence(self, *, examples: bool = True) -> str:
        """Say what was seen, in a few words that never hold a card number."""
        said = [f"{self.distinct:,} distinct" if not self.is_unique else "all distinct"]
        if self.nulls:
            said.append(f"{self.nulls / max(self.rows, 1):.1%} empty")
        if examples and self.forms:
            said.append("such as " + ", ".join(map(shown, self.forms[:EXAMPLES])))
        return ", ".join(said)


def profile_of(name: str, values: "pd.Series[Any]") -> Profile:
    """Give the profile of a column."""
    return Profile(name, values)


def shown(text: str) -> str:
    """Give a value so that it may be shown: one short line without a card number.

    >>> shown("4111 1111 1111 1111"), shown("a\\nb")
    ('**** **** **** ****', 'a?b')
    """
    masked = mask_card_numbers(text.encode("utf-8", "replace")).decode("utf-8", "replace")
    line = "".join(letter if letter.isprintable() else "?" for letter in masked)
    return line if len(line) <= EXAMPLE_LENGTH_MAX else line[:EXAMPLE_LENGTH_MAX] + "..."


def _fits(texts: list[str], form: str) -> float:
    try:
        moments = pd.to_datetime(
            pd.Series(texts, dtype=object), format=form, errors="coerce", utc=True
        )
    except (ValueError, OverflowError):
        return 0.0
    return float(moments.notna().mean())
