"""What scorers and labellers share, without a worker around them: Kafka and Redis are real."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from consumers.control_feed import ControlFeed
from consumers.outbox_publisher import OutboxPublisher
from consumers.redis_profiles import ProfileCache
from consumers.redis_store import RedisStore
from consumers.rules_file import RulesFile
from consumers.scorer import Parts
from models.contract import Model
from pipeline.counts import WorkerCounts
from pipeline.engine import Version
from pipeline.settings import Settings
from pipeline.signing import LabelVerifier
from tests.strategies import CARD


@dataclass
class Feed:
    """What is in force: one model, never another."""

    in_force: tuple[Version, Sequence[Version]]


@asynccontextmanager
async def opened(settings: Settings, counts: WorkerCounts, model: Model) -> AsyncIterator[Parts]:
    """Connect parts that decide by a model."""
    publisher = OutboxPublisher(settings.kafka_servers)
    store = RedisStore(settings.redis_url, retry_seconds_max=5)
    await publisher.start()
    try:
        yield Parts(
            settings=settings,
            schema=CARD,
            store=store,
            profiles=ProfileCache(store, CARD),
            publish=publisher.publish,
            kafka_servers=settings.kafka_servers,
            feed=Feed((Version(model, 0), ())),  # type: ignore[arg-type]
            controls=ControlFeed(settings.kafka_servers, CARD, settings),
            label_verifier=LabelVerifier.of(settings),
            rules=RulesFile(settings, CARD, counts),
            counts=counts,
            owner="test",
        )
    finally:
        await publisher.stop()
        await store.close()
