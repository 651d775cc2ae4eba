"""Why a server cannot be reached, in plain words: name, port, TLS, certificate, host name.

The clients of Kafka say of all of these that there is no broker.
"""

import socket
import ssl
from contextlib import suppress

from stack.kafka_address import Kafka, host_and_port, kafka_of

CONNECT_SECONDS_MAX = 5.0
# A server that wants a certificate says so after the handshake, if at all.
REFUSAL_SECONDS_MAX = 0.5

# What is said of a server that is not there, as one that is being started again.
NOBODY = "nobody listens there"

# Of OpenSSL's codes of a certificate that is not good.
EXPIRED, NOT_YET, HOST_NAME, ADDRESS = 10, 9, 62, 64
UNKNOWN_ISSUERS = (2, 18, 19, 20, 21)


def tls_problem(host: str, port: int, context: ssl.SSLContext, of: str) -> str | None:
    """Make a handshake; say what is wrong, `None` where all is well.

    `of` is the beginning of the settings' names, `kafka` or `redis`.
    """
    place = f"{host}:{port}"
    try:
        with (
            socket.create_connection((host, port), CONNECT_SECONDS_MAX) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
            suppress(TimeoutError),
        ):
            # Nothing is sent, so that a server that is content says nothing.
            secure.settimeout(REFUSAL_SECONDS_MAX)
            secure.recv(1)
    except ssl.SSLCertVerificationError as error:
        return f"{place}: {_certificate_problem(error, host, of)}"
    except ssl.SSLError as error:
        return f"{place}: {_handshake_problem(error, of)}"
    except OSError as error:
        return f"{place}: {socket_problem(error)}"
    return None


def socket_problem(error: OSError) -> str:
    """Say why no connection came about."""
    if isinstance(error, socket.gaierror):
        return "nobody knows this host name"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS_MAX:.0f} s"
    if isinstance(error, ConnectionRefusedError):
        return NOBODY
    return (error.strerror or type(error).__name__).lower()


def _certificate_problem(error: ssl.SSLCertVerificationError, host: str, of: str) -> str:
    if error.verify_code == EXPIRED:
        return "the server's certificate has expired: the server needs a new one"
    if error.verify_code == NOT_YET:
        return "the server's certificate is not valid yet: compare the clocks"
    if error.verify_code in (HOST_NAME, ADDRESS):
        return (
            f"the server's certificate is not for the host name {host!r}: "
            f"name the server as its certificate does"
        )
    if error.verify_code in UNKNOWN_ISSUERS:
        return (
            "the server's certificate was not issued by a CA that we know: "
            f"{of}_ca_file must name the PEM file of its CA"
        )
    return f"the server's certificate is not good: {error.verify_message}"


def _handshake_problem(error: ssl.SSLError, of: str) -> str:
    reason = (error.reason or str(error)).upper()
    # Java says BAD_CERTIFICATE where there is none at all.
    words = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE")
    if any(word in reason for word in (*words, "UNKNOWN_CA", "CERTIFICATE_UNKNOWN")):
        return (
            "the server wants a certificate of ours, of a CA that it knows: "
            f"see {of}_cert_file and {of}_key_file"
        )
    if "CERTIFICATE_EXPIRED" in reason:
        return f"our certificate has expired: see {of}_cert_file"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason or "EOF" in reason:
        return "the server does not speak TLS on this port"
    return f"no TLS connection came about: {reason.lower().replace('_', ' ')}"


def unreachable(servers: str) -> str | None:
    """Say why no server of a Kafka takes us; `None` where one does."""
    kafka = kafka_of(servers)
    problems = [_reach(kafka, *host_and_port(server)) for server in servers.split(",")]
    return "; ".join(filter(None, problems)) if all(problems) else None


def _reach(kafka: Kafka, host: str, port: int) -> str | None:
    if kafka.security.has_tls:
        problem = tls_problem(host, port, kafka.security.context(), "kafka")
        if problem is not None:
            return problem
    try:
        if kafka.security.has_sasl:
            from stack.reaching_sasl import sasl_problem  # noqa: PLC0415 - brings aiokafka

            return sasl_problem(kafka, host, port)
        socket.create_connection((host, port), CONNECT_SECONDS_MAX).close()
    except OSError as error:
        return f"{host}:{port}: {socket_problem(error)}"
    return None
