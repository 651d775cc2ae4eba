"""What a model can be told by the settings; each model takes what concerns it.

>>> ModelOptions().l2
1.0
>>> ModelOptions(loss="cost").loss_for(("hour", "weekday"))
Traceback (most recent call last):
pipeline.errors.SettingError: loss 'cost' needs amounts, and the schema has none: choose another
"""

import json
from dataclasses import dataclass
from typing import Any

from models.losses import LOG_LOSS, Loss
from pipeline.errors import SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How models learn.

    Parameters
    ----------
    l1, l2
        Regularisation of the models that learn by gradients.
    decay_days
        Days after which half of what the additive model summed up is forgotten; 0: never.
    loss, fraud_weight, focal_gamma, decline_cost_minor, decline_cost_share
        What a mistake costs those models (`losses.py`).
    river_options
        Arguments of River's classes (`river_model.py`), by model, as JSON.
    river_pickle
        Whether pickles of River models are written and read.
    refit_days, refit_window_days, refit_examples_max
        How often, on how many days and on how many examples `boosted` is fitted.
    boosted_trees, boosted_leaves, boosted_rate
        How large its trees are.
    members
        The models that `ensemble` mixes, separated by commas.
    """

    l1: float = 0.0
    l2: float = 1.0
    decay_days: float = 0.0
    loss: str = LOG_LOSS.kind
    fraud_weight: float = LOG_LOSS.fraud_weight
    focal_gamma: float = LOG_LOSS.focal_gamma
    decline_cost_minor: float = LOG_LOSS.decline_cost_minor
    decline_cost_share: float = LOG_LOSS.decline_cost_share
    river_options: str = ""
    river_pickle: bool = False
    refit_days: float = 7.0
    refit_window_days: float = 60.0
    refit_examples_max: int = 400_000
    boosted_trees: int = 200
    boosted_leaves: int = 15
    boosted_rate: float = 0.05
    members: str = "additive,boosted,neural"

    @property
    def whole_loss(self) -> Loss:
        """The loss with its numbers."""
        return Loss(
            self.loss,
            self.fraud_weight,
            self.focal_gamma,
            self.decline_cost_minor,
            self.decline_cost_share,
        )

    def loss_for(self, features: tuple[str, ...]) -> Loss:
        """Give the loss for a model of these features, or say what it lacks."""
        loss = self.whole_loss
        loss.check_features(features)
        return loss

    @property
    def river_arguments(self) -> dict[str, dict[str, Any]]:
        """The arguments of River's classes, by model.

        >>> ModelOptions(river_options='{"forest": {"n_models": 5}}').river_arguments
        {'forest': {'n_models': 5}}
        """
        if not self.river_options:
            return {}
        try:
            found = json.loads(self.river_options)
        except ValueError as error:
            raise SettingError(f"river_options must be JSON: {error}") from error
        items = found.values() if isinstance(found, dict) else [None]
        if not all(isinstance(item, dict) for item in items):
            raise SettingError(
                'river_options must be like {"forest": {"n_models": 5}} '
                f"(got {self.river_options!r})"
            )
        return dict(found)
