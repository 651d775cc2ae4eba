"""Ids as numbers from 0, in the order in which they come: what tables of rows are found by.

>>> numbering = Numbering()
>>> numbering.of(["c7", "c9", "c7"]).tolist(), numbering.of(["c9", "c1"]).tolist()
([0, 1, 0], [1, 2])
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.texts import Coded, Vocabulary

NO_NUMBER = -1


class Numbering:
    """Gives each id its number, an id that is new the next."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        # The vocabulary that the latest coded ids were of, and the numbers of its words.
        self._vocabulary: Vocabulary | None = None
        self._of_word = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __getitem__(self, key: str) -> int:
        return self._known[key]

    def of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Give the number of each id."""
        return self._of_codes(ids) if isinstance(ids, Coded) else self._of_texts(ids)

    def _of_texts(self, ids: Sequence[str]) -> NDArray[np.int64]:
        known = self._known
        # Most batches hold known ids alone, and looking those up needs no loop of Python.
        numbers = list(map(known.get, ids))
        if None in numbers:
            return np.array([known.setdefault(key, len(known)) for key in ids], np.int64)
        return np.array(numbers, np.int64)

    def _of_codes(self, ids: Coded) -> NDArray[np.int64]:
        words = ids.vocabulary
        if words is not self._vocabulary:
            self._vocabulary, self._of_word = words, np.empty(0, np.int64)
        if len(self._of_word) < len(words):
            more = np.full(len(words) - len(self._of_word), NO_NUMBER, np.int64)
            self._of_word = np.concatenate([self._of_word, more])
        numbers = self._of_word[ids.codes]
        new = numbers == NO_NUMBER
        if new.any():
            numbers[new] = self._of_texts(ids.take(new))
            self._of_word[ids.codes[new]] = numbers[new]
        return numbers
