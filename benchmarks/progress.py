"""How far a step of a benchmark has come: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# A log should show that something moves, and not be filled by it.
LINE_SECONDS = 10.0


class Report(Protocol):
    """Called as often as there is something to say."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say how many are done, of how many."""


@contextmanager
def progress(name: str, unit: str, total: int | None = None) -> Iterator[Report]:
    """Show a step's count, rate and time left for the length of the block."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name, unit, total)
        return
    columns = (
        TextColumn("{task.description:>10}"), BarColumn(),
        TextColumn("{task.completed:,.0f} " + unit), TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=5.0) as bar:
        task = bar.add_task(name, total=total, rate=0.0)

        def report(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, rate=bar.tasks[task].speed or 0.0)
            if total is not None:
                bar.update(task, total=total)

        yield report


class _Lines:
    """The same as lines on standard error."""

    def __init__(self, name: str, unit: str, total: int | None) -> None:
        self._name, self._unit, self._total = name, unit, total
        self._seen = (time.monotonic(), 0)

    def __call__(self, done: int, total: int | None = None) -> None:
        self._total = total if total is not None else self._total
        now = time.monotonic()
        before, count = self._seen
        if now - before < LINE_SECONDS:
            return
        rate = (done - count) / (now - before)
        self._seen = (now, done)
        whole = f" of {self._total:,}" if self._total is not None else ""
        left = ((self._total or 0) - done) / rate if rate > 0 else 0.0
        text = f"{self._name} {done:,}{whole} {self._unit}, {rate:,.0f}/s"
        click.echo(f"{text}, {left:,.0f} s left" if left > 0 else text, err=True)
