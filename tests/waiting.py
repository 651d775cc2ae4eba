"""Waiting for a condition, with a limit, instead of sleeping."""

import time
from collections.abc import Callable

WAIT_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05


def wait_until(
    holds: Callable[[], bool], what: str, *, seconds_max: float = WAIT_SECONDS_MAX
) -> None:
    """Return as soon as a condition holds; fail when it does not within the limit."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds_max:.0f} s: {what} does not hold"
        time.sleep(POLL_SECONDS)
