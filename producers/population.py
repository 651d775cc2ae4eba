"""The simulated population: where customers live and terminals stand, and what is usual for each.

A customer pays at the terminals within a radius. Pairs of customer and terminal are never listed,
since a large world has billions: a terminal is drawn from the cells around the customer, and again
until it lies within the radius.

>>> people = Population.of(np.random.default_rng(7), 3, 50, 20.0)
>>> people.card_names.tolist(), people.terminals_of(np.random.default_rng(7), np.array([0, 1])).size
(['c0', 'c1', 'c2'], 2)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SQUARE_SIDE = 100.0
MEAN_AMOUNT_RANGE = (5.0, 100.0)
MEAN_DAILY_TRANSACTIONS_MAX = 4.0

# Cells a side at most: a tiny radius must not make the map larger than the population.
CELLS_A_SIDE_MAX = 1_000
# A draw is refused about two times in three, so that after so many the nearest terminal, which is
# in reach as well, is taken in fewer than one case in a million.
DRAWS_MAX = 64

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class TerminalMap:
    """Terminals by cell of a grid whose cells are no smaller than the radius.

    The terminals in reach of a point are then in its cell and the eight around it. In the order
    of cells these are three ranges; numbered through, `shift` takes a number to its place.
    """

    side: int
    in_order: Integers
    bounds: Integers
    shift: Integers

    @classmethod
    def of(cls, places: Floats, radius: float) -> "TerminalMap":
        side = int(np.clip(SQUARE_SIDE / radius, 1, CELLS_A_SIDE_MAX))
        cell = _cell(places, side)
        in_order = np.argsort(cell, kind="stable")
        first = np.searchsorted(cell[in_order], np.arange(side * side + 1))
        row, column = np.divmod(np.arange(side * side), side)
        starts, counts = [], []
        for step in (-1, 0, 1):
            line = row + step
            inside = (line >= 0) & (line < side)
            line = np.where(inside, line, 0) * side
            start = first[line + np.maximum(column - 1, 0)]
            stop = first[line + np.minimum(column + 1, side - 1) + 1]
            starts.append(start)
            counts.append(np.where(inside, stop - start, 0))
        bounds = np.cumsum(np.stack(counts, axis=1), axis=1)
        shift = np.stack(starts, axis=1) - (bounds - np.stack(counts, axis=1))
        return cls(side, in_order, bounds, shift)

    def draw(self, random: Random, cell: Integers) -> Integers:
        """Draw a terminal for each cell, evenly from the cell and those around it."""
        bounds = self.bounds[cell]
        number = (random.random(len(cell)) * bounds[:, 2]).astype(np.int64)
        which = (number >= bounds[:, 0]).astype(np.int64) + (number >= bounds[:, 1])
        drawn: Integers = self.in_order[number + self.shift[cell, which]]
        return drawn


def _cell(places: Floats, side: int) -> Integers:
    steps = np.minimum((places * (side / SQUARE_SIDE)).astype(np.int64), side - 1)
    cell: Integers = steps[:, 1] * side + steps[:, 0]
    return cell


@dataclass(frozen=True, slots=True)
class Population:
    """Who lives and who sells where, and what is usual for each customer."""

    place: Floats
    mean_amount: Floats
    mean_daily: Floats
    terminal_place: Floats
    nearest: Integers
    has_choice: NDArray[np.bool_]
    cell: Integers
    map: TerminalMap
    radius: float
    card_names: NDArray[np.object_]
    terminal_names: NDArray[np.object_]

    @classmethod
    def of(cls, random: Random, customers: int, terminals: int, radius: float) -> "Population":
        # Commands that simulate nothing import this module too, and that one takes 20 MB.
        from scipy.spatial import KDTree  # noqa: PLC0415

        place = random.uniform(0, SQUARE_SIDE, (customers, 2))
        mean_amount = random.uniform(*MEAN_AMOUNT_RANGE, customers)
        mean_daily = random.uniform(0, MEAN_DAILY_TRANSACTIONS_MAX, customers)
        terminal_place = random.uniform(0, SQUARE_SIDE, (terminals, 2))
        distance, nearest = KDTree(terminal_place).query(place)
        terminal_map = TerminalMap.of(terminal_place, radius)
        return cls(
            place=place,
            mean_amount=mean_amount,
            mean_daily=mean_daily,
            terminal_place=terminal_place,
            nearest=nearest.astype(np.int64),
            has_choice=distance <= radius,
            cell=_cell(place, terminal_map.side),
            map=terminal_map,
            radius=radius,
            card_names=_names("c", customers),
            terminal_names=_names("m", terminals),
        )

    def terminals_of(self, random: Random, customer: Integers) -> Integers:
        """Choose a terminal for each, evenly among those in reach; the nearest if there is none."""
        chosen = self.nearest[customer]
        waiting = np.flatnonzero(self.has_choice[customer])
        for _ in range(DRAWS_MAX):
            who = customer[waiting]
            drawn = self.map.draw(random, self.cell[who])
            apart = self.terminal_place[drawn] - self.place[who]
            in_reach = (apart * apart).sum(axis=1) <= self.radius * self.radius
            chosen[waiting[in_reach]] = drawn[in_reach]
            waiting = waiting[~in_reach]
            if not len(waiting):
                break
        return chosen


def _names(prefix: str, count: int) -> NDArray[np.object_]:
    return np.array([f"{prefix}{number}" for number in range(count)], dtype=object)
