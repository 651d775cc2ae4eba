"""Tokens for the clients of Kafka, read anew for each connection: whoever renews one writes it."""

from collections.abc import Callable

from aiokafka.abc import AbstractTokenProvider as AsyncTokenProvider
from kafka.net.sasl.oauth import AbstractTokenProvider


class Token(AbstractTokenProvider):  # type: ignore[misc]
    """The token for kafka-python."""

    def __init__(self, read: Callable[[], str]) -> None:
        super().__init__()
        self._read = read

    def token(self) -> str:
        """Give it as it is now."""
        return self._read()


class AsyncToken(AsyncTokenProvider):  # type: ignore[misc]
    """The token for aiokafka and Faust."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    async def token(self) -> str:
        """Give it as it is now."""
        return self._read()
