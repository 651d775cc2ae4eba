"""Work for a broker that has just started, before anything is measured on it.

Java compiles what it runs often, on threads of its own: for the first twenty seconds of work that
takes a core, of two cores half. Each rival would meet that at another point of its run.
"""

import time

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.speed.material import client
from benchmarks.speed.place import Place

TOPIC = "warm-up"
SECONDS = 20.0
SHORT_SECONDS = 0.2
RECORDS, VALUE = 200, bytes(range(256)) * 2
# As a load of small records comes: many requests of few.
PAUSE_SECONDS = 0.002


def warm(place: Place, *, is_short: bool) -> None:
    """Produce to a topic of its own and read it, for some seconds."""
    servers, partitions = place.endpoints.kafka_servers, place.settings.partitions
    place.create_topic(TOPIC)
    producer = Producer(client(servers) | {"linger.ms": 1, "compression.type": "lz4"})
    consumer = Consumer(client(servers) | {"group.id": TOPIC})
    consumer.assign([TopicPartition(TOPIC, p, 0) for p in range(partitions)])
    ends = time.monotonic() + (SHORT_SECONDS if is_short else SECONDS)
    while time.monotonic() < ends:
        for number in range(RECORDS):
            producer.produce(TOPIC, VALUE, str(number), number % partitions)
        while len(producer) > RECORDS:
            producer.poll(PAUSE_SECONDS)
        consumer.consume(RECORDS, PAUSE_SECONDS)
    producer.flush()
    consumer.close()
