"""What each topic is called on a Kafka that was there before us.

The names of `pipeline/topics.py` are what a topic is to us: positions in Redis, stages, decisions,
dead letters and signatures carry them, so a topic that is renamed loses nothing. What Kafka calls
it is said by two settings, and is seen by the clients alone.

>>> names = TopicNames.of("fraud.", "transactions=payments.auth")
>>> names.physical("transactions"), names.physical("decisions")
('payments.auth', 'fraud.decisions')
>>> names.logical("fraud.decisions")
'decisions'
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pipeline.connection_settings import KAFKA_NAME
from pipeline.errors import SettingError
from pipeline.topics import TOPICS


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The physical name of each topic by its logical one."""

    names: Mapping[str, str]

    @classmethod
    def of(cls, prefix: str, named: str) -> Self:
        """Read `topic_prefix` and `topic_names`; a name of the latter takes no prefix."""
        names = {topic.name: prefix + topic.name for topic in TOPICS}
        for part in filter(None, (part.strip() for part in named.split(","))):
            logical, sign, physical = (piece.strip() for piece in part.partition("="))
            if not sign or logical not in names:
                raise SettingError(
                    f"topic_names must be NAME=TOPIC,NAME=TOPIC with names of {', '.join(names)} "
                    f"(got {part!r})"
                )
            names[logical] = physical
        for logical, physical in names.items():
            if not KAFKA_NAME.fullmatch(physical) or physical in (".", ".."):
                raise SettingError(
                    f"the topic of {logical} must match {KAFKA_NAME.pattern} (got {physical!r}): "
                    "see topic_prefix and topic_names"
                )
            if list(names.values()).count(physical) > 1:
                raise SettingError(f"topic_names gives the name {physical!r} to two topics")
        return cls(names)

    def physical(self, logical: str) -> str:
        """Give what Kafka calls a topic; a name that is none of ours stays as it is."""
        return self.names.get(logical, logical)

    def logical(self, physical: str) -> str:
        """Give what we call a topic; a name that is none of ours stays as it is."""
        return next((ours for ours, name in self.names.items() if name == physical), physical)


DEFAULT_NAMES = TopicNames.of("", "")
