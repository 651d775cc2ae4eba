"""What people do in a run that the dashboard is asked about: they mistake and mend rules, begin to
act, list cards, and hold a version.
"""

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from consumers.control_topic import send_control
from consumers.model_topic import read_models
from pipeline.controls import Allow, Block, Freeze, SetMode
from pipeline.errors import StackError
from pipeline.settings import Settings
from pipeline.signing import ControlSigner, ModelVerifier

POLL_SECONDS = 0.5
ANSWER_SECONDS_MAX = 60.0
BLOCKED, ALLOWED = "card-7", "card-8"
WATCHING = """
[[rule]]
code = "RULE_LARGE"
action = "review"
state = "shadow"
when = ["amount >= 100"]
"""
ACTING = WATCHING.replace("shadow", "act")
BROKEN = WATCHING.replace("amount", "amuont")


def wait_for(holds: Callable[[], bool], what: str, seconds_max: float) -> None:
    """Wait for a condition; `StackError` says what did not come."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        if time.monotonic() > deadline:
            raise StackError(f"{what} has taken longer than {seconds_max:.0f} s")
        time.sleep(POLL_SECONDS)


class People:
    """Those who operate the run of these settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._rules = settings, Path(settings.rules)

    def write_rules(self, text: str = WATCHING) -> None:
        """Put a file of rules in place, whole."""
        new = self._rules.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self._rules)

    def mistake_and_mend_rules(self, total: Callable[[str], float]) -> None:
        """Put a broken file in place, then a good one; `total` gives the sum of a metric."""
        for text, name in ((BROKEN, "refused"), (ACTING, "taken")):
            self.write_rules(text)
            metric = f"fraud_rules_files_{name}_total"
            wait_for(lambda metric=metric: total(metric) > 0, metric, ANSWER_SECONDS_MAX)  # type: ignore[misc]

    def act(self, servers: str) -> None:
        """Begin to act on decisions, and list two cards."""
        said = self._said()
        signer = ControlSigner(self._settings)
        for control in (
            SetMode(secrets.token_hex(4), *said, mode="act"),
            Block(secrets.token_hex(4), *said, entity="card", id=BLOCKED),
            Allow(secrets.token_hex(4), *said, entity="card", id=ALLOWED),
        ):
            send_control(servers, control, signer)

    def freeze(self, servers: str) -> None:
        """Hold the version that is in force."""
        champion = read_models(servers).champion(ModelVerifier(self._settings))
        assert champion is not None, "nothing was published"
        freeze = Freeze(secrets.token_hex(4), *self._said(), version=champion.version)
        send_control(servers, freeze, ControlSigner(self._settings))

    def _said(self) -> tuple[str, str, int]:
        return "dashboards", "to be seen", int(time.time() * 1000)
