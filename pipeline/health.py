"""What a process says of itself at /live and /ready: nothing, or what is wrong, in words.

/live: restart me, I get nowhere. /ready: work can be given to me now. Both answer 200 with
`{"problems": []}`, or 503 with what is wrong.

>>> health = Health(ready=lambda: ["no partitions yet"])
>>> health.answer("/ready")
(503, b'{"problems":["no partitions yet"]}')
>>> health.answer("/live"), health.answer("/metrics")
((200, b'{"problems":[]}'), None)
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

OK, UNAVAILABLE = 200, 503

Problems = Callable[[], list[str]]


def _none() -> list[str]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Two questions that a supervisor asks; they are answered in a thread of the HTTP server."""

    live: Problems = _none
    ready: Problems = _none

    def answer(self, path: str) -> tuple[int, bytes] | None:
        """Give status and body; `None` for another path."""
        ask = {"/live": self.live, "/ready": self.ready}.get(path)
        if ask is None:
            return None
        problems = ask()
        return UNAVAILABLE if problems else OK, msgspec.json.encode({"problems": problems})
