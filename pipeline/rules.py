"""Rules beside the model, or in its place while none can be had: plain, read from a TOML file.

A rule has a reason code, an action (review or decline) and conditions that must all hold, over the
amount in major units and features by name. A missing feature fulfils no condition. Its state says
when it is asked:

    act        beside the model: the stronger action of the two is taken, the score is untouched
    shadow     beside the model: that it held is recorded with the decision, and nothing else
    fallback   only while no model can be had (then `act` acts as well, and `shadow` watches)

The strongest action of the rules that hold is taken; their codes are the first reasons.

>>> from pipeline.schema import load_schema
>>> rules = parse_rules('''
... [[rule]]
... code = "RULE_LARGE_AND_NEW"
... action = "review"
... when = ["amount >= 500.00", "card_counterpart_new == 1"]
... ''', load_schema("card"), place="mine.toml")
>>> len(rules.rules), rules.beside, rules.version.startswith("rules@"), is_of_rules(rules.version)
(1, (), True, True)
"""

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RulesError
from pipeline.features import feature_table
from pipeline.policy import APPROVE, REASONS_MAX, PrecededReasons, Reasons
from pipeline.records import ACTIONS
from pipeline.schema import Schema
from pipeline.settings import Settings

NAME = "rules"
AMOUNT = "amount"
CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
CONDITION = re.compile(r" *([a-z][a-z0-9_]*) *(>=|<=|==) *(-?[0-9]{1,12}(?:\.[0-9]{1,8})?) *")
RULES_MAX = 100

State = Literal["act", "shadow", "fallback"]
Operator = Literal[">=", "<=", "=="]
Booleans = NDArray[np.bool_]
COMPARE = {">=": np.greater_equal, "<=": np.less_equal, "==": np.equal}


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str
    action: Literal["review", "decline"]
    when: list[str]
    state: State = "fallback"
    description: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: list[_Rule]


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; `column` is that of a feature, `None` for the amount in minor units."""

    column: int | None
    operator: Operator
    value: float

    def holds(self, features: NDArray[np.float32], amount_minor: NDArray[np.int64]) -> Booleans:
        """Say for each event whether it holds; never where a feature is missing."""
        if self.column is None:
            compared: Booleans = COMPARE[self.operator](amount_minor, np.int64(self.value))
        else:
            # As features are: 0.1 of the file equals 0.1 of an event.
            given = features[:, self.column]
            compared = COMPARE[self.operator](given, np.float32(self.value))
        return compared


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `action` is its number in `ACTIONS`, `when` are its conditions as written."""

    code: str
    action: int
    conditions: tuple[Condition, ...]
    state: State = "fallback"
    when: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What rules say of events: actions by their numbers, reasons, and the codes that held.

    `version` is that of the rules; it is empty, and so is `held`, where none was asked.
    """

    actions: NDArray[np.int64]
    reasons: Sequence[Reasons]
    held: Sequence[list[str]] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a file, and the name that their decisions are stamped with."""

    rules: tuple[Rule, ...]
    version: str

    @property
    def beside(self) -> tuple[Rule, ...]:
        """The rules that are asked beside a model."""
        return tuple(rule for rule in self.rules if rule.state != "fallback")

    def judge(self, features: NDArray[np.float32], amount_minor: NDArray[np.int64]) -> Ruling:
        """Judge events without a model; at most three reasons, the strongest action's first."""
        return self._judge(self.rules, features, amount_minor)

    def overrule(
        self,
        features: NDArray[np.float32],
        amount_minor: NDArray[np.int64],
        actions: NDArray[np.int64],
        reasons: Sequence[Reasons],
    ) -> Ruling:
        """Judge events beside a model, whose actions and reasons are given.

        The stronger action of the two stands. The codes of the rules that act come before the
        model's reasons, which stay as they are.
        """
        beside = self.beside
        if not beside:
            return Ruling(actions, reasons)
        ruling = self._judge(beside, features, amount_minor)
        first = {row: given for row, given in enumerate(ruling.reasons) if given}
        return Ruling(
            np.maximum(actions, ruling.actions),
            PrecededReasons(first, reasons) if first else reasons,
            ruling.held,
            self.version,
        )

    def _judge(
        self,
        asked: Sequence[Rule],
        features: NDArray[np.float32],
        amount_minor: NDArray[np.int64],
    ) -> Ruling:
        actions = np.full(len(features), APPROVE, dtype=np.int64)
        # Of most events no rule holds; those share a list, which nobody changes.
        reasons: list[Reasons] = [[]] * len(features)
        codes: list[list[str]] = [[]] * len(features)
        # The strongest first, and those of one action as they stand in the file.
        for rule in sorted(asked, key=lambda rule: -rule.action):
            held = np.ones(len(features), dtype=np.bool_)
            for condition in rule.conditions:
                held &= condition.holds(features, amount_minor)
            acts = rule.state != "shadow"
            if acts:
                actions = np.where(held, np.maximum(actions, rule.action), actions)
            for row in np.flatnonzero(held).tolist():
                codes[row] = [*codes[row], rule.code]
                if acts and len(reasons[row]) < REASONS_MAX:
                    reasons[row] = [*reasons[row], (rule.code, 1.0)]
        return Ruling(actions, reasons, codes, self.version)


NO_RULES = Rules((), f"{NAME}@none")
"""Approves everything: what is left where a schema of one's own has no rules."""


def is_of_rules(version: str) -> bool:
    """Say whether the version of a decision is that of rules."""
    return version.startswith(f"{NAME}@")


def load_rules(settings: Settings, schema: Schema) -> Rules:
    """Read the file of the settings, else the one shipped for the schema, if there is one."""
    if settings.rules:
        path = Path(settings.rules)
        return parse_rules(read_rules(path), schema, place=str(path))
    if settings.schema.endswith(".toml"):
        return NO_RULES
    shipped = resources.files("schemas").joinpath("rules", f"{schema.name}.toml")
    return parse_rules(
        shipped.read_text(encoding="utf-8"), schema, place=f"rules/{schema.name}.toml"
    )


def read_rules(path: Path) -> str:
    """Read the text of a file of rules, or say why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(f"rules file {path} cannot be read: {error}") from error


def parse_rules(text: str, schema: Schema, *, place: str) -> Rules:
    """Turn TOML text into rules, or say where it is wrong."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RulesError(f"rules {place}: {error}") from error
    if not 1 <= len(file.rule) <= RULES_MAX:
        raise RulesError(f"rules {place}: 1 to {RULES_MAX} [[rule]] (got {len(file.rule)})")
    codes = [rule.code for rule in file.rule]
    table = feature_table(schema)
    columns = {item.name: column for column, item in enumerate(table)}
    of_models = {item.reason_code for item in table}
    rules = []
    for number, rule in enumerate(file.rule, start=1):
        where = f"rules {place}: rule {number}"
        if not CODE.fullmatch(rule.code):
            raise RulesError(f"{where}: code must match {CODE.pattern} (got {rule.code!r})")
        if codes.count(rule.code) > 1:
            raise RulesError(f"{where}: code {rule.code!r} is used twice")
        if rule.code in of_models:
            raise RulesError(f"{where}: code {rule.code!r} is a reason code of the models")
        if not rule.when:
            raise RulesError(f"{where} ({rule.code}): when needs at least one condition")
        conditions = tuple(
            _condition(item, columns, schema, f"{where} ({rule.code})") for item in rule.when
        )
        action, when = ACTIONS.index(rule.action), tuple(rule.when)
        rules.append(Rule(rule.code, action, conditions, rule.state, when, rule.description))
    return Rules(tuple(rules), _version(file.rule))


def _condition(text: str, columns: dict[str, int], schema: Schema, where: str) -> Condition:
    found = CONDITION.fullmatch(text)
    if found is None:
        raise RulesError(
            f"{where}: a condition is a name, one of >= <= ==, and a number (got {text!r})"
        )
    name, operator, digits = found.groups()
    if name == AMOUNT and schema.amount is not None:
        scaled = Decimal(digits).scaleb(schema.minor_digits)
        if scaled != int(scaled):
            raise RulesError(
                f"{where}: {AMOUNT} has at most {schema.minor_digits} decimal places (got {digits})"
            )
        return Condition(None, operator, int(scaled))  # type: ignore[arg-type]
    if name not in columns:
        raise RulesError(
            f"{where}: {name!r} is no feature of schema {schema.name!r} "
            "(docs/reference.md lists those of card)"
        )
    return Condition(columns[name], operator, float(digits))  # type: ignore[arg-type]


def _version(rules: Sequence[_Rule]) -> str:
    """Name rules by what they say; never by digits alone, as the versions of models are."""
    said = []
    for rule in rules:
        when = [" ".join(item.split()) for item in rule.when]
        # A file without states has the name that it had before there were any.
        state = [] if rule.state == "fallback" else [rule.state]
        said.append([rule.code, rule.action, when, *state])
    text = msgspec.json.encode(said)
    return f"{NAME}@r{hashlib.sha256(text).hexdigest()[:11]}"
