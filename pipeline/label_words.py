"""The closed lists of words in labels and outcomes."""

from typing import Literal, get_args

Verdict = Literal["fraud", "genuine"]
Source = Literal["analyst", "chargeback", "dispute_won", "customer", "matured", "simulated"]
SOURCES: tuple[Source, ...] = get_args(Source)
OutcomeKind = Literal["approved", "issuer_declined", "settled", "refunded", "overridden"]
OUTCOME_KINDS: tuple[OutcomeKind, ...] = get_args(OutcomeKind)
