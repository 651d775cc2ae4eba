"""What is known of a decision's truth, and what becomes of each further label that speaks of it.

Labels come late, twice, in any order, and against each other. Of all that speak of a transaction
one is in force: the one whose source ranks highest, among equals the one that was said last; a
label that supersedes the one in force by name takes its place whatever the ranks are. So the same
labels in another order end with the same verdict.

>>> first = Label("l1", "t1", "c1", True, "chargeback", 1_600_000_000_000)
>>> path, known = settle(None, first, training_seq=0)
>>> path, settle(known, first, training_seq=1)[0]
('learned', 'repeated')
>>> won = Label("l2", "t1", "c1", False, "dispute_won", 1_600_000_100_000, supersedes="l1")
>>> settle(known, won, training_seq=1)[0]
'corrected'
>>> path, known = settle(None, won, training_seq=0)
>>> path, settle(known, first, training_seq=1)[0]
('learned', 'superseded')
"""

import hashlib
from typing import Literal, get_args

import msgspec
from msgspec.structs import replace

from pipeline.events import Label
from pipeline.label_words import SOURCES, Source

LabelPath = Literal[
    "learned", "corrected", "repeated", "confirmed", "contradicted", "superseded", "unknown"
]
"""What became of a label: the first two are learned, the others say why not."""
LABEL_PATHS: tuple[LabelPath, ...] = get_args(LabelPath)

# Whose word stands against whose.
SOURCE_RANKS: dict[Source, int] = {
    "matured": 0,
    "simulated": 1,
    "customer": 2,
    "chargeback": 3,
    "analyst": 3,
    "dispute_won": 4,
}
# Labels of one decision that are remembered; a redelivery older than these is judged anew.
HISTORY_MAX = 8

HASH_BYTES = 8
TIME_BYTES = 6
SEQ_BYTES = 5
HEAD_BYTES = 1 + TIME_BYTES + SEQ_BYTES
# Set in the hash of a label that was taken back before it came.
TAKEN_BACK = 1


class KnownVerdict(msgspec.Struct, frozen=True, gc=False):
    """The verdict in force for a decision.

    Parameters
    ----------
    training_seq
        Number of the example that taught this verdict.
    labels
        Hashes of the labels seen or taken back, the one in force first.
    """

    is_fraud: bool
    source: Source
    label_time_ms: int
    training_seq: int
    labels: tuple[int, ...]

    def packed(self) -> bytes:
        """Give 20 bytes, and 8 more for each further label."""
        return b"%c%b%b%b" % (
            SOURCES.index(self.source) << 1 | self.is_fraud,
            self.label_time_ms.to_bytes(TIME_BYTES, "little"),
            self.training_seq.to_bytes(SEQ_BYTES, "little"),
            b"".join([label.to_bytes(HASH_BYTES, "little") for label in self.labels]),
        )

    @classmethod
    def unpacked(cls, data: bytes) -> "KnownVerdict":
        """Read what `packed` gave."""
        time_ms = data[1 : 1 + TIME_BYTES]
        labels = range(HEAD_BYTES, len(data), HASH_BYTES)
        return cls(
            is_fraud=bool(data[0] & 1),
            source=SOURCES[data[0] >> 1],
            label_time_ms=int.from_bytes(time_ms, "little"),
            training_seq=int.from_bytes(data[1 + TIME_BYTES : HEAD_BYTES], "little"),
            labels=tuple(int.from_bytes(data[at : at + HASH_BYTES], "little") for at in labels),
        )


def is_packed_verdict(data: bytes) -> bool:
    """Say whether bytes can be what `KnownVerdict.packed` gave."""
    labels, rest = divmod(len(data) - HEAD_BYTES, HASH_BYTES)
    return not rest and 1 <= labels <= HISTORY_MAX and data[0] >> 1 < len(SOURCES)


def settle(
    known: KnownVerdict | None, label: Label, *, training_seq: int
) -> tuple[LabelPath, KnownVerdict]:
    """Say what becomes of a label whose decision is there, and what is known afterwards.

    `training_seq` is the number of its example, if it is to be learned.
    """
    named = label_hash(label.label_id)
    if known is None:
        return "learned", _in_force(label, training_seq, (named, *_taken_back(label, ())))
    if named in known.labels:
        return "repeated", known
    if named | TAKEN_BACK in known.labels:
        seen = tuple(named if item == named | TAKEN_BACK else item for item in known.labels)
        return "superseded", replace(known, labels=seen)
    others = (*known.labels, *_taken_back(label, known.labels))
    wins = _precedence(label.source, label.label_time_ms, named) > _precedence(
        known.source, known.label_time_ms, known.labels[0]
    )
    if label.supersedes is not None:
        wins = wins or label_hash(label.supersedes) == known.labels[0]
    if not wins:
        path: LabelPath = "confirmed" if label.is_fraud == known.is_fraud else "contradicted"
        return path, replace(known, labels=_bounded((*others, named)))
    if label.is_fraud == known.is_fraud:
        return "confirmed", _in_force(label, known.training_seq, (named, *others))
    return "corrected", _in_force(label, training_seq, (named, *others))


def label_hash(label_id: str) -> int:
    """Hash a label's id to 64 bits, the lowest of them 0."""
    digest = hashlib.blake2b(label_id.encode(), digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "little") & ~TAKEN_BACK


def _in_force(label: Label, training_seq: int, labels: tuple[int, ...]) -> KnownVerdict:
    return KnownVerdict(
        label.is_fraud, label.source, label.label_time_ms, training_seq, _bounded(labels)
    )


def _taken_back(label: Label, seen: tuple[int, ...]) -> tuple[int, ...]:
    if label.supersedes is None:
        return ()
    named = label_hash(label.supersedes)
    return () if named in seen or named | TAKEN_BACK in seen else (named | TAKEN_BACK,)


def _bounded(labels: tuple[int, ...]) -> tuple[int, ...]:
    """Keep the one in force, and the latest of the others."""
    first, others = labels[:1], labels[1:]
    return (*first, *others[-(HISTORY_MAX - 1) :])


def _precedence(source: Source, time_ms: int, named: int) -> tuple[int, int, int]:
    return SOURCE_RANKS[source], time_ms, named
