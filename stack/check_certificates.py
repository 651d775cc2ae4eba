"""The part of `fraudstream check` that looks at TLS: reach, certificates, their expiry."""

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from stack.findings import Finding, ok, problem, warning
from stack.reaching import CONNECT_SECONDS_MAX, socket_problem, tls_problem
from stack.secret_files import is_open_to_others

EXPIRES_SOON_DAYS = 30
DAY_SECONDS = 86_400


def check_reach(of: str, host: str, port: int, context: ssl.SSLContext | None) -> Iterator[Finding]:
    """Look at one server; without a `context` no TLS is spoken."""
    about, place = f"{of} {host}:{port}", f"{host}:{port}"
    if context is None:
        try:
            socket.create_connection((host, port), CONNECT_SECONDS_MAX).close()
        except OSError as error:
            yield problem(about, f"{socket_problem(error)}: see {_where(of)}")
            return
        yield warning(about, "connected without TLS: whoever is between can read and change all")
        return
    said = tls_problem(host, port, context, of)
    if said is not None:
        yield problem(about, said.removeprefix(f"{place}: "))
        return
    yield ok(about, "connected with TLS; CA and host name of its certificate are good")
    yield _expiry(about, _seconds_left(host, port, context), "the server's certificate")


def check_files(of: str, cert_file: str, secrets: dict[str, str]) -> Iterator[Finding]:
    """Look at our own certificate, and at who may read the secrets (by setting)."""
    if cert_file:
        [certificate, *_] = x509.load_pem_x509_certificates(Path(cert_file).read_bytes())
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        yield _expiry(f"{of}_cert_file", left.total_seconds(), "our certificate")
    for setting, path in secrets.items():
        if path and is_open_to_others(path):
            yield warning(setting, f"others than its owner may read {path}: chmod 600 {path}")


def _seconds_left(host: str, port: int, context: ssl.SSLContext) -> float:
    with (
        socket.create_connection((host, port), CONNECT_SECONDS_MAX) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        certificate = secure.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()


def _expiry(about: str, seconds: float, what: str) -> Finding:
    days = int(seconds // DAY_SECONDS)
    if seconds < 0:
        return problem(about, f"{what} has expired: a new one is needed")
    if days < EXPIRES_SOON_DAYS:
        return warning(about, f"{what} expires in {days} days: renew it")
    return ok(about, f"{what} is valid for {days} days")


def _where(of: str) -> str:
    return "kafka_servers" if of == "kafka" else "redis_url"
