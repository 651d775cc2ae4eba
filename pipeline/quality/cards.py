"""Card precision: of the most suspicious cards of a day, how many were truly defrauded.

People look into cards, not transactions, and into so many a day. Two definitions are in use. The
plain one removes nothing. The Fraud Detection Handbook's removes cards that are known to be
compromised by then, so that finding the same card every day counts once; it saturates early, since
few new cards are left each day, and should never be read alone.

>>> day = [0, 1, 2]
>>> card_precision([0.9, 0.8, 0.1], [1, 0, 1], event_time_ms=day, card=[7, 8, 9], top=2)
0.5
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.durations import DAY_MS

CARDS_TOP = 100
# The Handbook's split: seven days of training, seven of waiting for labels, seven of test.
BLOCK_DAYS = 7
KNOWN_FROM_DAYS = 14
KNOWN_TO_DAYS = 8

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CardDays:
    """Cards by UTC day, a row for each card that was seen on a day.

    Parameters
    ----------
    score
        The card's highest score of the day.
    compromised
        Whether any of its events of the day was a fraud.
    """

    day: Ints
    card: Ints
    score: Floats
    compromised: Bools


def card_days(
    scores: ArrayLike, is_fraud: ArrayLike, *, event_time_ms: ArrayLike, card: ArrayLike
) -> CardDays:
    """Fold events to one row for each card and day."""
    score, fraud = np.asarray(scores, np.float64), np.asarray(is_fraud, np.bool_)
    # Of a stream's millions of events a column of half the width is worth having.
    days = (np.asarray(event_time_ms, np.int64) // DAY_MS).astype(np.int32)
    cards = np.asarray(card, np.int32)
    order = np.lexsort((cards, days))
    starts = starts_of(days[order], cards[order])
    first = order[starts]
    return CardDays(
        days[first].astype(np.int64),
        cards[first].astype(np.int64),
        np.maximum.reduceat(score[order], starts) if len(starts) else score,
        np.logical_or.reduceat(fraud[order], starts) if len(starts) else fraud,
    )


def card_precision(
    scores: ArrayLike,
    is_fraud: ArrayLike,
    *,
    event_time_ms: ArrayLike,
    card: ArrayLike,
    top: int = CARDS_TOP,
) -> float | None:
    """Give the mean over UTC days of the share of compromised cards among the `top` suspicious.

    A card is as suspicious as its highest score of the day; of equal ones the lower number is
    first. A day with fewer cards than `top` is still divided by `top`.
    """
    _, shares = plain_by_day(
        card_days(scores, is_fraud, event_time_ms=event_time_ms, card=card), top=top
    )
    return float(shares.mean()) if len(shares) else None


def plain_by_day(cards: CardDays, *, top: int = CARDS_TOP) -> tuple[Ints, Floats]:
    """Give each day, and the share of compromised cards among its `top`; nothing is removed."""
    order = np.lexsort((cards.card, -cards.score, cards.day))
    starts = starts_of(cards.day[order])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    found = cards.compromised[order] & (rank < top)
    counts = np.add.reduceat(found.astype(np.int64), starts) if len(starts) else starts
    return cards.day[order][starts], counts / top


def handbook_by_day(
    cards: CardDays, *, fraud_day: Ints, fraud_card: Ints, top: int = CARDS_TOP
) -> tuple[Ints, Floats]:
    """Give each day, and its card precision by the Handbook's rule.

    Days are cut into blocks of seven from the first one on. On day `d` of a block that begins on
    `D`, cards with a fraud on days `D - 14` to `d - 8` are removed, since their labels are known;
    so are cards that were detected on an earlier day of the block.

    Parameters
    ----------
    fraud_day, fraud_card
        Day and card of every fraud, those before the first day as well.
    """
    days = np.unique(cards.day)
    shares = np.zeros(len(days))
    detected: set[int] = set()
    block = -1
    for place, day in enumerate(days.tolist()):
        number = (day - int(days[0])) // BLOCK_DAYS
        if number != block:
            block, detected = number, set()
        begin = int(days[0]) + number * BLOCK_DAYS
        known = (fraud_day >= begin - KNOWN_FROM_DAYS) & (fraud_day <= day - KNOWN_TO_DAYS)
        removed = np.union1d(fraud_card[known], np.array(sorted(detected), np.int64))
        found = _detected_on(cards, day, removed, top)
        detected |= set(found.tolist())
        shares[place] = len(found) / top
    return days, shares


def _detected_on(cards: CardDays, day: int, removed: Ints, top: int) -> Ints:
    """Give the compromised cards among the day's `top`, once the removed ones are left out."""
    # Rows of `cards` stand in the order of their days.
    rows = slice(*np.searchsorted(cards.day, [day, day + 1]).tolist())
    card, score = cards.card[rows], cards.score[rows]
    kept = ~np.isin(card, removed)
    order = np.lexsort((card[kept], -score[kept]))[:top]
    return card[kept][order][cards.compromised[rows][kept][order]]


def starts_of(*sorted_columns: NDArray[Any]) -> NDArray[np.intp]:
    """Give the rows at which a group of equal values begins."""
    begins = np.zeros(len(sorted_columns[0]), np.bool_)
    begins[:1] = True
    for column in sorted_columns:
        begins[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(begins)
