"""Which versions a worker takes: signed ones that can score; and what it does without any."""

import hashlib
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from consumers.model_feed import ModelFeed
from consumers.model_pointer import CHAMPION_KEY, Champion
from models import MODELS, make_model
from models.contract import Model
from models.snapshot import SNAPSHOT_BYTES_MAX, encode
from pipeline.canary import canary_rows, check_canary
from pipeline.counts import WorkerCounts
from pipeline.errors import KeyFileError, SnapshotError
from pipeline.features import FeatureKernel
from pipeline.keys import init_keys, retire, rotate
from pipeline.sealing import SEAL_BYTES, opened, read_sealed, seal
from pipeline.settings import Settings
from pipeline.signing import Headers, ModelSigner, ModelVerifier
from tests.strategies import CARD

KERNEL = FeatureKernel(CARD)
ROWS = canary_rows(KERNEL)


def learned(name: str = "additive", examples: int = 50) -> Model:
    model = make_model(name, KERNEL.names)
    chance = np.random.default_rng(5)
    rows = chance.normal(size=(examples, len(KERNEL.names))).astype(np.float32)
    frauds = (rows[:, 0] > 0.5).astype(np.int8)
    model.learn(rows, frauds, np.ones(examples))
    return model


def body(version: str, model: Model | None = None, schema_hash: str = KERNEL.schema_hash) -> bytes:
    name, _, offset = version.partition("@")
    return encode(
        model or learned(name),
        version=version,
        training_offset=int(offset),
        schema_hash=schema_hash,
    )


@dataclass
class Topic:
    """The models topic as a trainer and a worker see it."""

    settings: Settings
    feed: ModelFeed
    counts: WorkerCounts
    signer: ModelSigner

    def publish(self, version: str, data: bytes | None = None) -> None:
        value = seal(body(version), self.signer) if data is None else data
        self.feed.take(version.encode(), value)

    def pointed(self, version: str, *challengers: str) -> tuple[bytes, Headers]:
        offset = int(version.partition("@")[2])
        value = msgspec.json.encode(Champion(version, list(challengers), offset, {}))
        return value, self.signer.headers(CHAMPION_KEY, value)

    def point(self, version: str, *challengers: str) -> None:
        self.feed.take(CHAMPION_KEY, *self.pointed(version, *challengers))
        self.feed.adopt()

    @property
    def in_force(self) -> str:
        return "rules" if self.feed.in_force is None else self.feed.in_force[0].name

    @property
    def refused(self) -> dict[str, int]:
        return {fault: count for fault, count in self.counts.models_refused.items() if count}


def topic_of(settings: Settings) -> Topic:
    counts = WorkerCounts(schema="card")
    feed = ModelFeed("", CARD, settings, counts)
    return Topic(settings, feed, counts, ModelSigner(settings))


@pytest.fixture
def topic(tmp_path: Path) -> Topic:
    init_keys(tmp_path)
    return topic_of(replace(Settings(), keys_dir=str(tmp_path), challengers="none"))


def test_what_the_trainer_signed_is_taken(topic: Topic) -> None:
    topic.feed.adopt()
    # Nothing was published yet: a model that has learned nothing is no emergency.
    assert topic.in_force == "additive@0"

    topic.publish("additive@9")
    topic.point("additive@9")

    assert topic.in_force == "additive@9"
    assert topic.refused == {}
    assert not topic.counts.rules_in_force


def test_a_version_that_is_held_is_taken_whatever_the_pointer_says(topic: Topic) -> None:
    for version in ("additive@9", "additive@20"):
        topic.publish(version)
    topic.point("additive@20")
    # The store knows that more was learned: a pointer to this one would be refused as stale.
    topic.feed.floor = 20

    topic.feed.pinned = "additive@9"
    topic.feed.adopt()
    assert topic.in_force == "additive@9"

    topic.publish("additive@30")
    topic.point("additive@30")
    assert topic.in_force == "additive@9"
    # Retired in the topic, it stays where it decides.
    topic.feed.take(b"additive@9", None)
    topic.feed.adopt()
    assert topic.in_force == "additive@9"

    topic.feed.pinned = None
    topic.feed.adopt()
    assert (topic.in_force, topic.refused) == ("additive@30", {})


def test_challengers_of_the_held_offset_come_with_it(tmp_path: Path) -> None:
    init_keys(tmp_path)
    topic = topic_of(replace(Settings(), keys_dir=str(tmp_path), challengers="logistic"))
    for version in ("additive@9", "logistic@9", "additive@20", "logistic@20"):
        topic.publish(version)
    topic.point("additive@20", "logistic@20")

    topic.feed.pinned = "logistic@9"
    topic.feed.adopt()

    assert topic.feed.in_force is not None
    champion, challengers = topic.feed.in_force
    assert (champion.name, [item.name for item in challengers]) == ("logistic@9", ["additive@9"])


def test_a_start_that_cannot_have_the_held_version_takes_none_that_has_learned_more(
    topic: Topic,
) -> None:
    for version in ("additive@5", "additive@20"):
        topic.publish(version)
    topic.feed.pinned = "additive@9"

    topic.point("additive@20")

    assert topic.in_force == "additive@5"


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def forged(topic: Topic) -> bytes:
    """Sign with a key of one's own, under the name of the trainer's."""
    folder = topic.settings.keys_path
    other = folder.with_name("other")
    init_keys(other, ["models"])
    [mine], [ours] = ((root / "private").glob("models-*") for root in (other, folder))
    mine.rename(mine.with_name(ours.name))
    return seal(body("additive@12"), ModelSigner(replace(topic.settings, keys_dir=str(other))))


class Unheard:
    """A model of a class that no worker knows."""

    name = "unheard"

    def state(self) -> tuple[dict[str, object], dict[str, object]]:
        return {}, {}


def unheard(topic: Topic) -> bytes:
    return seal(body("additive@12", Unheard()), topic.signer)  # type: ignore[arg-type]


def huge(topic: Topic) -> bytes:
    return bytes(SNAPSHOT_BYTES_MAX + 1)


def not_finite(topic: Topic) -> bytes:
    """Put NaN into the first weights of a good snapshot, with all its sums and signatures right."""
    whole = body("logistic@12")
    model = learned("logistic")
    _, arrays = model.state()
    weights = next(found for found in arrays.values() if found.dtype == np.float64 and found.size)
    damaged = weights.copy()
    damaged.flat[0] = math.nan
    replaced = whole[:-32].replace(weights.tobytes(), damaged.tobytes())
    assert replaced != whole[:-32]
    return seal(replaced + hashlib.sha256(replaced).digest(), topic.signer)


BAD: dict[str, tuple[Callable[[Topic], bytes], str]] = {
    "unsigned": (lambda topic: body("additive@12"), "signature"),
    "forged": (forged, "signature"),
    "of another version": (lambda topic: seal(body("additive@11"), topic.signer), "signature"),
    "flipped in the model": (
        lambda t: flipped(seal(body("additive@12"), t.signer), 99), "signature",
    ),
    "flipped in the signature": (
        lambda t: flipped(seal(body("additive@12"), t.signer), -3), "signature",
    ),
    "cut short": (lambda topic: seal(body("additive@12"), topic.signer)[:-1], "signature"),
    "empty": (lambda topic: b"", "signature"),
    "only a signature": (lambda topic: seal(b"", topic.signer), "signature"),
    "signed rubbish": (lambda topic: seal(b"rubbish", topic.signer), "damaged"),
    "not finite": (not_finite, "not_finite"),
    "too large": (huge, "too_large"),
    "unknown class": (unheard, "unknown_model"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_whatever_is_wrong_is_counted_and_the_version_before_stays(topic: Topic, kind: str) -> None:
    make, fault = BAD[kind]
    topic.publish("additive@9")
    topic.point("additive@9")

    topic.publish("additive@12", make(topic))
    topic.point("additive@12")

    assert topic.in_force == "additive@9"
    assert topic.refused == {fault: 1}


def test_no_bit_of_a_signed_snapshot_can_be_changed(topic: Topic) -> None:
    sealed = seal(body("logistic@3"), topic.signer)
    verifier = ModelVerifier(topic.settings)
    assert read_sealed(sealed, verifier).version == "logistic@3"
    places = np.random.default_rng(1).integers(0, len(sealed), 200).tolist()

    for at in [*places, 0, -1, -SEAL_BYTES, -SEAL_BYTES - 1]:
        with pytest.raises(SnapshotError, match="^snapshot: (it must|its signature)"):
            opened(flipped(sealed, at % len(sealed)), verifier)


def test_what_is_signed_is_the_same_for_the_same_model(topic: Topic) -> None:
    sealed = [seal(body("logistic@3"), topic.signer) for _ in range(2)]

    assert sealed[0] == sealed[1]
    assert sealed[0][:-SEAL_BYTES] == body("logistic@3")


def test_a_snapshot_of_the_unsigned_format_is_refused_by_name(topic: Topic) -> None:
    old = body("additive@9").replace(b'"format":2', b'"format":1')

    with pytest.raises(SnapshotError, match=r"it must end in a signature \(it is of format 1, un"):
        opened(old, ModelVerifier(topic.settings))


def test_a_pickle_is_never_read_before_its_signature(tmp_path: Path, topic: Topic) -> None:
    """A payload that would leave a file: it stays unread unless it is signed."""
    trace = tmp_path / "trace"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(trace),)

    pickled = np.frombuffer(pickle.dumps(Payload()), dtype=np.int8)
    settings = replace(topic.settings, model="river.naive_bayes.GaussianNB", river_pickle=True)
    river = make_model(settings.model, KERNEL.names, settings.model_options)
    state, arrays = river.state()

    class Wolf:
        name = settings.model

        def state(self) -> tuple[object, object]:
            return state, arrays | {"pickle": pickled}

    payload = body(f"{settings.model}@12", Wolf())  # type: ignore[arg-type]
    other = topic_of(settings)
    bad = flipped(seal(payload, topic.signer), -1)
    for data in (payload, bad):
        other.publish(f"{settings.model}@12", data)
    assert not trace.exists()
    assert other.refused == {"signature": 2}

    # With the setting off it stays unread even where the signature is good.
    with pytest.raises(SnapshotError, match="kept as a pickle"):
        read_sealed(seal(payload, topic.signer), ModelVerifier(settings))
    assert not trace.exists()
    # Proof that the payload works: signed, and trusted by the setting, it runs.
    other.publish(f"{settings.model}@12", seal(payload, topic.signer))
    assert trace.exists()


def test_a_forged_pointer_changes_nothing(topic: Topic) -> None:
    for version in ("additive@5", "additive@9"):
        topic.publish(version)
    topic.point("additive@9")
    value, headers = topic.pointed("additive@5")
    later = msgspec.json.encode(Champion("additive@5", [], 99, {}))

    for data, own in ((later, []), (later, headers), (value, []), (b"{}", headers), (None, [])):
        topic.feed.take(CHAMPION_KEY, data, own)
        topic.feed.adopt()

    assert topic.in_force == "additive@9"
    assert topic.refused == {"signature": 5}


def test_an_old_signed_pointer_does_not_roll_back(topic: Topic) -> None:
    for version in ("additive@5", "additive@9"):
        topic.publish(version)
    topic.point("additive@5")
    topic.point("additive@9")

    topic.point("additive@5")

    assert topic.in_force == "additive@9"
    # A trainer that starts does the same with its last outbox: that is no fault.
    assert topic.refused == {}


def test_a_worker_that_starts_knows_what_was_in_force(topic: Topic) -> None:
    """Compaction has left the pointer that an attacker sent again; the newest version is there."""
    topic.feed.floor = 9
    for version in ("additive@5", "additive@9"):
        topic.publish(version)

    topic.point("additive@5")
    topic.feed.adopt()

    assert topic.in_force == "additive@9"
    assert topic.refused == {"stale": 1}


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("examples", [0, 1, 2_000])
def test_every_model_of_ours_passes_the_canary(name: str, examples: int) -> None:
    check_canary(learned(name, examples), ROWS)


class Broken:
    """A model that loads and cannot score."""

    def __init__(self, score: float, contribution: float = 0.0, *, raises: bool = False) -> None:
        self._given, self._contribution, self._raises = score, contribution, raises

    def score(self, rows: np.ndarray) -> object:
        if self._raises:
            raise FloatingPointError("overflow")
        scored = learned().score(rows)
        contributions = scored.contributions + self._contribution
        return replace(scored, scores=self.scores(rows), contributions=contributions)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), self._given)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Broken(math.nan), r"must be 0 to 1 \(got nan"),
        (Broken(1.5), r"must be 0 to 1 \(got 1.5"),
        (Broken(-0.1), r"must be 0 to 1 \(got -0.1"),
        (Broken(0.5, math.inf), "reasons must be numbers"),
        (Broken(0.5, raises=True), "must score the canary .*FloatingPointError: overflow"),
    ],
)
def test_a_model_that_cannot_score_is_refused(broken: Broken, said: str) -> None:
    with pytest.raises(SnapshotError, match=said) as raised:
        check_canary(broken, ROWS)  # type: ignore[arg-type]
    assert raised.value.fault == "canary"


def test_a_version_whose_weights_overflow_is_never_adopted(topic: Topic) -> None:
    """Finite weights, signed by the trainer, that give NaN: seen before the first event."""
    model = learned("logistic")
    state, arrays = model.state()
    weights = arrays["weights"]
    weights[...] = np.where(np.arange(len(weights)) % 2, 1e308, -1e308)

    class Overflowing:
        name = "logistic"

        def state(self) -> tuple[object, object]:
            return state, arrays

    topic.publish("additive@9")
    topic.point("additive@9")
    data = seal(body("logistic@12", Overflowing()), topic.signer)  # type: ignore[arg-type]
    topic.publish("logistic@12", data)
    topic.point("logistic@12")

    assert topic.in_force == "additive@9"
    assert topic.refused == {"canary": 1}


def test_without_a_version_in_force_the_newest_valid_one_is_taken(topic: Topic) -> None:
    for version in ("additive@5", "additive@7"):
        topic.publish(version)
    topic.publish("additive@9", b"damaged")

    topic.point("additive@9")

    assert topic.in_force == "additive@7"
    topic.publish("additive@12")
    topic.point("additive@12")
    assert topic.in_force == "additive@12"


def test_without_any_valid_version_rules_decide_until_one_comes(topic: Topic) -> None:
    topic.publish("additive@9", b"damaged")
    topic.point("additive@9")
    assert topic.in_force == "rules"
    assert topic.counts.rules_in_force

    # It learned other features: no version of ours.
    topic.publish("additive@10", seal(body("additive@10", schema_hash="other"), topic.signer))
    topic.point("additive@10")
    assert topic.in_force == "rules"

    topic.publish("additive@12")
    topic.point("additive@12")
    assert topic.in_force == "additive@12"
    assert not topic.counts.rules_in_force


def test_a_topic_that_was_emptied_is_no_new_installation(topic: Topic) -> None:
    topic.feed.floor = 9
    topic.feed.adopt()

    assert topic.in_force == "rules"


def test_a_forger_cannot_put_a_new_installation_under_rules(topic: Topic) -> None:
    topic.publish("additive@9", b"damaged")
    topic.feed.take(CHAMPION_KEY, b"{}", [])
    topic.feed.adopt()

    assert topic.in_force == "additive@0"
    assert topic.refused == {"signature": 2}


def test_keys_of_models_are_rotated_and_retired_under_a_worker_that_runs(topic: Topic) -> None:
    old = seal(body("additive@20"), topic.signer)
    [first] = [file.stem for file in (topic.settings.keys_path / "public").glob("models-*")]
    rotate(topic.settings.keys_path, "models")
    topic.publish("additive@9")
    topic.point("additive@9")
    assert topic.in_force == "additive@9"

    retire(topic.settings.keys_path, first)
    topic.publish("additive@20", old)
    topic.point("additive@20")

    assert topic.in_force == "additive@9"
    assert topic.refused == {"signature": 1}


def test_a_worker_without_a_public_key_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no key to check models with in"):
        ModelFeed(
            "", CARD, replace(Settings(), keys_dir=str(tmp_path)), WorkerCounts(schema="card")
        )
