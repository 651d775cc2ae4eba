"""Labels of a chargeback file onto `feedback`: signed, each acknowledged or the run has failed."""

from collections.abc import Callable, Sequence
from contextlib import closing

from kafka.errors import KafkaError

from pipeline.errors import DataError
from pipeline.events import Label
from pipeline.feedback_encoding import encode_label
from pipeline.schema import Schema
from pipeline.signing import LabelSigner
from pipeline.topics import FEEDBACK
from stack import kafka_clients
from stack.kafka_address import kafka_of

ANSWER_SECONDS_MAX = 60.0
# So many are sent before their answers are waited for.
LABELS_AT_ONCE = 1_000


def publish_labels(
    labels: Sequence[Label],
    schema: Schema,
    servers: str,
    signer: LabelSigner,
    show: Callable[[int, str], None],
) -> None:
    """Publish labels in their order, and wait until all are acknowledged."""
    done = 0
    producer = kafka_clients.producer(servers, acks="all", enable_idempotence=True, linger_ms=5)
    topic = kafka_of(servers).topic(FEEDBACK)
    with closing(producer):
        try:
            for start in range(0, len(labels), LABELS_AT_ONCE):
                part = labels[start : start + LABELS_AT_ONCE]
                sent = [producer.send(topic, **_record(label, schema, signer)) for label in part]
                for future in sent:
                    future.get(timeout=ANSWER_SECONDS_MAX)
                    done += 1
                show(done, f"{done:,} labels published")
        except KafkaError as error:
            raise DataError(
                f"Kafka acknowledged {done:,} of {len(labels):,} labels ({error}): run it again, "
                "what comes twice changes nothing"
            ) from error


def _record(label: Label, schema: Schema, signer: LabelSigner) -> dict[str, object]:
    key, value = label.key.encode(), encode_label(label, schema)
    return {"key": key, "value": value, "headers": signer.headers(label.source, key, value)}
