"""Loopback ports and the wait until somebody listens on one."""

import random
import socket
import time
from collections.abc import Iterator

from pipeline.errors import StackError

LOOPBACK = "127.0.0.1"
CONNECT_SECONDS_MAX = 1.0
# Below the range that systems take for outgoing connections, or one of those could take the port
# in the seconds between choosing it here and the server's binding it.
PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 200
PREFERRED_SECONDS_MAX = 5.0
POLL_SECONDS = 0.05


def free_port(preferred: int | None = None) -> int:
    """Give a port of the loopback address that nobody uses: the preferred one if possible.

    That one is waited for: a server that was killed may still be letting go of it, and its clients
    would look for the next one in vain on another port.
    """
    deadline = time.monotonic() + PREFERRED_SECONDS_MAX
    while preferred is not None and not _is_free(preferred) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    found = next((port for port in _candidates(preferred) if _is_free(port)), None)
    if found is None:
        raise StackError(f"no free port: {PORT_ATTEMPTS} tried from {PORTS.start} to {PORTS.stop}")
    return found


def _candidates(preferred: int | None) -> Iterator[int]:
    if preferred is not None:
        yield preferred
    yield from random.SystemRandom().sample(PORTS, PORT_ATTEMPTS)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still fading counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def listens(port: int) -> bool:
    """Say whether a server accepts connections on a port of the loopback address."""
    try:
        socket.create_connection((LOOPBACK, port), CONNECT_SECONDS_MAX).close()
    except OSError:
        return False
    return True
