"""How far silence was listened to: what nobody spoke of matures once labels were read to there.

A worker that is behind with labels, or holds them back for their decisions, would take for genuine
what a label in its log says is fraud.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Listening:
    """A time that decisions have come to, and where labels ended after it.

    >>> listening = Listening()
    >>> listening.heard(1_000, end=5, offset=5), listening.heard(1_500, end=8, offset=6)
    (0, 0)
    >>> listening.heard(1_500, end=9, offset=8), listening.heard(1_700, end=9, offset=8)
    (1000, 1000)
    """

    heard_ms: int = 0
    asked_ms: int | None = None
    end: int | None = None

    def heard(self, watermark_ms: int, *, end: int | None, offset: int) -> int:
        """Give the time, ms, up to which all labels are known.

        Parameters
        ----------
        watermark_ms
            The time that decisions have come to.
        end
            Where the log of labels ends, as far as is known by now; `None`: not known.
        offset
            Labels were read up to here.
        """
        if self.asked_ms is None:
            self.asked_ms = watermark_ms
            return self.heard_ms
        # Asked one look later, so that what was on its way is in it.
        self.end = end if self.end is None else self.end
        if self.end is not None and offset >= self.end:
            self.heard_ms, self.asked_ms, self.end = self.asked_ms, watermark_ms, None
        return self.heard_ms
