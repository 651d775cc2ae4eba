"""A trainer whose models remember weeks: killed while a fit is pending, it gives the same bytes."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest

from consumers.model_pointer import CHAMPION_KEY, Champion
from models import Boosted, make_model
from models.snapshot import encode
from pipeline.durations import HOUR_MS
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.records import TrainingExample, encode_record, pack_features
from pipeline.sealing import opened
from pipeline.settings import Settings
from pipeline.signing import ModelVerifier
from pipeline.topics import MODELS, TRAINING
from stack.servers import Endpoints
from tests.integration.processes import Processes, read, send
from tests.resetting import reset
from tests.strategies import CARD, MONDAY_MS, example
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KERNEL = FeatureKernel(CARD)
COUNT = 4_000
# 25 an hour: six and a half days.
A_HOUR = 25


def log() -> list[TrainingExample]:
    """Examples of three feedback partitions; some of them are there twice."""
    chance = np.random.default_rng(1)
    rows = chance.normal(size=(COUNT, len(KERNEL.names)))
    frauds = chance.random(COUNT) < np.where(rows[:, 0] > 1.0, 0.5, 0.05)
    once = [
        example(
            place // 3,
            partition=place % 3,
            schema_hash=KERNEL.schema_hash,
            features=pack_features(rows[place]),
            verdict="fraud" if frauds[place] else "genuine",
            event_time=MONDAY_MS + place * HOUR_MS // A_HOUR,
            members={"additive": 0.1, "boosted": 0.8 if frauds[place] else 0.05},
        )
        for place in range(COUNT)
    ]
    return [one for start in range(0, COUNT, 50) for one in _published_twice(once, start)]


def _published_twice(once: list[TrainingExample], start: int) -> list[TrainingExample]:
    batch = once[start : start + 50]
    return [*once[max(0, start - 6) : start], *batch] if start % 200 == 0 else batch


LOG = log()


@dataclass
class Lives:
    """What some trainers left that followed each other on one log."""

    settings: Settings
    snapshots: dict[str, bytes] = field(default_factory=dict)
    pointers: list[Champion] = field(default_factory=list)

    def read(self) -> None:
        """Look at what is published until now."""
        for record in read(self.settings, MODELS):
            if record.key == CHAMPION_KEY:
                self.pointers.append(msgspec.json.decode(record.value, type=Champion))
            elif record.value is not None:
                body = opened(record.value, ModelVerifier(self.settings))
                self.snapshots[record.key.decode()] = body


def learner(settings: Settings) -> Learner:
    names = (settings.model, *settings.challenger_names)
    models = [make_model(name, KERNEL.names, settings.model_options) for name in names]
    return Learner(CARD, KERNEL.schema_hash, models)


def pending_places(settings: Settings) -> list[int]:
    """Say after how many records a fit is pending: at the first one, and at the last."""
    ours, found = learner(settings), []
    boosted = ours.models[-1]
    assert isinstance(boosted, Boosted)
    for place in range(0, len(LOG), 10):
        ours.learn(ours.fresh(LOG[place : place + 10]), profiles=False)
        if boosted._pending is not None:
            found.append(place + 10)
    return [found[0], found[-1]]


@pytest.fixture(scope="module")
def lives(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("windows")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        snapshot_interval_seconds=0.1,
        model="ensemble",
        challengers="boosted",
        refit_days=1.0,
        refit_window_days=2.0,
        boosted_trees=30,
    )
    reset(stack, settings)
    lives = Lives(settings)
    with Processes(settings) as processes:
        sent = 0
        for until in (*pending_places(settings), len(LOG)):
            [trainer] = processes.ready("trainer")
            send(settings, TRAINING, [(0, None, encode_record(one)) for one in LOG[sent:until]])
            sent = until
            wait_for(lives, offset=until)
            trainer.started.process.kill()
            trainer.started.process.wait()
    yield lives


def wait_for(lives: Lives, offset: int) -> None:
    def is_published() -> bool:
        lives.read()
        return any(pointer.training_offset == offset for pointer in lives.pointers)

    wait_until(is_published, "all is learned", seconds_max=120.0)


def test_every_version_is_the_fold_of_the_log_bit_for_bit(lives: Lives) -> None:
    ours, equal = learner(lives.settings), 0
    offsets = sorted({int(name.partition("@")[2]) for name in lives.snapshots})
    for before, offset in zip([0, *offsets], offsets, strict=False):
        ours.learn(ours.fresh(LOG[before:offset]), profiles=False)
        for model in ours.models:
            version = f"{model.name}@{offset}"
            folded = encode(
                model, version=version, training_offset=offset, schema_hash=KERNEL.schema_hash
            )
            assert lives.snapshots[version] == folded, version
            equal += 1

    assert offsets[-1] == len(LOG)
    assert equal == len(lives.snapshots) >= 6


def test_the_pointer_says_where_the_window_begins(lives: Lives) -> None:
    last = lives.pointers[-1]

    assert last.window is not None
    assert 0 < last.window.learned <= last.window.offset < last.training_offset == len(LOG)
