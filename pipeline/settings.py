"""All settings in one table: name with its unit, default, one line of help.

The flag `--review-score-min`, the variable `FRAUD_REVIEW_SCORE_MIN` and the key
`review_score_min` of the settings file are one name, derived and never typed twice. Later places
win: defaults, file, environment, flags.

>>> load_settings({}, {"FRAUD_PARTITIONS": "8"}).partitions
8
>>> load_settings({"partition": 8}, {})
Traceback (most recent call last):
pipeline.errors.SettingError: unknown setting 'partition' (did you mean 'partitions'?)
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.connection_settings import (
    CONNECTION,
    KAFKA_NAME,
    ConnectionSettings,
    check_connections,
)
from pipeline.connection_settings import setting as _setting
from pipeline.errors import SettingError
from pipeline.topic_names import TopicNames

if TYPE_CHECKING:
    from models.options import ModelOptions

ENVIRONMENT_PREFIX = "FRAUD_"
SETTINGS_FILE = "fraudstream.toml"
# What one commit of the store can hold, with two words for each event.
BATCH_EVENTS_LIMIT = 3_000
PORT_MAX = 65_535
# What `label_signatures` may be.
REQUIRED, OFF = "required", "off"
# What `mode` may be.
OBSERVE, ACT = "observe", "act"
# A window is kept by the minute, in every commit.
BREAKER_MINUTES_MAX = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ConnectionSettings):
    """Every setting of every command; `check` refuses what contradicts itself."""

    state_dir: str = _setting("var", "folder of the embedded servers and of what commands leave")
    consumer_group: str = _setting("fraudstream-worker", "consumer group of the workers")
    schema: str = _setting("card", "name of a shipped schema, or path of a TOML file")
    keys_dir: str = _setting("", "folder of the keys; empty: keys in state_dir (docs/keys.md)")
    label_signatures: str = _setting(
        "required", "required: a label without a good signature is a dead letter; off: any is taken"
    )
    partitions: int = _setting(4, "partitions of the topics that are keyed by the partition key")
    model: str = _setting(
        "additive",
        "champion, whose score decides: "
        "additive, boosted, ensemble, neural, logistic, forest, anomaly, or river.… "
        "(docs/decisions/0024)",
    )
    challengers: str = _setting("logistic", "models that only watch, separated by commas; or none")
    l1: float = _setting(0.0, "weights of a model that gain less than this stay at 0")
    l2: float = _setting(1.0, "pull of each weight of a model towards 0")
    decay_days: float = _setting(
        0.0, "half of what the additive model summed up is forgotten in so many days; 0: nothing"
    )
    loss: str = _setting(
        "log", "what models by gradients learn by: log, squared, focal, or cost (by amount)"
    )
    fraud_weight: float = _setting(
        1.0, "how many genuine events a fraud weighs while learning; scores stay probabilities"
    )
    focal_gamma: float = _setting(
        2.0, "focal loss: how much less is learned of what the score already said"
    )
    decline_cost_minor: float = _setting(
        1000.0, "what a false decline costs, in minor units; a missed fraud costs its amount"
    )
    decline_cost_share: float = _setting(
        0.0, "what a false decline costs beyond decline_cost_minor, as a share of the amount"
    )
    river_options: str = _setting(
        "", 'arguments of River\'s classes by model, as JSON: {"forest": {"n_models": 5}}'
    )
    river_pickle: bool = _setting(
        False, "keep River models as pickles: whoever can write models may then run any program"
    )
    members: str = _setting(
        "additive,boosted,neural", "models that ensemble mixes, separated by commas"
    )
    refit_days: float = _setting(7.0, "event days from one fit of boosted to the next")
    refit_window_days: float = _setting(60.0, "a fit of boosted sees what was learned in so long")
    refit_examples_max: int = _setting(
        400_000, "examples that a fit of boosted sees at most; beyond it genuine ones are thinned"
    )
    boosted_trees: int = _setting(200, "trees of a fit of boosted")
    boosted_leaves: int = _setting(15, "leaves of a tree of boosted, at most")
    boosted_rate: float = _setting(0.05, "how far each tree of boosted steps")
    review_score_min: float = _setting(0.15, "from this score on a transaction is reviewed")
    decline_score_min: float = _setting(0.7, "from this score on a transaction is declined")
    rules: str = _setting(
        "", "TOML file of rules, beside the model and for want of one; empty: the schema's own"
    )
    mode: str = _setting(
        "observe",
        "observe: decide and learn, and say on each decision that nothing is to be done; act: what "
        "is decided is to be done; until `fraudstream mode` says otherwise (docs/controls.md)",
    )
    breaker_decline_share_max: float = _setting(
        0.25, "beyond this share of declines in a partition's window they become reviews; 0: never"
    )
    breaker_amount_minor_max: int = _setting(
        0, "beyond this much money declined in the window, in minor units, as well; 0: never"
    )
    breaker_window_minutes: int = _setting(60, "event minutes that the breaker looks back")
    breaker_events_min: int = _setting(
        200, "events in the window from which on the breaker judges the share"
    )
    batch_events_max: int = _setting(1024, "events decided and committed together, at most")
    batch_gathering_seconds: float = _setting(
        0.012,
        "where much comes, the broker gathers events for so long, to be decided together; "
        "where little comes, nothing waits",
    )
    # A decision is waited for, a label is not.
    label_linger_seconds: float = _setting(
        0.2,
        "a label waits up to this long for others, to be joined and learned in one step with them",
    )
    event_ahead_seconds_max: float = _setting(
        300.0, "an event of a time later than this after its arrival in Kafka is a dead letter"
    )
    event_age_days_max: float = _setting(
        0.0, "an event older than this at its arrival is a dead letter; 0: history may be published"
    )
    duplicate_days: float = _setting(
        7.0, "event days for which an id is remembered: one that comes again is decided once"
    )
    duplicate_ids_max: int = _setting(
        10_000_000, "ids that are remembered, of all partitions; beyond it the oldest go"
    )
    feedback_limit: int = _setting(
        1_000_000, "decisions a partition keeps waiting for a label; beyond it the oldest goes"
    )
    review_limit: int = _setting(
        10_000, "alerts a partition keeps for an analyst; beyond it the lowest score goes"
    )
    pending_label_seconds: float = _setting(
        86_400.0, "event time that a label waits for its decision before it is a dead letter"
    )
    maturity_days: float = _setting(
        60.0, "event days after which an approved transaction without a label is genuine"
    )
    snapshot_interval_seconds: float = _setting(
        5.0, "the trainer publishes a version at most this often"
    )
    models_kept: int = _setting(32, "versions kept in the models topic")
    kafka_session_seconds: float = _setting(
        10.0, "a worker silent for this long loses its partitions"
    )
    retry_seconds_max: float = _setting(10.0, "a store or broker error is retried for this long")
    metrics_host: str = _setting("127.0.0.1", "address that /metrics is served on")
    metrics_port: int = _setting(0, "port that /metrics is served on; 0: any free one")
    quality_window_events: int = _setting(
        20_000, "labelled events in the monitor's window of quality"
    )

    def __post_init__(self) -> None:
        if not 0.0 < self.review_score_min < self.decline_score_min <= 1.0:
            raise SettingError(
                f"review_score_min ({self.review_score_min}) must lie above 0 and below "
                f"decline_score_min ({self.decline_score_min}), which is at most 1"
            )
        for name in (
            "partitions",
            "batch_events_max",
            "models_kept",
            "feedback_limit",
            "review_limit",
            "duplicate_ids_max",
            "breaker_events_min",
        ):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1 (got {getattr(self, name)})")
        if self.batch_events_max > BATCH_EVENTS_LIMIT:
            raise SettingError(
                f"batch_events_max must be at most {BATCH_EVENTS_LIMIT} "
                f"(got {self.batch_events_max}): a commit holds no more"
            )
        self._check_controls()
        if not self.duplicate_days > 0:
            raise SettingError(f"duplicate_days must be above 0 (got {self.duplicate_days})")
        if self.label_signatures not in (REQUIRED, OFF):
            raise SettingError(
                f"label_signatures must be {REQUIRED} or {OFF} (got {self.label_signatures!r})"
            )
        if not 0 <= self.metrics_port <= PORT_MAX:
            raise SettingError(f"metrics_port must be 0 to {PORT_MAX} (got {self.metrics_port})")
        check_connections(self)
        if not KAFKA_NAME.fullmatch(self.consumer_group):
            raise SettingError(
                f"consumer_group must match {KAFKA_NAME.pattern} (got {self.consumer_group!r})"
            )
        TopicNames.of(self.topic_prefix, self.topic_names)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, float) and not 0.0 <= value < math.inf:
                raise SettingError(f"{setting.name} must be a number from 0 on (got {value})")

    def _check_controls(self) -> None:
        if self.mode not in (OBSERVE, ACT):
            raise SettingError(f"mode must be {OBSERVE} or {ACT} (got {self.mode!r})")
        if not self.breaker_decline_share_max <= 1.0:
            raise SettingError(
                "breaker_decline_share_max must be a share from 0 to 1 "
                f"(got {self.breaker_decline_share_max})"
            )
        if self.breaker_amount_minor_max < 0:
            raise SettingError(
                f"breaker_amount_minor_max must be at least 0 (got {self.breaker_amount_minor_max})"
            )
        if not 1 <= self.breaker_window_minutes <= BREAKER_MINUTES_MAX:
            raise SettingError(
                f"breaker_window_minutes must be 1 to {BREAKER_MINUTES_MAX} "
                f"(got {self.breaker_window_minutes})"
            )

    @property
    def model_options(self) -> "ModelOptions":
        """What the settings say to the models, which check it when they are made."""
        # Models bring their compiler, and most commands load neither.
        from models.options import ModelOptions  # noqa: PLC0415

        return ModelOptions(
            **{option.name: getattr(self, option.name) for option in fields(ModelOptions)}
        )

    def embedded(self) -> "Settings":
        """Give the same settings for servers of our own."""
        defaults: dict[str, Any] = {
            item.name: item.default for item in fields(self) if item.name in CONNECTION
        }
        return replace(self, **defaults)

    @property
    def names_of_topics(self) -> TopicNames:
        """What Kafka calls our topics."""
        return TopicNames.of(self.topic_prefix, self.topic_names)

    @property
    def keys_path(self) -> Path:
        """The folder of the keys."""
        return Path(self.keys_dir) if self.keys_dir else Path(self.state_dir) / "keys"

    @property
    def challenger_names(self) -> tuple[str, ...]:
        """The challengers as a tuple, without the champion."""
        names = (name.strip() for name in self.challengers.split(","))
        return tuple(name for name in names if name not in ("", "none", self.model))


SETTINGS: tuple[Field[Any], ...] = fields(Settings)
_KNOWN = {setting.name: setting for setting in SETTINGS}


def load_settings(
    flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None
) -> Settings:
    """Put the settings together; `file` is read when it exists (an explicit one must)."""
    values: dict[str, object] = {}
    path = file or Path(SETTINGS_FILE)
    if file is not None and not path.exists():
        raise SettingError(f"settings file {path} does not exist")
    if path.exists():
        values |= _read(path)
    values |= {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): text
        for name, text in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    values |= flags
    return Settings(**{name: _converted(name, value) for name, value in values.items()})


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"settings file {path}: {error}") from error


def _converted(name: str, value: object) -> Any:
    if name not in _KNOWN:
        near = difflib.get_close_matches(name, _KNOWN, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise SettingError(f"unknown setting {name!r}{hint}")
    wanted: type[Any] = type(_KNOWN[name].default)
    if wanted is bool:
        return _truth(name, value)
    try:
        converted = wanted(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingError(f"{name} must be {wanted.__name__} (got {value!r})") from error
    # Text is read as the type that is wanted; a value of the settings file must be one already.
    if not isinstance(value, str) and (isinstance(value, bool) or converted != value):
        raise SettingError(f"{name} must be {wanted.__name__} (got {value!r})")
    return converted


def _truth(name: str, value: object) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise SettingError(f"{name} must be true or false (got {value!r})")
    return text == "true"
