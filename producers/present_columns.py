"""Columns that look like what a present system said of an event: its score, and what it did.

They belong into `[incumbent]`, since as features they would teach a model to say what that system
says. A column of actions is known by its words, one of scores by its name; a person must look.

>>> import pandas as pd
>>> from producers.column_profile import profile_of
>>> points = profile_of("risk_points", pd.Series(["12", "840"]))
>>> verdict = profile_of("engine", pd.Series(["ACCEPT", "REJECT"]))
>>> found = present_system([points, verdict])
>>> found.score.name, found.scale, found.action.name, found.actions
('risk_points', (0, 999), 'engine', {'approve': ['ACCEPT'], 'decline': ['REJECT']})
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.actions import Action
from producers.column_profile import Profile

WORDS: dict[Action, tuple[str, ...]] = {
    "approve": ("approve", "approved", "accept", "accepted", "allow", "allowed", "pass", "passed"),
    "review": ("review", "hold", "held", "refer", "referred", "challenge", "manual", "queue"),
    "decline": ("decline", "declined", "deny", "denied", "reject", "rejected", "block", "blocked")
    + ("refuse", "refused"),
}
ACTION_OF = {word: action for action, words in WORDS.items() for word in words}
SCORE_WORDS = frozenset(("score", "points", "rating"))
OF_SYSTEM_WORDS = frozenset(("fraud", "engine", "rule", "rules", "vendor", "model", "incumbent"))
# The usual scales, the smallest that holds all values.
SCALE_ENDS = (1, 100, 999, 1000)


@dataclass(frozen=True, slots=True)
class PresentSystem:
    """The columns, the least and the most suspicious score, and the words for each action."""

    score: Profile | None = None
    scale: tuple[int, int] = (0, 1)
    action: Profile | None = None
    actions: dict[Action, list[str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[Profile]:
        """The columns that there are."""
        return [column for column in (self.score, self.action) if column is not None]


def present_system(profiles: Sequence[Profile]) -> PresentSystem:
    """Find the columns of a present system."""
    score = next(filter(_is_score, profiles), None)
    action = next((item for item in profiles if len(set(_actions(item))) > 1), None)
    actions: dict[Action, list[str]] = {}
    if action is not None:
        for word, meant in zip(action.uniques, _actions(action), strict=True):
            actions.setdefault(meant, []).append(word)
    return PresentSystem(score, _scale(score) if score else (0, 1), action, actions)


def _is_score(profile: Profile) -> bool:
    words = set(profile.words)
    named = "risk" in words or (words & SCORE_WORDS and words & OF_SYSTEM_WORDS)
    return bool(named) and profile.numeric in ("whole", "decimal")


def _actions(profile: Profile) -> list[Action]:
    """Give what each value means; nothing if any value is no word for an action."""
    found = [ACTION_OF.get(text.lower()) for text in profile.uniques[: len(ACTION_OF)]]
    known = [action for action in found if action is not None]
    return known if len(known) == profile.distinct else []


def _scale(profile: Profile) -> tuple[int, int]:
    low, high = float(np.nanmin(profile.numbers)), float(np.nanmax(profile.numbers))
    end = next((end for end in SCALE_ENDS if high <= end), math.ceil(high))
    return min(0, math.floor(low)), end
