"""Who of several trainers is at work: one holds the lease, the others stand by.

The lease is a courtesy that saves work. What keeps two from learning the same label twice is the
fence of the commit (`pipeline/commit.py`): whoever takes the lease takes a step of the position
first, so that the one before is refused from then on, however long it was paused.
"""

import asyncio
import socket

import psutil
from redis.asyncio import Redis

from consumers.redis_client import as_bytes

LEASE_SECONDS = 10.0
RENEW_SECONDS = 2.0

_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class Lease:
    """The lease of one name; `owner` is `HOST-PID-RANDOM`, different for every process."""

    def __init__(self, redis: Redis, name: str, owner: str) -> None:
        self._redis, self._key, self._owner = redis, f"lease:{name}", owner
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)

    async def take(self) -> bool:
        """Take the lease, or keep it; `False` while another holds it."""
        milliseconds = round(LEASE_SECONDS * 1000)
        if await self._renew(keys=[self._key], args=[self._owner, milliseconds]):
            return True
        holder = await self._redis.get(self._key)
        if holder is not None and _is_gone(as_bytes(holder).decode()):
            await self._release(keys=[self._key], args=[holder])
        return bool(await self._redis.set(self._key, self._owner, nx=True, px=milliseconds))

    async def keep(self) -> None:
        """Renew the lease until it is lost."""
        while await self.take():
            await asyncio.sleep(RENEW_SECONDS)

    async def release(self) -> None:
        """Let another have it now."""
        await self._release(keys=[self._key], args=[self._owner])


def _is_gone(owner: str) -> bool:
    """Say whether this was a process of this machine that is no more: then nobody need wait."""
    host, pid, _ = owner.rsplit("-", 2)
    return host == socket.gethostname() and not psutil.pid_exists(int(pid))
