"""The one place that knows how to connect to Redis.

A Redis is passed around as the text of its URL. Where the settings say more of it, the text is a
`RedisServer`, which carries that along.
"""

from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError

from pipeline.settings import Settings
from stack.secret_files import read_secret, tls_context


@dataclass(frozen=True, slots=True)
class RedisSecurity:
    """How to connect: the settings of that name without `redis_`; no secret is kept here."""

    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class RedisServer(str):
    """A URL, and how to connect to it."""

    security: RedisSecurity

    def __new__(cls, url: str, security: RedisSecurity | None = None) -> "RedisServer":
        """Put the parts together."""
        made = super().__new__(cls, url)
        made.security = security or RedisSecurity()
        return made

    @classmethod
    def of(cls, settings: Settings, url: str) -> "RedisServer":
        """Give the Redis at this URL, as the settings say."""
        named = RedisSecurity.__dataclass_fields__
        return cls(
            url, RedisSecurity(**{name: getattr(settings, f"redis_{name}") for name in named})
        )


def redis_connection(url: str) -> dict[str, Any]:
    """Give the arguments that connect a client, sync or async; the URL is one of them."""
    found: dict[str, Any] = {"url": str(url)}
    security = url.security if isinstance(url, RedisServer) else RedisSecurity()
    if security.password_file:
        found["username"] = security.username or None
        found["password"] = read_secret("redis_password_file", security.password_file)
    if url.startswith("rediss:"):
        files = {name: getattr(security, name) for name in ("ca_file", "cert_file", "key_file")}
        # The client reads the files for itself, and says less where they are wrong.
        tls_context("redis", **files)
        found |= {"ssl_check_hostname": True, "ssl_cert_reqs": "required"}
        found["ssl_ca_certs"] = files["ca_file"] or None
        found["ssl_certfile"], found["ssl_keyfile"] = (
            files["cert_file"] or None,
            files["key_file"] or None,
        )
    return found


def redis_client(url: str, **options: Any) -> Redis:
    """Open a connection pool."""
    return Redis.from_url(**redis_connection(url), **options)


def redis_problem(url: str, error: RedisError | OSError) -> str:
    """Say in plain words why a Redis cannot be used."""
    text = str(error)
    if isinstance(error, AuthenticationError) or text.startswith("WRONGPASS"):
        return (
            f"Redis at {url} refuses our name or password: "
            "see redis_username and redis_password_file"
        )
    if isinstance(error, AuthorizationError) or text.startswith("NOPERM"):
        return f"Redis at {url} does not allow us a command: {text} (fraudstream check)"
    return f"no Redis answers at {url}: start it (fraudstream up), or set redis_url"
