"""What the demo shows while it runs, and what it says at its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.monitoring import MonitorView
from pipeline.records import DecisionRecord
from producers.publisher import Progress, Published

BLOCKS = " ▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 48
PLAIN_SECONDS = 2.0
# Quality is said of a stretch once it has so many frauds: fewer say nothing.
FRAUDS_MIN = 20
CENTS = 100
ACTION_STYLES = {"approve": "green", "review": "yellow", "decline": "red"}


@dataclass(slots=True)
class DemoState:
    """All that is known of the running demo, as plain values."""

    events: int
    started_at: float = field(default_factory=time.monotonic)
    progress: Progress | None = None
    published: Published | None = None
    published_at: float = 0.0
    view: MonitorView | None = None
    alerts: list[DecisionRecord] = field(default_factory=list)
    alert_count: int = 0
    first_decision_seconds: float | None = None
    decided_per_second: float = 0.0
    quality: dict[str, list[float]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    _looked: tuple[float, int] = (0.0, 0)

    def look(self, view: MonitorView, alerts: list[DecisionRecord], alert_count: int) -> None:
        """Take the numbers of this moment."""
        now = time.monotonic()
        then, events = self._looked
        if events:
            self.decided_per_second = (view.events - events) / max(now - then, 1e-9)
        self._looked = (now, view.events)
        if view.events and self.first_decision_seconds is None:
            self.first_decision_seconds = now - self.started_at
        self.view, self.alerts, self.alert_count = view, alerts, alert_count
        for name, window in view.quality.items():
            if window.average_precision is not None and window.frauds >= FRAUDS_MIN:
                self.quality.setdefault(name, []).append(window.average_precision)

    @property
    def is_complete(self) -> bool:
        """Whether everything that was published was decided and learned."""
        if self.view is None or self.published is None:
            return False
        decided = self.view.events >= self.published.transactions
        return decided and self.view.labels >= self.published.labels


@contextmanager
def live_view(state: DemoState) -> Iterator[Callable[[], None]]:
    """Show the state for the length of the block; gives what shows it anew."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(state, console)
        return
    with Live(_screen(state), console=console, auto_refresh=False, transient=True) as live:
        yield lambda: live.update(_screen(state), refresh=True)


def _plain(state: DemoState, console: Console) -> Callable[[], None]:
    said_at = 0.0

    def say() -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= PLAIN_SECONDS and state.view is not None:
            said_at = time.monotonic()
            console.print(_line(state, state.view), highlight=False, soft_wrap=True)

    return say


def _line(state: DemoState, view: MonitorView) -> str:
    quality = " ".join(f"{name} {values[-1]:.3f}" for name, values in state.quality.items())
    return (
        f"{view.events:>9,} decided  {state.decided_per_second:>7,.0f}/s  "
        f"labels {view.labels:,}  alerts {state.alert_count:,}  "
        f"average precision {quality or '(not enough labels yet)'}"
    )


def _screen(state: DemoState) -> Group:
    if state.view is None:
        return Group(Text("waiting for the first decision"))
    return Group(
        _head(state, state.view),
        Panel(_numbers(state, state.view), title="stream", title_align="left"),
        Panel(_quality(state, state.view), title="learning", title_align="left"),
        Panel(_alerts(state), title="alerts: highest scores that wait", title_align="left"),
        Text("  ".join(f"{name} {url}" for name, url in state.addresses.items()), style="dim"),
    )


def _head(state: DemoState, view: MonitorView) -> Table:
    grid = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=state.events, completed=min(view.events, state.events), width=50)
    grid.add_row("[bold]fraudstream demo[/]", bar, f"{view.events:,} of {state.events:,} decided")
    return grid


def _numbers(state: DemoState, view: MonitorView) -> Table:
    grid = Table.grid(padding=(0, 3))
    grid.add_row("events/s", f"{state.decided_per_second:,.0f}", "event time", _moment(view))
    actions = [
        f"[{ACTION_STYLES[action]}]{action} {count:,}[/]" for action, count in view.actions.items()
    ]
    grid.add_row("actions", "  ".join(actions), "alerts waiting", f"{state.alert_count:,}")
    dead = sum(view.dead_letters.values())
    version = f"{view.champion}@{view.training_offset}" if view.champion else "-"
    grid.add_row("champion", version, "dead letters", f"{dead:,}")
    return grid


def _quality(state: DemoState, view: MonitorView) -> Table:
    grid = Table.grid(padding=(0, 3))
    grid.add_row("labels learned", f"{view.labels:,}", "seven days of event time after the event")
    for name, values in state.quality.items():
        window = view.quality[name]
        grid.add_row(f"average precision, {name}", f"{values[-1]:.3f}", spark(values))
        grid.add_row("", f"log loss {window.log_loss:.4f}", f"last {window.events:,} labelled")
    grid.add_row("drift of the error", *_drift(view))
    psi = "-" if view.score_psi is None else f"{view.score_psi:.3f}"
    grid.add_row("PSI of the score", psi, "0.1 is a shift, 0.25 a large one")
    return grid


def _drift(view: MonitorView) -> tuple[str, str]:
    rises = [found for found in view.drift_detections if found.direction == "rise"]
    if not rises:
        return "none", ""
    last = rises[-1]
    moment = datetime.fromtimestamp(last.event_time_ms / 1000, UTC)
    change = f"error {last.error_before:.4f} -> {last.error_after:.4f}"
    return f"{len(rises)}", f"last {moment:%Y-%m-%d %H:%M} by {last.detector}, {change}"


def _alerts(state: DemoState) -> Table:
    table = Table("transaction", "score", "amount", "card", "terminal", "reasons", box=None)
    for alert in state.alerts:
        reasons = ", ".join(f"{code} {value:+.1f}" for code, value in alert.reasons[:2])
        amount = f"{alert.amount / CENTS:,.2f} {alert.currency}"
        table.add_row(
            alert.transaction_id, f"{alert.score:.3f}", amount, *alert.keys.values(), reasons
        )
    return table


def _moment(view: MonitorView) -> str:
    if view.last_event_ms is None:
        return "-"
    return f"{datetime.fromtimestamp(view.last_event_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def spark(values: list[float]) -> str:
    """Draw values of 0 to 1 as blocks, at most `SPARK_COLUMNS` of them.

    >>> spark([0.0, 0.5, 1.0])
    ' ▄█'
    """
    step = max(1, -(-len(values) // SPARK_COLUMNS))
    return "".join(BLOCKS[round(value * (len(BLOCKS) - 1))] for value in values[::step])


def summary(state: DemoState) -> None:
    """Say at the end what happened."""
    console = Console(highlight=False, soft_wrap=True)
    if state.view is None or not state.view.events:
        console.print("ended before the first decision")
        return
    view = state.view
    console.print(f"events      {view.events:,} decided", end="")
    if state.published is not None:
        console.print(f" of {state.published.transactions:,} published", end="")
    console.print(f"; the first {state.first_decision_seconds:.1f} s after the start")
    console.print("actions    ", "  ".join(f"{name} {n:,}" for name, n in view.actions.items()))
    console.print(f"labels      {view.labels:,} learned; alerts waiting {state.alert_count:,}")
    for name, values in state.quality.items():
        rise = f"{values[0]:.3f} -> {values[-1]:.3f}"
        console.print(f"quality     {name}: average precision {rise}  {spark(values)}")
    console.print("drift      ", *_drift(view))
    if state.published is not None and not state.is_complete:
        console.print("[yellow]not everything published was decided and learned in time[/]")
    for name, url in state.addresses.items():
        console.print(f"metrics     {name} served {url} while the demo ran")
