"""Columns of coded texts: read like lists, numbered like lists, decided like lists."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.card_testing import places_of
from pipeline.durations import HOUR_MS
from pipeline.engine import Decisions
from pipeline.events import Transactions
from pipeline.numbering import Numbering
from pipeline.profiles import counterpart_hashes
from pipeline.replay import Replay, ReplayOptions
from pipeline.settings import Settings
from pipeline.texts import Coded, Numerals, Vocabulary, joined, taken
from tests.strategies import CARD, traffic

WORDS = st.lists(st.sampled_from(["", "a", "b", "ab", "7", "07", "é"]), max_size=30)


@given(first=WORDS, second=WORDS)
def test_coded_texts_are_those_that_were_coded(first: list[str], second: list[str]) -> None:
    vocabulary = Vocabulary()
    parts = [vocabulary.coded(first), vocabulary.coded(second)]

    assert [list(part) for part in parts] == [first, second]
    assert [parts[0][place] for place in range(len(first))] == first
    assert parts[1][1:-1] == second[1:-1]
    assert list(joined(parts)) == first + second
    assert isinstance(joined(parts), Coded)
    assert sorted(vocabulary.words) == sorted(set(first + second))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_numerals_are_read_as_their_digits(values: list[int]) -> None:
    texts = Numerals(np.array(values, np.int64))

    assert list(texts) == [str(value) for value in values]
    assert texts == [texts[place] for place in range(len(values))]
    assert list(joined([texts, texts])) == list(texts) * 2


@pytest.mark.parametrize("texts", [["a", "b", "c"], Vocabulary().coded(["a", "b", "c"])])
def test_rows_are_taken_in_their_order(texts: Sequence[str]) -> None:
    assert list(taken(texts, np.array([2, 0, 2]))) == ["c", "a", "c"]


def test_columns_of_different_kinds_are_joined_as_texts() -> None:
    one, other = Vocabulary().coded(["a"]), Vocabulary().coded(["b", "a"])

    assert joined([one, other, Numerals(np.array([7])), ["x"]]) == ["a", "b", "a", "7", "x"]
    assert joined([Numerals(np.array([7])), one]) == ["7", "a"]


@given(st.lists(st.tuples(WORDS, st.integers(0, 2)), max_size=8))
def test_numbers_are_those_of_plain_texts(batches: list[tuple[list[str], int]]) -> None:
    """Of two vocabularies in turn, and of plain lists between them."""
    numbering, plain, vocabularies = Numbering(), Numbering(), (Vocabulary(), Vocabulary())
    for texts, kind in batches:
        ids = texts if kind == len(vocabularies) else vocabularies[kind].coded(texts)

        assert numbering.of(ids).tolist() == plain.of(texts).tolist()
    assert list(numbering) == list(plain)


@given(first=WORDS, second=WORDS)
def test_what_is_worked_out_of_a_text_is_the_same_coded(
    first: list[str], second: list[str]
) -> None:
    vocabulary = Vocabulary()
    for texts in (first, second):
        ids = vocabulary.coded(texts)

        assert counterpart_hashes(ids).tolist() == counterpart_hashes(texts).tolist()
        assert places_of(ids).tolist() == places_of(texts).tolist()


def coded(batch: Transactions, vocabularies: Sequence[Vocabulary]) -> Transactions:
    columns = (*batch.keys, batch.currency)
    *keys, currency = (
        words.coded(texts) for words, texts in zip(vocabularies, columns, strict=True)
    )
    return replace(batch, keys=tuple(keys), currency=currency)


def test_decisions_and_what_is_learned_are_the_same_of_coded_events() -> None:
    batch = traffic(3, 800, cards=20, terminals=15)
    batch = batch.take(np.argsort(batch.event_time_ms, kind="stable"))
    is_fraud = (batch.amount_minor > 4000).astype(np.int8)
    words = [Vocabulary() for _ in range(len(batch.keys) + 1)]
    said = []
    for is_coded in (False, True):
        decided: list[Decisions] = []
        run = Replay(CARD, Settings(), ReplayOptions(HOUR_MS), decided=decided.append)
        parts = [batch.slice(start, start + 200) for start in range(0, 800, 200)]
        given = [coded(part, words) if is_coded else part for part in parts]
        result = run.run(zip(given, np.split(is_fraud, 4), strict=True), lambda _: None)
        columns = [(part.features.tobytes(), part.scores.tobytes()) for part in decided]
        records = [part.record(0) for part in decided]
        said.append((columns, records, result.quality, result.labels))

    assert said[0] == said[1]
