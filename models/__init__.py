"""What scores and learns: the contract, the models behind it, their snapshots.

>>> sorted(MODELS), sorted(RIVER_MODELS)
(['additive', 'boosted', 'ensemble', 'logistic', 'neural'], ['anomaly', 'forest'])
>>> make_model("logistic", ("amount", "hour")).feature_names
('amount', 'hour')
>>> make_model("river.naive_bayes.GaussianNB", ("amount", "hour")).learned
0
"""

from collections.abc import Sequence

from models.additive import Additive
from models.anomaly import Anomaly
from models.boosted import Boosted
from models.contract import Arrays, Header
from models.ensemble import Ensemble
from models.logistic import Logistic
from models.neural import Neural
from models.options import ModelOptions
from models.river_model import RIVER, Forest, RiverModel, refusal, river_class
from models.verbs import ArrayModel
from pipeline.errors import SettingError, SnapshotError

__all__ = [
    "MODELS",
    "RIVER_MODELS",
    "Additive",
    "Anomaly",
    "ArrayModel",
    "Boosted",
    "Ensemble",
    "Forest",
    "Logistic",
    "ModelOptions",
    "Neural",
    "RiverModel",
    "check_kept",
    "is_known",
    "make_model",
    "model_class",
    "restored",
]

MODELS: dict[str, type[ArrayModel]] = {
    model.name: model for model in (Additive, Boosted, Ensemble, Logistic, Neural)
}
"""Every model that is kept in snapshots, by the name that settings and snapshots know it by."""

RIVER_MODELS: dict[str, type[RiverModel]] = {model.name: model for model in (Anomaly, Forest)}
"""River's models that have a short name; any other of its classifiers has its dotted one."""


def is_known(name: str) -> bool:
    """Say whether a name can be that of a model; whether River has it shows when it is made."""
    return name in MODELS or is_river(name)


def is_river(name: str) -> bool:
    """Say whether a name is that of a River model, whose state is a pickle."""
    return name in RIVER_MODELS or name.startswith(RIVER)


def model_class(name: str) -> type[ArrayModel]:
    """Give a model by its name."""
    if name.startswith(RIVER):
        return river_class(name)
    found = {**MODELS, **RIVER_MODELS}
    if name not in found:
        raise SettingError(
            f"no model {name!r}: known are {', '.join(sorted(MODELS))}, "
            f"{', '.join(sorted(RIVER_MODELS))}, or a classifier of River by its dotted name"
        )
    return found[name]


def make_model(
    name: str, feature_names: tuple[str, ...], options: ModelOptions | None = None
) -> ArrayModel:
    """Make a model that has learned nothing."""
    return model_class(name).made(feature_names, options or ModelOptions())


def check_kept(names: Sequence[str], options: ModelOptions) -> None:
    """Refuse models that cannot be kept, where they must be: before anything begins."""
    for name in names:
        if is_river(name) and not options.river_pickle:
            raise SettingError(refusal(name))


def restored(
    name: str, header: Header, arrays: Arrays, *, river_pickle: bool = False
) -> ArrayModel:
    """Make a model again of its state; a pickle is read only where `river_pickle` says so."""
    if not is_river(name):
        return MODELS[name].from_state(header, arrays)
    if not river_pickle:
        raise SnapshotError(refusal(name))
    try:
        found = river_class(name) if name.startswith(RIVER) else RIVER_MODELS[name]
    except SettingError as error:
        raise SnapshotError(f"snapshot: {error}") from error
    return found.unpickled(header, arrays)
