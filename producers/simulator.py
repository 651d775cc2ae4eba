"""Seeded card traffic after the Fraud Detection Handbook's published description.

Customers and terminals lie in a square; a customer pays around home, in amounts and at times of
the day that are usual for that customer. Frauds follow the Handbook's three scenarios: a large
amount, a compromised terminal, a stolen card. Three things are added, since they are what a stream
must withstand: a drift day, from which on customers spend more and fraudsters act differently;
bursts of card testing; and the issuer's refusals, of most attempts of a burst and of few others.

Each day has a random generator of its own, made from the seed and the day, so that any day can be
made alone; and no more than the population and one day is ever in memory. (Le Borgne, Siblini,
Lebichot, Bontempi: Reproducible Machine Learning for Credit Card Fraud Detection, "Transaction
data simulator".)

>>> day = next(simulate(SimulatorOptions(customers=100, terminals=200, seed=7)))
>>> len(day), day.transaction_id[0], day.keys[0][0], day.keys[1][0], day.amount_minor[0].item()
(175, 't-0-0', 'c44', 'm85', 5402)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingError
from pipeline.events import no_numbers
from producers.batch import EventBatch
from producers.population import (
    MEAN_DAILY_TRANSACTIONS_MAX,
    Floats,
    Integers,
    Population,
    Random,
)

CURRENCY = "EUR"
MINOR_UNITS = 100
DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600
# Day and number together stay below the 13 digits at which an id could be read as a card number.
DAYS_MAX = 9_999
POPULATION_MAX = 20_000_000

TIME_OF_DAY_SECONDS_MEAN = DAY_SECONDS / 2
TIME_OF_DAY_SECONDS_DEVIATION = 20_000.0
# The share of that normal distribution that falls within the day.
WITHIN_DAY_SHARE = 0.9692

GENUINE, LARGE_AMOUNT, COMPROMISED_TERMINAL, STOLEN_CARD, CARD_TESTING = range(5)
LARGE_AMOUNT_MINOR = 22_000
TERMINAL_DAYS = 28
TERMINALS_A_DAY = 2 / 10_000
CARD_DAYS = 14
CARDS_A_DAY = 3 / 5_000
STOLEN_SHARE = 1 / 3
STOLEN_AMOUNT_FACTOR = 5

BURST_CARDS = 300
BURST_AMOUNT_MINOR_MAX = 200
BURST_ZERO_SHARE = 0.3
BURST_DECLINED_SHARE = 0.8
DECLINED_SHARE = 0.02

_POPULATION, _TRAFFIC, _TERMINALS, _CARDS, _BURSTS, _ANSWERS = range(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What changes from a day on; the default changes amounts, pattern and mix together.

    Parameters
    ----------
    day
        First day of the new behaviour, counted from 0.
    amount_factor
        Every customer's amounts grow by this factor.
    band_minor
        Instead of a large amount, an amount from the first to below the second is fraud (cents).
    terminal_factor, card_factor
        How many times as many terminals and cards are compromised each day.
    """

    day: int
    amount_factor: float = 1.3
    band_minor: tuple[int, int] = (9_980, 10_000)
    terminal_factor: float = 0.5
    card_factor: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The world to simulate; defaults are the Handbook's.

    Parameters
    ----------
    customers, terminals
        Size of the population; a customer has one card.
    days, first_day
        How many days are made, and the number of the first; day 0 is `start`.
    radius
        A customer pays at terminals within this distance, in a square of side 100.
    burst_days
        Days with one burst of card testing each.
    bursts_a_day
        Expected number of further bursts each day, on seeded random days.
    fraud_scale
        How many times as many terminals and cards are compromised each day.
    """

    customers: int = 5_000
    terminals: int = 10_000
    days: int = 183
    first_day: int = 0
    seed: int = 7
    start: date = date(2018, 4, 1)
    radius: float = 5.0
    drift: Drift | None = None
    burst_days: tuple[int, ...] = ()
    bursts_a_day: float = 0.0
    fraud_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("customers", "terminals"):
            if not 1 <= getattr(self, name) <= POPULATION_MAX:
                raise SettingError(
                    f"{name} must be 1 to {POPULATION_MAX} (got {getattr(self, name)})"
                )
        if self.days < 0 or not 0 <= self.first_day <= DAYS_MAX - self.days:
            raise SettingError(
                f"first_day ({self.first_day}) and days ({self.days}) must not be negative, "
                f"nor more than {DAYS_MAX} together"
            )
        if self.seed < 0 or self.radius <= 0 or min(self.bursts_a_day, self.fraud_scale) < 0:
            raise SettingError(
                f"seed ({self.seed}), bursts_a_day ({self.bursts_a_day}) and fraud_scale "
                f"({self.fraud_scale}) must not be negative, radius ({self.radius}) must be above 0"
            )


def simulate(options: SimulatorOptions) -> Iterator[EventBatch]:
    """Give one batch a day, in event-time order; the same options give the same bits."""
    world = Population.of(
        _random(options.seed, _POPULATION), options.customers, options.terminals, options.radius
    )
    for day in range(options.first_day, options.first_day + options.days):
        yield _batch(world, day, _sorted(_day(world, options, day)), options)


def expected_transactions(options: SimulatorOptions) -> int:
    """Estimate how many transactions there will be, to show how far a run has come."""
    a_day = options.customers * MEAN_DAILY_TRANSACTIONS_MAX / 2 * WITHIN_DAY_SHARE
    return round(a_day * options.days)


def _random(seed: int, stream: int, day: int = 0) -> Random:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, day)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Transactions of one day as numbers, in any order."""

    seconds: Floats
    customer: Integers
    terminal: Integers
    amount_minor: Integers
    scenario: NDArray[np.int8]


def _day(world: Population, options: SimulatorOptions, day: int) -> _Rows:
    random = _random(options.seed, _TRAFFIC, day)
    drift = options.drift if options.drift and day >= options.drift.day else None
    seconds, customer = _visits(random, world)
    amount = _amounts(random, world.mean_amount[customer])
    amount_minor = _minor(amount * drift.amount_factor if drift else amount)
    terminal = world.terminals_of(random, customer)
    scenario = _large_amounts(amount_minor, drift)
    terminals, cards = _compromised(options, day)
    scenario[terminals[terminal]] = COMPROMISED_TERMINAL
    stolen = cards[customer] & (random.random(len(customer)) < STOLEN_SHARE)
    scenario[stolen] = STOLEN_CARD
    amount_minor[stolen] *= STOLEN_AMOUNT_FACTOR
    usual = _Rows(seconds, customer, terminal, amount_minor, scenario)
    return _joined([usual, *_bursts(options, day)])


def _visits(random: Random, world: Population) -> tuple[Floats, Integers]:
    count = random.poisson(world.mean_daily)
    customer = np.repeat(np.arange(len(count)), count)
    seconds = random.normal(TIME_OF_DAY_SECONDS_MEAN, TIME_OF_DAY_SECONDS_DEVIATION, len(customer))
    within = (seconds > 0) & (seconds < DAY_SECONDS)
    return seconds[within], customer[within]


def _amounts(random: Random, mean: Floats) -> Floats:
    amount = random.normal(mean, mean / 2)
    return np.where(amount < 0, random.uniform(0, 2 * mean), amount)


def _minor(amount: Floats) -> Integers:
    return np.rint(amount * MINOR_UNITS).astype(np.int64)


def _large_amounts(amount_minor: Integers, drift: Drift | None) -> NDArray[np.int8]:
    if drift is None:
        chosen = amount_minor > LARGE_AMOUNT_MINOR
    else:
        low, high = drift.band_minor
        chosen = (amount_minor >= low) & (amount_minor < high)
    return np.where(chosen, LARGE_AMOUNT, GENUINE).astype(np.int8)


def _compromised(
    options: SimulatorOptions, day: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Give which terminals and which cards are in a fraudster's hands on this day."""
    drift = options.drift or Drift(day=DAYS_MAX + 1)

    def rate(usual: float, factor: float) -> Callable[[int], float]:
        usual *= options.fraud_scale
        return lambda begun: usual * (factor if begun >= drift.day else 1.0)

    terminals = _taken(
        options.seed,
        _TERMINALS,
        options.terminals,
        range(day - TERMINAL_DAYS + 1, day + 1),
        rate(TERMINALS_A_DAY * options.terminals, drift.terminal_factor),
    )
    cards = _taken(
        options.seed,
        _CARDS,
        options.customers,
        range(day - CARD_DAYS + 1, day + 1),
        rate(CARDS_A_DAY * options.customers, drift.card_factor),
    )
    return terminals, cards


def _taken(
    seed: int, stream: int, population: int, days: range, rate: Callable[[int], float]
) -> NDArray[np.bool_]:
    """Mark what was compromised on any of these days; each day's choice is made from its seed."""
    taken = np.zeros(population, dtype=np.bool_)
    for begun in days:
        if begun >= 0:
            random = _random(seed, stream, begun)
            count = min(_whole(random, rate(begun)), population)
            taken[random.choice(population, count, replace=False)] = True
    return taken


def _whole(random: Random, expected: float) -> int:
    """Round at random so that the mean is kept: a small world has a fraud now and then."""
    return int(expected + random.random())


def _bursts(options: SimulatorOptions, day: int) -> list[_Rows]:
    random = _random(options.seed, _BURSTS, day)
    count = options.burst_days.count(day) + int(random.poisson(options.bursts_a_day))
    return [_burst(random, options) for _ in range(count)]


def _burst(random: Random, options: SimulatorOptions) -> _Rows:
    """Try many cards at one terminal within an hour, for next to nothing or for nothing."""
    cards = min(BURST_CARDS, options.customers)
    amount = random.integers(1, BURST_AMOUNT_MINOR_MAX, cards, endpoint=True)
    amount[random.random(cards) < BURST_ZERO_SHARE] = 0
    begin = random.uniform(0, DAY_SECONDS - HOUR_SECONDS)
    return _Rows(
        seconds=begin + random.uniform(0, HOUR_SECONDS, cards),
        customer=random.choice(options.customers, cards, replace=False),
        terminal=np.full(cards, random.integers(options.terminals)),
        amount_minor=amount,
        scenario=np.full(cards, CARD_TESTING, dtype=np.int8),
    )


def _declined(rows: _Rows, options: SimulatorOptions, day: int) -> NDArray[np.bool_]:
    share = np.where(rows.scenario == CARD_TESTING, BURST_DECLINED_SHARE, DECLINED_SHARE)
    return _random(options.seed, _ANSWERS, day).random(len(share)) < share


def _joined(parts: list[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    return _Rows(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in _Rows.__dataclass_fields__
        )
    )


def _sorted(rows: _Rows) -> _Rows:
    order = np.argsort(rows.seconds, kind="stable")
    return _Rows(*(getattr(rows, name)[order] for name in _Rows.__dataclass_fields__))


def _batch(world: Population, day: int, rows: _Rows, options: SimulatorOptions) -> EventBatch:
    start = datetime(options.start.year, options.start.month, options.start.day, tzinfo=UTC)
    midnight_ms = (int(start.timestamp()) + day * DAY_SECONDS) * 1_000
    count = len(rows.seconds)
    return EventBatch(
        transaction_id=[f"t-{day}-{number}" for number in range(count)],
        event_time_ms=midnight_ms + (rows.seconds * 1_000).astype(np.int64),
        keys=(
            world.card_names[rows.customer].tolist(),
            world.terminal_names[rows.terminal].tolist(),
        ),
        amount_minor=rows.amount_minor,
        currency=[CURRENCY] * count,
        categories=(),
        numbers=no_numbers(count),
        is_fraud=(rows.scenario != GENUINE).astype(np.int8),
        scenario=rows.scenario,
        declined=_declined(rows, options, day),
    )
