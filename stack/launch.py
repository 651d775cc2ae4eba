"""What is needed to start one server, whichever it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Launch:
    """A server that is ready to be started in `folder`; what it prints goes to `log`.

    `ports` are remembered, so that clients find the server where it was after `down` and `up`.
    """

    name: str
    version: str
    address: str
    ports: dict[str, int]
    command: list[str]
    folder: Path
    log: Path
    is_ready: Callable[[], bool]
