"""What each rule has caught, and whom it has bothered: hits, labels and money by its code.

A hit is a decision for which the rule held, whether it acted or only watched. Precision is that of
its labelled hits. Money is in minor units, of whatever currency.

>>> stats = RuleStats(["RULE_A"])
>>> stats.decided(["RULE_A"], 500)
>>> stats.decided(["RULE_A"], 200)
>>> stats.labelled(["RULE_A"], 500, is_fraud=True)
>>> found, = stats.numbers
>>> found.hits, found.precision, found.fraud_minor, found.genuine_minor
(2, 1.0, 500, 0)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.rules import RULES_MAX

# Those of the file, and as many again that files before it had; the rest is counted together.
CODES_MAX = 2 * RULES_MAX
OTHER = "other"


@dataclass(slots=True)
class RuleNumbers:
    """What is known of one rule; `amount_minor` is of all hits, the others are of labelled ones."""

    rule: str
    hits: int = 0
    amount_minor: int = 0
    frauds: int = 0
    genuine: int = 0
    fraud_minor: int = 0
    genuine_minor: int = 0

    @property
    def precision(self) -> float | None:
        """The share of frauds among its labelled hits, `None` before the first label."""
        labelled = self.frauds + self.genuine
        return self.frauds / labelled if labelled else None


class RuleStats:
    """Numbers by rule; `codes` are there from the beginning, others come with their first hit."""

    def __init__(self, codes: Iterable[str] = ()) -> None:
        self._by_code = {code: RuleNumbers(code) for code in codes}

    @property
    def numbers(self) -> tuple[RuleNumbers, ...]:
        """What is known of each rule."""
        return tuple(self._by_code.values())

    def decided(self, codes: Sequence[str], amount_minor: int) -> None:
        """Count a decision for which these rules held."""
        for code in codes:
            found = self._of(code)
            found.hits += 1
            found.amount_minor += amount_minor

    def labelled(
        self, codes: Sequence[str], amount_minor: int, *, is_fraud: bool, corrects: bool = False
    ) -> None:
        """Count the label of such a decision; one that corrects takes the opposite one back."""
        for code in codes:
            self._count(self._of(code), amount_minor, 1, is_fraud=is_fraud)
            if corrects:
                self._count(self._of(code), amount_minor, -1, is_fraud=not is_fraud)

    @staticmethod
    def _count(found: RuleNumbers, amount_minor: int, by: int, *, is_fraud: bool) -> None:
        if is_fraud:
            found.frauds += by
            found.fraud_minor += by * amount_minor
        else:
            found.genuine += by
            found.genuine_minor += by * amount_minor

    def _of(self, code: str) -> RuleNumbers:
        if code not in self._by_code and len(self._by_code) >= CODES_MAX:
            code = OTHER
        return self._by_code.setdefault(code, RuleNumbers(code))
