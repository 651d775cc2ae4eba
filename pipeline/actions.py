"""What may be done with an event, in the order of severity."""

from typing import Literal, get_args

Action = Literal["approve", "review", "decline"]

ACTIONS: tuple[Action, ...] = get_args(Action)
