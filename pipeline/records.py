"""What leaves the core: decisions and training examples, as typed records of the wire.

The fields stand in the order of `docs/wire-formats.md`, since the order of a struct is the order
of its JSON. Features travel as bytes (little-endian float32), which JSON carries as base64.
Writers and readers share these two structs, so that they cannot drift apart; fields that a reader
does not know are left out.

>>> record = DecisionRecord(
...     "t1", 1000, {"card": "c1"}, 950, "EUR", "review", 0.4, [("AMOUNT_ABOVE_CARD_USUAL", 1.5)],
...     "additive@7", "p1", 1.0, 7, "s1", pack_features([1.0, 2.5]), {}, ("transactions", 0, 3),
... )
>>> encode_record(record)[:44]
b'{"transaction_id":"t1","event_time":1000,"ke'
>>> record.features
b'\\x00\\x00\\x80?\\x00\\x00 @'
>>> [unpack_features(back.features).tolist() for back in decode_decisions([encode_record(record)])]
[[1.0, 2.5]]
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeVar, get_args

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.actions import ACTIONS as ACTIONS  # noqa: PLC0414 - a door
from pipeline.actions import Action as Action  # noqa: PLC0414 - a door
from pipeline.incumbent import Incumbent
from pipeline.label_words import Source, Verdict

T = TypeVar("T")

Mode = Literal["observe", "act"]
Taken = Literal["approve", "review", "decline", "none"]

MODES: tuple[Mode, ...] = get_args(Mode)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# Reasons of what overrules the policy: the lists of operators, and the breaker.
LIST_BLOCKED, LIST_ALLOWED, BREAKER = OVERRULING = ("LIST_BLOCKED", "LIST_ALLOWED", "BREAKER")

Ratio = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]

FEATURE_DTYPE = np.dtype("<f4")


# Neither struct can be part of a cycle, so the garbage collector need not visit them (gc=False).
class DecisionRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One decision with all that a later reader needs to judge or repeat it."""

    transaction_id: str
    event_time: int
    keys: dict[str, str]
    amount: Count
    currency: str
    action: Action
    score: Ratio
    reasons: list[tuple[str, float]]
    model_version: str
    policy_version: str
    propensity: Ratio
    label_offset: int
    schema_hash: str
    features: bytes
    challengers: dict[str, Ratio]
    source: tuple[str, Count, Count]
    members: dict[str, Ratio] = {}
    degraded: bool = False
    incumbent: Incumbent | None = None
    rules: list[str] = []
    rules_version: str = ""
    # Without these it was decided before there was a mode, and acted on.
    mode: Mode | None = None
    action_taken: Taken | None = None
    control_offset: Annotated[int, msgspec.Meta(ge=-1)] | None = None

    @property
    def taken(self) -> Taken:
        """What was to be done: the action, or nothing in observe mode."""
        return self.action if self.action_taken is None else self.action_taken


class TrainingExample(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One label joined to what was decided and known at decision time."""

    label_id: str
    transaction_id: str
    partition: Count
    training_seq: Count
    verdict: Verdict
    source: Source
    weight: float
    supersedes: Count | None
    keys: dict[str, str]
    amount: Count
    event_time: int
    label_time: int
    schema_hash: str
    features: bytes
    score: Ratio
    action: Action
    model_version: str
    challengers: dict[str, Ratio]
    members: dict[str, Ratio] = {}
    rules: list[str] = []

    @property
    def is_fraud(self) -> bool:
        """Whether the verdict is fraud."""
        return self.verdict == "fraud"


_ENCODER = msgspec.json.Encoder()
_DECISIONS = msgspec.json.Decoder(DecisionRecord)
_EXAMPLES = msgspec.json.Decoder(TrainingExample)


def encode_record(record: DecisionRecord | TrainingExample) -> bytes:
    """Write a record as one JSON object."""
    return _ENCODER.encode(record)


def decode_decisions(values: Iterable[bytes | None]) -> Iterator[DecisionRecord | None]:
    """Read records of the `decisions` topic; `None` stands for one that is not of the format."""
    for value in values:
        yield _decoded(_DECISIONS, value)


def decode_examples(values: Iterable[bytes | None]) -> Iterator[TrainingExample | None]:
    """Read records of the `training` topic; `None` stands for one that is not of the format."""
    for value in values:
        yield _decoded(_EXAMPLES, value)


def _decoded(decoder: msgspec.json.Decoder[T], value: bytes | None) -> T | None:
    try:
        return None if value is None else decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def pack_features(values: ArrayLike) -> bytes:
    """Give features as little-endian float32."""
    return np.asarray(values, dtype=FEATURE_DTYPE).tobytes()


def unpack_features(data: bytes) -> NDArray[np.float32]:
    """Read what `pack_features` wrote; the array is read-only."""
    return np.frombuffer(data, dtype=FEATURE_DTYPE)
