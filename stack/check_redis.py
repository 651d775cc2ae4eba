"""The part of `fraudstream check` that looks at Redis: permissions, durability, clock."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from pipeline.errors import FraudstreamError
from stack.check_certificates import check_files, check_reach
from stack.check_kafka import clock_finding
from stack.findings import Finding, ok, problem, warning
from stack.redis_clients import RedisServer, redis_client, redis_problem
from stack.roles import Role, sample_commands
from stack.secret_files import tls_context

ANSWER_SECONDS_MAX = 5.0
# What is lost where a setting is another, and how it should be.
WANTED = {
    "appendonly": ("yes", "all state is lost when Redis ends"),
    "appendfsync": ("always", "up to a second of decisions is lost when the machine ends"),
    "maxmemory-policy": ("noeviction", "Redis would forget profiles and positions when full"),
}


def check_redis(redis_url: RedisServer, role: Role) -> Iterator[Finding]:
    """Look at everything that a role needs of Redis."""
    security = redis_url.security
    parts = urlsplit(redis_url)
    try:
        secrets = {
            "redis_password_file": security.password_file,
            "redis_key_file": security.key_file,
        }
        yield from check_files("redis", security.cert_file, secrets)
        if parts.hostname is not None and parts.scheme != "unix":
            context = None
            if parts.scheme == "rediss":
                files = (security.ca_file, security.cert_file, security.key_file)
                context = tls_context(
                    "redis", **dict(zip(("ca_file", "cert_file", "key_file"), files, strict=True))
                )
            found = list(check_reach("redis", parts.hostname, parts.port or 6379, context))
            yield from found
            if any(item.status == "problem" for item in found):
                return
        with redis_client(redis_url, socket_timeout=ANSWER_SECONDS_MAX) as client:
            client.ping()
            yield ok("redis", f"answers as user {security.username or 'default'}")
            yield from _check_all(client, security.username or "default", role)
    except (RedisError, OSError) as error:
        yield problem("redis", redis_problem(redis_url, error))
    except FraudstreamError as error:
        yield problem("redis", str(error))


def _check_all(client: Redis, user: str, role: Role) -> Iterator[Finding]:
    lacking = list(_lacking(client, role))
    for text in lacking:
        yield problem("redis", f"user {user} lacks {text}: grant it as docs/security.md says")
    if not lacking:
        yield ok("redis", f"user {user} may do what it needs")
    yield from _check_durability(client)
    try:
        asked_ms = time.time_ns() // 1_000_000
        seconds, micros = client.time()
        now_ms = time.time_ns() // 1_000_000
    except NoPermissionError:
        return
    yield clock_finding("redis", seconds * 1000 + micros // 1000 - (asked_ms + now_ms) // 2)


def _lacking(client: Redis, role: Role) -> Iterator[str]:
    """Queue each command in a transaction, where it is judged, and let none be done."""
    connection: Any = client.connection_pool.get_connection()
    try:
        for first in ("MULTI", "DISCARD"):
            if (text := _refusal(connection, (first,))) is not None:
                yield text
                return
        for command, words in sample_commands(role):
            connection.send_command("MULTI")
            connection.read_response()
            text = _refusal(connection, words)
            connection.send_command("DISCARD")
            connection.read_response()
            if text is not None:
                yield f"the {'keys ' + words[-1] if 'key' in text else 'command ' + command}"
    finally:
        client.connection_pool.release(connection)


def _refusal(connection: Any, words: tuple[str, ...]) -> str | None:
    connection.send_command(*words)
    try:
        connection.read_response()
    except NoPermissionError as error:
        return str(error)
    return None


def _check_durability(client: Redis) -> Iterator[Finding]:
    values: dict[str, str] = {}
    for name in WANTED:
        try:
            found: Any = client.config_get(name)
            values |= found
        except (NoPermissionError, ResponseError):
            break
    if not values:
        try:
            values = _from_info(client)
        except NoPermissionError:
            values = {}
    for name, (wanted, harm) in WANTED.items():
        if name in values and values[name] != wanted:
            # Some take that second for the speed it gives.
            of = warning if values[name] == "everysec" else problem
            yield of(f"redis {name}", f"it is {values[name]}, not {wanted}: {harm}")
        elif name in values:
            yield ok(f"redis {name}", wanted)
        else:
            yield warning(
                f"redis {name}", f"it may not be looked at (config|get); it should be {wanted}"
            )


def _from_info(client: Redis) -> dict[str, str]:
    found: dict[str, Any] = {**client.info("persistence"), **client.info("memory")}
    return {
        "appendonly": "yes" if found.get("aof_enabled") else "no",
        "maxmemory-policy": str(found.get("maxmemory_policy")),
    }
