"""Where a Kafka is, how to connect to it, and what its topics are called.

A Kafka is passed around as the text `host:port,host:port`. Where the settings say more of it, the
text is a `Kafka`, which carries that along: `kafka_of` gives one for either. The clients themselves
are made in `stack/kafka_clients.py`.
"""

import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.connection_settings import OAUTHBEARER, PLAINTEXT
from pipeline.errors import SettingError
from pipeline.settings import Settings
from pipeline.topic_names import DEFAULT_NAMES, TopicNames
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS
from stack.secret_files import read_secret, tls_context


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How to connect: the settings of that name without `kafka_`; no secret is kept here."""

    security: str = PLAINTEXT
    sasl_mechanism: str = ""
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.security.endswith("ssl")

    @property
    def has_sasl(self) -> bool:
        """Whether we say who we are by a name and a secret."""
        return self.security.startswith("sasl")

    @property
    def has_token(self) -> bool:
        """Whether that secret is a token."""
        return self.has_sasl and self.sasl_mechanism == OAUTHBEARER

    @property
    def principal(self) -> str:
        """Who we are, for messages: the certificate or the token has our name otherwise."""
        if self.has_sasl and self.username:
            return f"User:{self.username}"
        return "the name in the token" if self.has_sasl else "the name in our certificate"

    def secret(self) -> str:
        """Read the password, or the token."""
        return read_secret("kafka_password_file", self.password_file)

    def context(self) -> ssl.SSLContext:
        """Give what a TLS connection is checked by."""
        return _context(self.ca_file, self.cert_file, self.key_file)


@lru_cache
def _context(ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext:
    return tls_context("kafka", ca_file=ca_file, cert_file=cert_file, key_file=key_file)


class Kafka(str):
    """Servers as `host:port,host:port`, how to connect to them, what their topics are called."""

    security: KafkaSecurity
    names: TopicNames

    def __new__(
        cls,
        servers: str,
        security: KafkaSecurity | None = None,
        names: TopicNames = DEFAULT_NAMES,
    ) -> "Kafka":
        """Put the parts together."""
        made = super().__new__(cls, servers)
        made.security, made.names = security or KafkaSecurity(), names
        return made

    @classmethod
    def of(cls, settings: Settings, servers: str) -> "Kafka":
        """Give the Kafka at these servers, as the settings say."""
        named = KafkaSecurity.__dataclass_fields__
        given = {name: getattr(settings, f"kafka_{name}") for name in named}
        return cls(servers, KafkaSecurity(**given), settings.names_of_topics)

    def topic(self, name: str) -> str:
        """Give what this Kafka calls a topic of ours."""
        return self.names.physical(name)

    @property
    def inputs(self) -> frozenset[str]:
        """What this Kafka calls the topics that others write."""
        return frozenset(map(self.topic, (TRANSACTIONS, FEEDBACK, OUTCOMES)))


def kafka_of(servers: str) -> Kafka:
    """Give the Kafka that a text stands for: a plain one, unless it carries more."""
    return servers if isinstance(servers, Kafka) else Kafka(servers)


def sync_connection(servers: str) -> dict[str, Any]:
    """Give the arguments that connect a client of kafka-python."""
    kafka = kafka_of(servers)
    found = _security(kafka.security)
    if kafka.security.has_token:
        from stack.kafka_tokens import Token  # noqa: PLC0415 - brings the client

        found["sasl_oauth_token_provider"] = Token(kafka.security.secret)
    return {"bootstrap_servers": servers.split(","), **found}


def async_connection(servers: str) -> dict[str, Any]:
    """Give the arguments that connect a client of aiokafka."""
    kafka = kafka_of(servers)
    found = _security(kafka.security)
    if kafka.security.has_token:
        from stack.kafka_tokens import AsyncToken  # noqa: PLC0415 - brings the client

        found["sasl_oauth_token_provider"] = AsyncToken(kafka.security.secret)
    return {"bootstrap_servers": str(servers), **found}


def faust_connection(servers: str) -> dict[str, Any]:
    """Give the arguments that connect an application of Faust."""
    import faust  # noqa: PLC0415 - takes a second, and workers alone need it

    security = kafka_of(servers).security
    found: dict[str, Any] = {"broker": [f"kafka://{server}" for server in servers.split(",")]}
    context = security.context() if security.has_tls else None
    if security.has_token:
        from stack.kafka_tokens import AsyncToken  # noqa: PLC0415 - brings the client

        token = AsyncToken(security.secret)
        found["broker_credentials"] = faust.OAuthCredentials(oauth_cb=token, ssl_context=context)
    elif security.has_sasl:
        found["broker_credentials"] = faust.SASLCredentials(
            username=security.username,
            password=security.secret(),
            mechanism=security.sasl_mechanism,
            ssl_context=context,
        )
    elif context is not None:
        found["broker_credentials"] = faust.SSLCredentials(context)
    return found


def host_and_port(server: str) -> tuple[str, int]:
    """Take `host:port` apart."""
    host, _, port = server.strip().rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise SettingError(f"kafka_servers must be host:port,host:port (got {server!r})")
    return host.strip("[]"), int(port)


def _security(security: KafkaSecurity) -> dict[str, Any]:
    if security.security == PLAINTEXT:
        return {}
    found: dict[str, Any] = {"security_protocol": security.security.upper()}
    if security.has_tls:
        found["ssl_context"] = security.context()
    if security.has_sasl:
        found["sasl_mechanism"] = security.sasl_mechanism
        if not security.has_token:
            found["sasl_plain_username"] = security.username
            found["sasl_plain_password"] = security.secret()
    return found
