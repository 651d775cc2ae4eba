"""An embedded broker that is secured as those of others are, to be tested against.

It has three listeners: with a name and a password (SCRAM, PLAIN, or a token), with a certificate
of the client's own, and with a certificate of the server's that has expired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.network import LOOPBACK

ADMIN = "admin"

CONFIGURATION = f"""\
listeners=SASL_SSL://{LOOPBACK}:{{broker}},MTLS://{LOOPBACK}:{{mtls}},EXPIRED://{LOOPBACK}:{{expired}},\
CONTROLLER://{LOOPBACK}:{{controller}}
advertised.listeners=SASL_SSL://{LOOPBACK}:{{broker}},MTLS://{LOOPBACK}:{{mtls}},\
EXPIRED://{LOOPBACK}:{{expired}}
listener.security.protocol.map=SASL_SSL:SASL_SSL,MTLS:SSL,EXPIRED:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=MTLS
ssl.keystore.type=PEM
ssl.keystore.location=../{{keystore}}
ssl.truststore.type=PEM
ssl.truststore.location=../{{truststore}}
listener.name.mtls.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/
listener.name.expired.ssl.keystore.type=PEM
listener.name.expired.ssl.keystore.location=../{{expired_keystore}}
sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN,OAUTHBEARER
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required {{plain_users}};
# Takes tokens that nobody has signed: for tests alone.
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
unsecuredLoginStringClaim_sub="broker";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# The controller's own listener, on this machine alone, asks nobody for a name.
super.users=User:{ADMIN};User:broker;User:ANONYMOUS
"""


@dataclass(frozen=True, slots=True)
class BrokerSecurity:
    """Files, each of a certificate with its key, and the passwords of users.

    `keystore` is issued to the name `broker`. The files lie beside the broker's folder, since a
    properties file does not take every path.
    """

    keystore: Path
    expired_keystore: Path
    truststore: Path
    users: Mapping[str, str]

    ports = ("mtls", "expired")

    @property
    def configuration(self) -> str:
        """The lines of the broker's properties, in which the ports are still open."""
        users = (f'user_{name}="{password}"' for name, password in self.users.items())
        fixed = {
            "keystore": self.keystore.name,
            "expired_keystore": self.expired_keystore.name,
            "truststore": self.truststore.name,
            "plain_users": " ".join(users),
        }
        text = CONFIGURATION
        for name, value in fixed.items():
            text = text.replace(f"{{{name}}}", value)
        return text
