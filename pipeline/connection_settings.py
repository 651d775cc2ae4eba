"""The settings of connections, and what they may say together; nothing is connected here."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.errors import SettingError

PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL = "plaintext", "ssl", "sasl_plaintext", "sasl_ssl"
SECURITIES = (PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL)
OAUTHBEARER = "OAUTHBEARER"
# What all clients speak: kafka-python, aiokafka, and Faust on top of that.
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER)
REDIS_SCHEMES = ("redis", "rediss", "unix")
PASSWORD_IN_URL = re.compile(r"//[^/@]*:[^/]*@|[?&]password=")
# What Kafka takes for a topic or a group.
KAFKA_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


def setting(default: Any, text: str) -> Any:
    """Describe a setting: its default, and one line of help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """Where the servers are and how to connect; the defaults mean the embedded ones."""

    kafka_servers: str = setting("", "host:port,host:port; empty: the embedded Kafka")
    kafka_security: str = setting("plaintext", "plaintext, ssl, sasl_plaintext or sasl_ssl")
    kafka_sasl_mechanism: str = setting(
        "SCRAM-SHA-512", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    )
    kafka_username: str = setting("", "who we are to Kafka (SASL)")
    kafka_password_file: str = setting(
        "", "file of the password, or of the token of OAUTHBEARER; for its owner alone"
    )
    kafka_ca_file: str = setting("", "PEM file of the CA of Kafka; empty: those of the system")
    kafka_cert_file: str = setting("", "PEM file of our certificate for Kafka (mTLS)")
    kafka_key_file: str = setting("", "PEM file of its key, not encrypted")
    topic_prefix: str = setting(
        "", "stands before the name of each topic that topic_names does not name"
    )
    topic_names: str = setting("", "topics of other names: transactions=payments.auth,feedback=…")
    redis_url: str = setting(
        "", "unix://, redis:// or rediss:// (TLS) URL; empty: the embedded Redis"
    )
    redis_username: str = setting("", "who we are to Redis (ACL)")
    redis_password_file: str = setting("", "file of the password of Redis; for its owner alone")
    redis_ca_file: str = setting("", "PEM file of the CA of Redis; empty: those of the system")
    redis_cert_file: str = setting("", "PEM file of our certificate for Redis (mTLS)")
    redis_key_file: str = setting("", "PEM file of its key, not encrypted")


CONNECTION = tuple(item.name for item in fields(ConnectionSettings))


def check_connections(settings: ConnectionSettings) -> None:
    """Refuse settings of connections that contradict each other."""
    _check_kafka(settings)
    _check_redis(settings)


def _check_kafka(settings: ConnectionSettings) -> None:
    security, mechanism = settings.kafka_security, settings.kafka_sasl_mechanism
    if security not in SECURITIES:
        raise SettingError(f"kafka_security must be {', '.join(SECURITIES)} (got {security!r})")
    if mechanism not in MECHANISMS:
        raise SettingError(
            f"kafka_sasl_mechanism must be {', '.join(MECHANISMS)} (got {mechanism!r})"
        )
    if security in (SASL_PLAINTEXT, SASL_SSL):
        needed = ["kafka_password_file"]
        needed += ["kafka_username"] if mechanism != OAUTHBEARER else []
        for name in needed:
            if not getattr(settings, name):
                raise SettingError(f"kafka_security is {security}, so {name} must be set")
    else:
        _refuse_beside(settings, security, ("kafka_username", "kafka_password_file"), "sasl_ssl")
    if security not in (SSL, SASL_SSL):
        names = ("kafka_ca_file", "kafka_cert_file", "kafka_key_file")
        _refuse_beside(settings, security, names, "ssl or sasl_ssl")
    _check_pair(settings, "kafka_cert_file", "kafka_key_file")


def _refuse_beside(
    settings: ConnectionSettings, security: str, names: tuple[str, ...], wanted: str
) -> None:
    for name in names:
        if getattr(settings, name):
            raise SettingError(
                f"{name} is set, but kafka_security is {security}: set it to {wanted}, "
                f"or leave {name} away"
            )


def _check_redis(settings: ConnectionSettings) -> None:
    url = settings.redis_url
    scheme = url.partition("://")[0]
    if url and scheme not in REDIS_SCHEMES:
        # Nothing of the text is shown: what is no URL could be a password.
        raise SettingError("redis_url must begin with redis://, rediss:// or unix://")
    if PASSWORD_IN_URL.search(url):
        raise SettingError(
            "redis_url holds a password, which every list of processes would show: "
            "write it to a file that redis_password_file names"
        )
    if settings.redis_username and not settings.redis_password_file:
        raise SettingError("redis_username is set, so redis_password_file must be set")
    for name in ("redis_ca_file", "redis_cert_file", "redis_key_file"):
        if getattr(settings, name) and scheme != "rediss":
            raise SettingError(f"{name} is set, so redis_url must begin with rediss://")
    _check_pair(settings, "redis_cert_file", "redis_key_file")


def _check_pair(settings: ConnectionSettings, first: str, second: str) -> None:
    given, other = getattr(settings, first), getattr(settings, second)
    if bool(given) != bool(other):
        have, need = (first, second) if given else (second, first)
        raise SettingError(f"{have} is set, so {need} must be set")
