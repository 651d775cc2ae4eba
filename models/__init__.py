"""What scores and learns: the contract, the models behind it, their snapshots.

>>> sorted(MODELS)
['additive', 'logistic', 'neural']
>>> make_model("logistic", ("amount", "hour")).feature_names
('amount', 'hour')
"""

from models.additive import Additive
from models.logistic import Logistic
from models.neural import Neural
from models.options import ModelOptions
from models.verbs import ArrayModel
from pipeline.errors import SettingError

__all__ = ["MODELS", "Additive", "ArrayModel", "Logistic", "ModelOptions", "Neural", "make_model"]

MODELS: dict[str, type[ArrayModel]] = {model.name: model for model in (Additive, Logistic, Neural)}
"""Every model by the name that settings and snapshots know it by."""


def make_model(
    name: str, feature_names: tuple[str, ...], options: ModelOptions | None = None
) -> ArrayModel:
    """Make a model that has learned nothing."""
    if name not in MODELS:
        raise SettingError(f"no model {name!r}: known are {', '.join(sorted(MODELS))}")
    return MODELS[name].made(feature_names, options or ModelOptions())
