"""The `controls` log as it stands: what operators said, what does not count, and one word more.

Workers follow the log (`control_feed.py`); here it is read once, for those who ask or verify.
"""

from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from consumers.log_reader import read_topic
from pipeline.controls import Control, ControlLog, encode_control, mode_of
from pipeline.errors import ControlFault
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.signing import ControlSigner, ControlVerifier
from pipeline.topics import CONTROLS
from stack import kafka_clients
from stack.kafka_address import kafka_of

SEND_SECONDS_MAX = 30.0


@dataclass(slots=True)
class ControlHistory:
    """The records that count, and of the others where they stand and what is wrong with them."""

    log: ControlLog
    refused: list[tuple[int, ControlFault, str]] = field(default_factory=list)


def read_controls(servers: str, schema: Schema, settings: Settings) -> ControlHistory:
    """Read what was said until now."""
    entities = [item.name for item in schema.keyed]
    history = ControlHistory(ControlLog(mode_of(settings), entities, ControlVerifier(settings)))
    record: Any
    for record in read_topic(servers, CONTROLS):
        problem = history.log.take(record.offset, record.key, record.value, record.headers)
        if problem is not None:
            history.refused.append((record.offset, *problem))
    return history


def send_control(servers: str, control: Control, signer: ControlSigner) -> int:
    """Sign and publish a word of an operator; gives its offset."""
    value = encode_control(control)
    # Sent twice, the second would be counted as replayed by somebody.
    producer = kafka_clients.producer(servers, acks="all", enable_idempotence=True)
    topic = kafka_of(servers).topic(CONTROLS)
    with closing(producer):
        sent = producer.send(topic, value=value, headers=signer.headers(None, value))
        return int(sent.get(timeout=SEND_SECONDS_MAX).offset)
