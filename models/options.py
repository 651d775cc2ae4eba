"""What a model can be told by the settings; each model takes what concerns it.

>>> ModelOptions().l2
1.0
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How models learn.

    Parameters
    ----------
    l1, l2
        Regularisation of the models that learn by gradients.
    decay_days
        Days after which half of what the additive model summed up is forgotten; 0: never.
    """

    l1: float = 0.0
    l2: float = 1.0
    decay_days: float = 0.0
