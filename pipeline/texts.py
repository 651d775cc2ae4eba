"""Columns of texts without a Python object for each event.

A million events name a few thousand cards. `Coded` holds each text once, in a `Vocabulary`, and a
number for each event; what is worked out of a text (its row in a table, its hash) is worked out
once. `Numerals` are ids that are whole numbers. Both are read as a list of texts would be.

>>> cards = Vocabulary().coded(["c7", "c9", "c7"])
>>> cards[0], cards[1:] == ["c9", "c7"], cards.codes.tolist()
('c7', True, [0, 1, 0])
>>> list(Numerals(np.array([7, 12])))
['7', '12']
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

Make = Callable[[Sequence[str]], NDArray[Any]]
"""Works out a column of numbers, one for each text, of nothing but that text."""


class Vocabulary:
    """Different texts, numbered from 0 in the order in which they come; it only grows."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._numbers: dict[str, int] = {}
        self._made: dict[Make, NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self.words)

    def coded(self, texts: Sequence[str]) -> "Coded":
        """Give texts as numbers; a text that is new takes the next."""
        return Coded(self, self.numbers(texts))

    def numbers(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Give the number of each text."""
        # Most batches hold known texts alone, and looking those up needs no loop of Python.
        numbers = list(map(self._numbers.get, texts))
        if None in numbers:
            known = self._numbers
            numbers = [known.setdefault(text, len(known)) for text in texts]
            self.words.extend(list(known)[len(self.words) :])
        return np.array(numbers, np.int32)

    def each(self, make: Make) -> NDArray[Any]:
        """Give what is worked out of each word; `make` is asked of new words only."""
        made = self._made.get(make)
        if made is None:
            made = self._made[make] = make(self.words)
        elif len(made) < len(self.words):
            made = np.concatenate([made, make(self.words[len(made) :])])
            self._made[make] = made
        return made


class _Texts(Sequence[str]):
    """A column of texts that is read like a list and sliced like an array."""

    @abstractmethod
    def take(self, rows: Any) -> Self:
        """Give the texts of these rows, in their order."""

    @abstractmethod
    def _text(self, row: int) -> str:
        """Give the text of one row."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> Self: ...

    def __getitem__(self, place: int | slice) -> str | Self:
        return self.take(place) if isinstance(place, slice) else self._text(place)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class Coded(_Texts):
    """Texts as numbers of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary, codes: NDArray[np.int32]) -> None:
        self.vocabulary, self.codes = vocabulary, codes

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return map(self.vocabulary.words.__getitem__, self.codes.tolist())

    def take(self, rows: Any) -> Self:
        """Give the texts of these rows, in their order."""
        return type(self)(self.vocabulary, self.codes[rows])

    def each(self, make: Make) -> NDArray[Any]:
        """Give what is worked out of each text."""
        made: NDArray[Any] = self.vocabulary.each(make)[self.codes]
        return made

    def _text(self, row: int) -> str:
        return self.vocabulary.words[int(self.codes[row])]


class Numerals(_Texts):
    """Whole numbers that are read as their decimal digits."""

    def __init__(self, values: NDArray[np.int64]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[str]:
        return map(str, self.values.tolist())

    def take(self, rows: Any) -> Self:
        """Give the texts of these rows, in their order."""
        return type(self)(self.values[rows])

    def _text(self, row: int) -> str:
        return str(self.values[row])


def coded(texts: Sequence[str], vocabulary: Vocabulary) -> Coded:
    """Give a column as numbers, of its own vocabulary where it has one."""
    return texts if isinstance(texts, Coded) else vocabulary.coded(texts)


def taken(texts: Sequence[str], rows: NDArray[np.int64]) -> Sequence[str]:
    """Give the texts of these rows, in their order."""
    return texts.take(rows) if isinstance(texts, _Texts) else [texts[row] for row in rows]


def joined(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """Put columns one behind the other; at least one."""
    first = parts[0]
    if isinstance(first, Numerals):
        numbers = [part.values for part in parts if isinstance(part, Numerals)]
        if len(numbers) == len(parts):
            return Numerals(np.concatenate(numbers))
    if isinstance(first, Coded):
        same = first.vocabulary
        codes = [p.codes for p in parts if isinstance(p, Coded) and p.vocabulary is same]
        if len(codes) == len(parts):
            return Coded(same, np.concatenate(codes))
    return list(chain.from_iterable(parts))


def worked_out(texts: Sequence[str], make: Make) -> NDArray[Any]:
    """Give what is worked out of each text, of equal ones once where that is known."""
    return texts.each(make) if isinstance(texts, Coded) else make(texts)
