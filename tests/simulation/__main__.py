"""Run the simulation: `python -m tests.simulation --seeds 1000`."""

import sys
import time
from collections import Counter

import click

from tests.simulation.checks import check
from tests.simulation.life import Life
from tests.simulation.rows import simulate_rows

EVENTS = 2_000
# A life of rows is longer: one for so many of the others, of so many batches.
ROWS_EACH, BATCHES = 5, 300


def simulate(seed: int, *, events: int = EVENTS) -> Life:
    """Live through one seed and check what it left; an error says how to see it again."""
    life = Life(seed, events=events)
    try:
        life.run()
        check(life)
    except AssertionError as error:
        again = f"make simulate FIRST={seed} SEEDS=1 EVENTS={events}"
        raise AssertionError(f"seed {seed}: {error}; to see it again: {again}") from error
    return life


@click.command()
@click.option("--seeds", default=1_000, show_default=True, help="How many seeds.")
@click.option("--first", default=0, show_default=True, help="The first of them.")
@click.option("--events", default=EVENTS, show_default=True, help="Transactions of each seed.")
def main(seeds: int, first: int, events: int) -> None:
    """Run the commit protocol, then rows of profiles, against simulated faults."""
    started = time.perf_counter()
    faults: Counter[str] = Counter()
    steps = commits = refused = 0
    for seed in range(first, first + seeds):
        try:
            life = simulate(seed, events=events)
        except AssertionError as error:
            sys.exit(str(error))
        faults.update(life.faults)
        steps += life.world.clock
        refused += life.world.refused
        commits += sum(map(len, life.world.store.history.values()))
    seconds = time.perf_counter() - started
    click.echo(f"{seeds:,} seeds of {events:,} transactions hold: {seconds:.1f} s")
    click.echo(f"{steps:,} steps, {commits:,} commits, {refused:,} refused")
    click.echo(_listed(faults))
    _run_rows(range(first, first + -(-seeds // ROWS_EACH)))


def _run_rows(seeds: range) -> None:
    """Run the rows of profiles against simulated faults."""
    started = time.perf_counter()
    faults: Counter[str] = Counter()
    additions = 0
    for seed in seeds:
        try:
            life = simulate_rows(seed, batches=BATCHES)
        except AssertionError as error:
            sys.exit(str(error))
        faults.update(life.faults)
        additions += life.store.held.newest
    seconds = time.perf_counter() - started
    click.echo(f"{len(seeds):,} seeds of {BATCHES:,} batches hold for rows: {seconds:.1f} s")
    click.echo(f"{additions:,} additions, {_listed(faults)}")


def _listed(faults: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {fault}" for fault, count in sorted(faults.items()))


if __name__ == "__main__":
    main()
