"""The options of a closed loop, which `replay` and `loop` share.

>>> @click.command()
... @closed_loop_option
... @loop_options
... def show(**options): print(loop_of(options, seed=1))
>>> show(["--closed-loop", "--review-budget", "5"], standalone_mode=False)
LoopOptions(review_budget=5, ...)
>>> show([], standalone_mode=False)
None
"""

from collections.abc import Callable
from typing import Any

import click

from pipeline.errors import SettingError
from producers.closed_loop import LoopOptions, LoopReport

# Beside amounts that are always fraud, this gives 0.1 to 0.3 % of the traffic: the Handbook's own
# 0.8 % is several times what a bank sees.
CLOSED_LOOP_FRAUD_SCALE = 0.15

_DEFAULT = LoopOptions()
_CLOSED_LOOP = click.option(
    "--closed-loop",
    is_flag=True,
    help="Labels follow what was decided: declined is never known, alerts are reviewed within a "
    "budget, fraud comes back as a chargeback after 20 to 90 days.",
)
_OPTIONS = (
    click.option(
        "--review-budget",
        type=click.IntRange(min=0),
        help=f"Alerts reviewed a day. [default: {_DEFAULT.review_budget}]",
    ),
    click.option(
        "--unnoticed-share",
        type=float,
        help="Share of the frauds that went through of which nobody complains. "
        f"[default: {_DEFAULT.unnoticed_share}]",
    ),
    click.option(
        "--called-share",
        type=float,
        help="Share of the others whose holder calls within 1 to 5 days. "
        f"[default: {_DEFAULT.called_share}]",
    ),
    click.option(
        "--mistaken-share",
        type=float,
        help="Share of the genuine that are charged back by mistake, and reversed. "
        f"[default: {_DEFAULT.mistaken_share:f}]",
    ),
    click.option(
        "--issuer-declined-share",
        type=float,
        help="Share of what we approve that the issuer declines. "
        f"[default: {_DEFAULT.issuer_declined_share}]",
    ),
)
_NAMES = (
    "review_budget",
    "unnoticed_share",
    "called_share",
    "mistaken_share",
    "issuer_declined_share",
)


def closed_loop_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the choice between an open loop and a closed one."""
    return _CLOSED_LOOP(command)


def loop_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a closed loop."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def loop_of(options: dict[str, Any], **others: Any) -> LoopOptions | None:
    """Take a command's options together; `None` where the loop is open."""
    given = {name: options[name] for name in _NAMES if options[name] is not None}
    if options["closed_loop"]:
        return LoopOptions(**given, **others)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingError(f"{flags}: only with --closed-loop")
    return None


def report_lines(report: LoopReport, minor_digits: int) -> list[str]:
    """Write a report as lines for a terminal."""
    unit = 10**minor_digits
    value = "-" if report.value_detected is None else f"{report.value_detected:.4f}"
    observed = f"observed {report.observed:,}: nothing that was decided of them was done (mode)"
    return [
        *([observed] if report.observed else []),
        f"frauds   {report.frauds:,}: declined {report.frauds_declined:,}  "
        f"found by review {report.frauds_reviewed:,}  missed {report.frauds_missed:,}  "
        f"stopped by the issuer {report.frauds_issuer_declined:,}",
        f"money    value detected {value}, missed {report.missed_minor / unit:,.2f}",
        f"genuine  declined falsely {report.false_declines:,} "
        f"({report.false_declines_minor / unit:,.2f})",
        f"alerts   reviewed {report.alerts_reviewed:,}  let through unreviewed "
        f"{report.alerts_unreviewed:,}  waiting {report.alerts_waiting:,}",
        _counted("came     ", report.labels | report.outcomes)
        + f"; on their way {report.labels_waiting:,}",
    ]


def _counted(title: str, counts: dict[str, int]) -> str:
    return title + ("  ".join(f"{name} {count:,}" for name, count in counts.items()) or "nothing")
