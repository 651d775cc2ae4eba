"""What the system that a team has said of an event: carried to the decision, and never looked at.

It is there to be compared with (`fraudstream compare`), so it is no feature and no model sees it.
A value that cannot be read costs no decision: it is left out and its name stands in `unread`.

>>> reader = IncumbentReader(IncumbentFields("risk", "verdict", (0, 999), {"decline": ["REJECT"]}))
>>> reader.read(999, "REJECT")
Incumbent(score=1.0, action='decline', unread=())
>>> reader.read(1200, None)
Incumbent(score=None, action=None, unread=('score',))
>>> reader.read(None, None) is None
True
>>> reader.written_score(reader.read(733, None).score), reader.written_action("decline")
(733, 'REJECT')
"""

from typing import Any, Literal

import msgspec

from pipeline.actions import ACTIONS, Action

Part = Literal["score", "action"]

# A score that was scaled down and up again is the same in so many digits.
SCORE_DIGITS = 12
# More fields than a record has bytes.
NO_RECORD_FITS = 1 << 20


class IncumbentFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an event carries what the present system said; both fields are optional.

    `scale` is its least and its most suspicious score, in this order: a system whose high scores
    are good has the higher number first. `actions` are its words for each action.
    """

    score: str | None = None
    action: str | None = None
    scale: tuple[float, float] = (0.0, 1.0)
    actions: dict[Action, list[str]] = msgspec.field(
        default_factory=lambda: {action: [action] for action in ACTIONS}
    )

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that an event may carry, the score first."""
        return tuple(field for field in (self.score, self.action) if field)

    def problem(self) -> str | None:
        """Say what contradicts itself."""
        if not self.fields:
            return "[incumbent] needs score, action or both"
        if self.scale[0] == self.scale[1] or not all(abs(end) < float("inf") for end in self.scale):
            return f"scale of [incumbent] must be two numbers that differ (got {self.scale})"
        words = [word for given in self.actions.values() for word in given]
        if twice := {word for word in words if words.count(word) > 1}:
            return f"actions of [incumbent]: {min(twice)!r} is used twice"
        if self.action and not words:
            return "actions of [incumbent] name no word"
        return None


# Of three texts and a number, so it cannot be part of a cycle (gc=False).
class Incumbent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the present system said: its score from 0 to 1, and what it did.

    `unread` names what was given and could not be read.
    """

    score: float | None = None
    action: Action | None = None
    unread: tuple[Part, ...] = ()


class IncumbentReader:
    """Reads and writes what the present system said, by the words of a schema."""

    def __init__(self, fields: IncumbentFields) -> None:
        self._low, self._high = fields.scale
        self._least, self._most = min(fields.scale), max(fields.scale)
        self._actions = {word: action for action, words in fields.actions.items() for word in words}
        self._words = {action: words[0] for action, words in fields.actions.items() if words}

    @property
    def words(self) -> tuple[str, ...]:
        """The words that stand for an action."""
        return tuple(self._actions)

    def read(self, score: object, action: object) -> Incumbent | None:
        """Read both values, as they came; `None` stands for one that is missing."""
        if score is None and action is None:
            return None
        ratio = None if score is None else self.ratio(score)
        known = self._actions.get(action) if isinstance(action, str) else None
        unread: tuple[Part, ...] = ()
        if score is not None and ratio is None:
            unread = ("score",)
        if action is not None and known is None:
            unread = (*unread, "action")
        return Incumbent(ratio, known, unread)

    def ratio(self, score: object) -> float | None:
        """Put a score on the scale of 0 to 1; one that is no number of the scale is `None`."""
        if not isinstance(score, int | float) or isinstance(score, bool):
            return None
        if not self._least <= score <= self._most:
            return None
        # Without a sign: on a scale that runs down, the least suspicious would be -0.
        return abs((score - self._low) / (self._high - self._low))

    def written_score(self, ratio: float | None) -> float | None:
        """Put a score back on the scale of the present system."""
        if ratio is None or (self._low, self._high) == (0.0, 1.0):
            return ratio
        score = float(f"{self._low + ratio * (self._high - self._low):.{SCORE_DIGITS}g}")
        return int(score) if score.is_integer() and self._most > 1 else score

    def written_action(self, action: Action | None) -> str | None:
        """Give the first word for an action; where the present system has none, nothing."""
        return None if action is None else self._words.get(action)


class IncumbentColumns:
    """Takes what the present system said from decoded records; without names there is nothing.

    `fields` are those of a decoder: attribute, field, type and default. Any value is taken, since
    a wrong one must not cost the decision.
    """

    def __init__(self, names: IncumbentFields | None) -> None:
        self._reader = IncumbentReader(names) if names else None
        self._has_score = names is not None and names.score is not None
        self._has_action = names is not None and names.action is not None
        self.fields: list[tuple[str, str, Any, Any]] = []
        if names and names.score:
            self.fields.append(("incumbent_score", names.score, Any, msgspec.UNSET))
        if names and names.action:
            self.fields.append(("incumbent_action", names.action, Any, msgspec.UNSET))

    def read(self, record: Any) -> tuple[Incumbent | None, int]:
        """Give what was said, and how many fields said it."""
        if self._reader is None:
            return None, 0
        score = record.incumbent_score if self._has_score else msgspec.UNSET
        action = record.incumbent_action if self._has_action else msgspec.UNSET
        if score is action is msgspec.UNSET:
            return None, 0
        given = (score is not msgspec.UNSET) + (action is not msgspec.UNSET)
        if isinstance(score, list | dict) or isinstance(action, list | dict):
            # It may be deep, or have a key twice: a count that no record fits has it looked at.
            given = NO_RECORD_FITS
        found = self._reader.read(
            None if score is msgspec.UNSET else score, None if action is msgspec.UNSET else action
        )
        return found, given
