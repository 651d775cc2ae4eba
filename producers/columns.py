"""Columns of a file into columns of a batch, exactly or with an error that says where not.

Each function takes one column of a chunk and gives what an `EventBatch` holds. Rows are counted
from 1, without the header. Values of ids are never shown, since a card number may be among them.

>>> amounts(Column("day.csv", "amount", 1, pd.Series(["9.50", "0"])), 2).tolist()
[950, 0]
>>> amounts(Column("day.csv", "amount", 1, pd.Series(["9.505"])), 2)
Traceback (most recent call last):
producers.columns.ColumnError: day.csv: row 1, column 'amount': expected an amount ..., got '9.505'
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.card_numbers import (
    LENGTH_MIN,
    NUMBER_MIN,
    holds_card_number,
    is_card_number,
    mask_card_numbers_in_text,
)
from pipeline.currencies import CURRENCIES
from pipeline.errors import DataError
from pipeline.events import (
    AMOUNT_MINOR_MAX,
    EVENT_TIME_MS_MAX,
    EVENT_TIME_MS_MIN,
    NUMBER_MAX,
)
from pipeline.incumbent import Incumbent, IncumbentReader
from pipeline.schema import RESPONSE
from pipeline.texts import Coded, Numerals, Vocabulary
from producers.batch import LABEL_UNKNOWN
from producers.tokens import EXPECTED, Tokeniser

CATEGORY_NONE = "none"
CATEGORY_LENGTH_MAX = 64

# Milliseconds since 1970 passed this in March 1973; seconds will not before the year 5138.
EPOCH_MS_PLAUSIBLE = 100_000_000_000
# A float that stands for a decimal amount is this near to a whole minor unit, or is none.
MINOR_TOLERANCE = 1e-6
# Up to here, a float's own error at the scale of minor units is far below the tolerance.
FLOAT_EXACT_MINOR_MAX = 100_000_000

VERDICTS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGITS = re.compile(r"-?[0-9]{1,18}")


class ColumnError(DataError):
    """Some values of a column do not fit: `wrong` marks them all, the text says the first."""

    def __init__(self, text: str, wrong: NDArray[np.bool_], expected: str, got: str) -> None:
        super().__init__(text)
        self.wrong, self.expected, self.got = wrong, expected, got


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a chunk, with what is needed to say where something is wrong."""

    file: str
    name: str
    first_row: int
    values: "pd.Series[Any]"

    def shown(self, place: int) -> str:
        """Give a value to show, cut short, and masked if a card number slipped into this column."""
        return repr(mask_card_numbers_in_text(str(self.values.iloc[place]))[:40])

    def check(
        self, wrong: NDArray[np.bool_], expected: str, *, show: bool = True, got: str | None = None
    ) -> None:
        """Refuse the rows that are marked; `show` a value unless that may be a secret."""
        if wrong.any():
            place = int(np.argmax(wrong))
            if got is None:
                got = self.shown(place) if show else "another text"
                got = "nothing" if bool(self.values.isna().iloc[place]) else got
            self._refuse(wrong, place, expected, got)

    def _refuse(self, wrong: NDArray[np.bool_], place: int, expected: str, got: str) -> NoReturn:
        row = self.first_row + place
        raise ColumnError(
            f"{self.file}: row {row:,}, column {self.name!r}: expected {expected}, got {got}",
            wrong, expected, got,
        )  # fmt: skip


def _texts(values: "pd.Series[Any]") -> list[str]:
    """Give values as text; those that are missing become empty."""
    if pd.api.types.is_integer_dtype(values.dtype):
        return [str(value) for value in values.tolist()]
    missing = values.isna()
    if missing.any():
        values = values.astype(object).where(~missing, "")
    return [value if type(value) is str else str(value) for value in values.tolist()]


def _distinct(values: "pd.Series[Any]") -> tuple[NDArray[np.intp], list[str]]:
    """Give the number of each value's text, and the different texts."""
    dtype = values.dtype
    # Of other types two values may be equal whose texts are not.
    if isinstance(dtype, pd.StringDtype) or (isinstance(dtype, np.dtype) and dtype.kind in "iu"):
        codes, distinct = pd.factorize(values, use_na_sentinel=False)
        return codes, _texts(pd.Series(distinct))
    vocabulary = Vocabulary()
    codes = vocabulary.numbers(_texts(values)).astype(np.intp)
    return codes, vocabulary.words


def ids(column: Column) -> Sequence[str]:
    """Read ids of which most differ, such as those of events."""
    dtype = column.values.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "iu" and dtype != np.uint64:
        numbers = column.values.to_numpy(dtype=np.int64)
        wrong = np.zeros(len(numbers), np.bool_)
        long = (numbers >= NUMBER_MIN) | (numbers <= -NUMBER_MIN)
        for place in np.flatnonzero(long).tolist():
            wrong[place] = holds_card_number(str(numbers[place]))
        column.check(wrong, "a token", got="a card number")
        return Numerals(numbers.copy())
    texts = _texts(column.values)
    _check_ids(column, texts, np.arange(len(texts)))
    return texts


def repeated_ids(column: Column, vocabulary: Vocabulary) -> Coded:
    """Read ids that come again and again, such as those of cards: each is looked at once."""
    codes, distinct = _distinct(column.values)
    _check_ids(column, distinct, codes)
    return Coded(vocabulary, vocabulary.numbers(distinct)[codes])


def _check_ids(column: Column, texts: Sequence[str], codes: NDArray[np.intp]) -> None:
    matches = _ID.fullmatch
    wrong = np.fromiter((matches(text) is None for text in texts), np.bool_, len(texts))
    column.check(wrong[codes], "an id of 1 to 64 letters, digits, - and _", show=False)
    _check_no_card_number(column, texts, codes, "a token")


def tokens(column: Column, times: NDArray[np.int64], tokeniser: Tokeniser) -> list[str]:
    """Replace card numbers by their tokens, each by the key for the time of its event."""
    texts = _texts(column.values)
    found = [tokeniser.find(text, time) for text, time in zip(texts, times.tolist(), strict=True)]
    column.check(np.array([token is None for token in found], np.bool_), EXPECTED, show=False)
    return [token or "" for token in found]


def _check_no_card_number(
    column: Column, texts: Sequence[str], codes: NDArray[np.intp], expected: str
) -> None:
    wrong = [len(text) >= LENGTH_MIN and holds_card_number(text) for text in texts]
    column.check(np.array(wrong, np.bool_)[codes], expected, got="a card number")


def times(column: Column) -> NDArray[np.int64]:
    column.check(column.values.isna().to_numpy(), "a time")
    if pd.api.types.is_datetime64_any_dtype(column.values.dtype):
        times = _milliseconds(column.values)
    elif pd.api.types.is_integer_dtype(column.values.dtype):
        times = _plausible(column, column.values.to_numpy(dtype=np.int64))
    else:
        times = _times_of_text(column)
    wrong = (times < EVENT_TIME_MS_MIN) | (times > EVENT_TIME_MS_MAX)
    column.check(wrong, "a time of the years 2000 to 2100")
    return times


def _milliseconds(moments: "pd.Series[Any]") -> NDArray[np.int64]:
    if isinstance(moments.dtype, pd.DatetimeTZDtype):
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return moments.to_numpy(dtype="datetime64[ms]").astype(np.int64)


def _times_of_text(column: Column) -> NDArray[np.int64]:
    texts = column.values.astype(str)
    if _DIGITS.fullmatch(texts.iloc[0]):
        wrong = [_DIGITS.fullmatch(text) is None for text in texts]
        column.check(np.array(wrong), "whole milliseconds since 1970, as in the row before")
        return _plausible(column, np.asarray(texts.astype(np.int64), dtype=np.int64))
    moments = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    column.check(moments.isna().to_numpy(), "a time as RFC 3339, such as 2026-11-01T12:00:00Z")
    return _milliseconds(moments)


def _plausible(column: Column, times: NDArray[np.int64]) -> NDArray[np.int64]:
    if (np.abs(times) < EPOCH_MS_PLAUSIBLE).all():
        got = f"{times[0]} (all below 10^11: seconds? multiply them by 1000)"
        column.check(np.ones(len(times), np.bool_), "whole milliseconds since 1970", got=got)
    return times


def amounts(column: Column, digits: int) -> NDArray[np.int64]:
    """Turn amounts into minor units: by floats where they cannot err, else digit by digit."""
    values = column.values
    scaled = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64) * 10.0**digits
    nearest = np.rint(scaled)
    # Half of the tolerance leaves the other half to the float's own error. A float of 32 bits is
    # too coarse: its shortest decimal is the number that was written.
    with np.errstate(invalid="ignore"):
        certain = np.abs(scaled - nearest) <= MINOR_TOLERANCE / 2
        certain &= (nearest >= 0) & (nearest <= FLOAT_EXACT_MINOR_MAX)
    certain &= ~np.signbit(scaled) | (scaled == 0)
    certain &= values.dtype != np.float32
    amounts = np.where(certain, nearest, 0).astype(np.int64)
    wrong = np.zeros(len(values), np.bool_)
    for place in np.flatnonzero(~certain):
        exact = _exact(str(values.iloc[place]), digits)
        if exact is None:
            wrong[place] = True
        else:
            amounts[place] = exact
    limit = f"{Decimal(AMOUNT_MINOR_MAX).scaleb(-digits):,}"
    column.check(wrong, f"an amount of 0 to {limit} with at most {digits} decimal places")
    return amounts


def _exact(text: str, digits: int) -> int | None:
    try:
        scaled = Decimal(text).scaleb(digits)
    except InvalidOperation:
        return None
    if not (scaled.is_finite() and 0 <= scaled <= AMOUNT_MINOR_MAX):
        return None
    whole = scaled.to_integral_value(ROUND_HALF_EVEN)
    return int(whole) if abs(scaled - whole) <= Decimal(str(MINOR_TOLERANCE)) else None


def numbers(column: Column) -> NDArray[np.float32]:
    """Read numbers as floats of 32 bits; those that are missing become NaN."""
    values = column.values
    numbers = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        wrong = np.isnan(numbers) & ~values.isna().to_numpy() | (np.abs(numbers) > NUMBER_MAX)
    column.check(wrong, "a number")
    wrong = np.zeros(len(numbers), np.bool_)
    for place in np.flatnonzero(numbers >= NUMBER_MIN).tolist():
        wrong[place] = is_card_number(f"{numbers[place]:.0f}")
    column.check(wrong, "another number", got="a card number")
    return numbers.astype(np.float32)


def currencies(column: Column, default: str, vocabulary: Vocabulary | None = None) -> Coded:
    codes, distinct = _distinct(column.values)
    texts = [text or default for text in distinct]
    wrong = np.array([text not in CURRENCIES for text in texts], np.bool_)
    column.check(wrong[codes], "a currency code such as EUR")
    vocabulary = Vocabulary() if vocabulary is None else vocabulary
    return Coded(vocabulary, vocabulary.numbers(texts)[codes])


def categories(column: Column, vocabulary: Vocabulary | None = None) -> Coded:
    codes, distinct = _distinct(column.values)
    texts = [text or CATEGORY_NONE for text in distinct]
    wrong = np.array([len(text) > CATEGORY_LENGTH_MAX for text in texts], np.bool_)
    column.check(wrong[codes], f"a text of at most {CATEGORY_LENGTH_MAX} characters")
    _check_no_card_number(column, texts, codes, "another text")
    vocabulary = Vocabulary() if vocabulary is None else vocabulary
    return Coded(vocabulary, vocabulary.numbers(texts)[codes])


def declined(column: Column, codes: Sequence[str]) -> NDArray[np.bool_]:
    """Read how attempts were answered: whether the code is one of a refusal; none is not."""
    numbers, distinct = _distinct(column.values)
    wrong = [bool(text) and RESPONSE.fullmatch(text) is None for text in distinct]
    column.check(np.array(wrong, np.bool_)[numbers], "a code of 1 to 32 letters, digits, - and _")
    return np.array([text in codes for text in distinct], np.bool_)[numbers]


def incumbents(
    score: Column | None, action: Column | None, reader: IncumbentReader
) -> list[Incumbent | None]:
    """Read what the present system said; a value that does not fit is refused, unlike on a stream.

    A file is mended once, and a comparison that lacks some of it would mislead.
    """
    given = [column for column in (score, action) if column is not None]
    if not given:
        return []
    count = len(given[0].values)
    scores = [None] * count if score is None else _incumbent_scores(score, reader)
    words = [None] * count if action is None else [text or None for text in _texts(action.values)]
    if action is not None:
        unknown = np.array([word is not None and word not in reader.words for word in words])
        action.check(unknown, f"one of {', '.join(reader.words)}")
    return [reader.read(*said) for said in zip(scores, words, strict=True)]


def _incumbent_scores(column: Column, reader: IncumbentReader) -> list[float | None]:
    values = np.asarray(pd.to_numeric(column.values, errors="coerce"), dtype=np.float64)
    missing = column.values.isna().to_numpy()
    fits = [reader.ratio(value) is not None for value in values.tolist()]
    column.check(~(missing | np.array(fits, np.bool_)), "a number on the scale of the schema")
    pairs = zip(values.tolist(), missing.tolist(), strict=True)
    return [None if absent else value for value, absent in pairs]


def labels(column: Column) -> NDArray[np.int8]:
    codes, distinct = _distinct(column.values)
    texts = [text.lower() for text in distinct]
    wrong = np.array([bool(text) and text not in VERDICTS for text in texts], np.bool_)
    column.check(wrong[codes], "a label of 0 or 1 (or false or true, or nothing)")
    return np.array([VERDICTS.get(text, LABEL_UNKNOWN) for text in texts], np.int8)[codes]


def scenarios(column: Column) -> NDArray[np.int8]:
    numbers = pd.to_numeric(column.values, errors="coerce").to_numpy(dtype=np.float64)
    return np.where((numbers >= 0) & (numbers <= np.iinfo(np.int8).max), numbers, 0).astype(np.int8)
