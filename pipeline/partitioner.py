"""Which partition a key belongs to: Kafka's default partitioner, without a Kafka client.

The core checks that a record came in the partition of its key, and producers compute the
partition once for each key. Both need the very function that every Kafka client uses by default:
murmur2 of the key's bytes, without its sign, modulo the number of partitions.

>>> partition_of(b"c1", 4), partition_of(b"c2", 4)
(3, 1)
>>> murmur2(b"21")
3321034988
"""

import struct

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_SHIFT = 24
_WORD = 0xFFFFFFFF
_WITHOUT_SIGN = 0x7FFFFFFF


def murmur2(data: bytes) -> int:
    """Hash bytes as `org.apache.kafka.common.utils.Utils.murmur2` does; unsigned, 32 bits."""
    length = len(data)
    tail = length & ~3
    value = _SEED ^ length
    for word in struct.unpack_from(f"<{tail >> 2}I", data):
        mixed = word * _MULTIPLIER & _WORD
        mixed = (mixed ^ mixed >> _SHIFT) * _MULTIPLIER & _WORD
        value = value * _MULTIPLIER & _WORD ^ mixed
    if length != tail:
        rest = int.from_bytes(data[tail:], "little")
        value = (value ^ rest) * _MULTIPLIER & _WORD
    value = (value ^ value >> 13) * _MULTIPLIER & _WORD
    return value ^ value >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Give the partition of a record with this key in a topic of so many partitions."""
    assert partitions > 0, partitions
    return (murmur2(key) & _WITHOUT_SIGN) % partitions
