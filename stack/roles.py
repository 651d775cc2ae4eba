"""What each role may do, and no more: operations of Kafka by topic, commands and keys of Redis.

`docs/security.md` shows this table, `fraudstream check` asks for it, the tests grant it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.topics import (
    CONTROLS,
    DEAD_LETTERS,
    DECISIONS,
    FEEDBACK,
    MODELS,
    OUTCOMES,
    TOPICS,
    TRAINING,
    TRANSACTIONS,
)

READ, WRITE, CREATE = "READ", "WRITE", "CREATE"
DESCRIBE, DESCRIBE_CONFIGS = "DESCRIBE", "DESCRIBE_CONFIGS"
# For `fraudstream check`: a command in MULTI that DISCARD ends is judged and not done.
OF_CHECK = ("ping", "time", "info", "multi", "discard")
OF_SCRIPTS = ("evalsha", "eval", "script|load")
# Workers and the trainer ask whether history is read; the run of it is kept there.
RUN = "backfill"
OF_WORKER = (
    *(*OF_CHECK, *OF_SCRIPTS, "exists", "type", "get", "mget", "set", "mset"),
    *("hget", "hmget", "hgetall", "hset", "hsetnx", "hincrby", "hdel"),
    *("zadd", "zrem", "zcard", "zpopmin", "xadd", "xrange", "xrevrange", "xtrim"),
)
KEYS_OF_WORKER = (
    *("pos:*", "out:*", "torn:*", "c:*", "r:*", "l:*", "w:*", "index:*", "wm:*", "wi:*"),
    *("model:*", "d:*", "ids", "review:*", "alert:*", "te:*", "again:*", "pend:*"),
    *("ledger:*", "place:training", "breaker:*", "p:*", "additions", "shared", "taught", RUN),
)


@dataclass(frozen=True, slots=True)
class Role:
    """What one kind of process needs; READ and WRITE of a topic bring DESCRIBE along."""

    text: str
    topics: Mapping[str, tuple[str, ...]]
    group: bool = False
    cluster: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=())

    @property
    def redis_rules(self) -> list[str]:
        """The rules of an ACL user, without its name and password."""
        keys = [f"~{key}" for key in self.keys]
        return ["resetchannels", *keys, "-@all", *(f"+{command}" for command in self.commands)]


ROLES: dict[str, Role] = {
    "producer": Role(
        "`publish`, and whatever else sends transactions, labels and outcomes",
        {TRANSACTIONS: (WRITE,), FEEDBACK: (WRITE,), OUTCOMES: (WRITE,)},
    ),
    "worker": Role(
        "`worker`",
        {
            TRANSACTIONS: (READ,),
            FEEDBACK: (READ,),
            OUTCOMES: (READ,),
            DECISIONS: (READ, WRITE),
            TRAINING: (READ, WRITE),
            MODELS: (READ,),
            CONTROLS: (READ,),
            DEAD_LETTERS: (WRITE,),
        },
        group=True,
        commands=OF_WORKER,
        keys=KEYS_OF_WORKER,
    ),
    "trainer": Role(
        "`trainer`, `models publish`",
        {TRAINING: (READ,), MODELS: (READ, WRITE), CONTROLS: (READ,)},
        commands=(
            *(*OF_CHECK, *OF_SCRIPTS, "exists", "type", "get", "mget", "set", "mset"),
            *("del", "pexpire", "xadd"),
        ),
        keys=("pos:training", "out:training", "torn:training", "place:training", "l:*")
        + ("lease:training", "taught", RUN),
    ),
    "backfill": Role(
        "`backfill`",
        {
            TRANSACTIONS: (READ,),
            FEEDBACK: (READ,),
            DECISIONS: (READ, WRITE),
            TRAINING: (READ, WRITE),
            MODELS: (READ, WRITE),
            DEAD_LETTERS: (READ, WRITE),
        },
        commands=(*OF_WORKER, "msetnx", "del", "pexpire"),
        keys=(*KEYS_OF_WORKER, "lease:training", "lease:backfill"),
    ),
    "operator": Role(
        "`mode`, `block`, `allow`, `lists`, `controls`, `models freeze` and `rollback`",
        {CONTROLS: (READ, WRITE), MODELS: (READ,)},
    ),
    "monitor": Role(
        "`monitor`, `compare`, `rules stats`",
        {DECISIONS: (READ,), TRAINING: (READ,), DEAD_LETTERS: (READ,)},
    ),
    "console": Role(
        "`alerts`, `label`, `labels`",
        {DECISIONS: (READ,), FEEDBACK: (WRITE,)},
        commands=(*OF_CHECK, "hget", "zrevrange", "zcard"),
        keys=("review:*", "alert:*", "w:*"),
    ),
    "admin": Role(
        "`topics`, `redrive`, `verify`, `models`, and `check` of all settings",
        {
            topic.name: (CREATE, DESCRIBE, DESCRIBE_CONFIGS, READ)
            + ((WRITE,) if topic.name in (TRANSACTIONS, FEEDBACK, OUTCOMES) else ())
            for topic in TOPICS
        },
        cluster=(DESCRIBE,),
        commands=(
            *(*OF_CHECK, "config|get", "hget", "hgetall", "hscan", "hset", "hsetnx", "hdel"),
            "hincrby",
        ),
        keys=("redrive:*",),
    ),
    "scanner": Role(
        "`scan --kafka --redis`",
        {topic.name: (READ,) for topic in TOPICS},
        commands=(
            *(*OF_CHECK, "scan", "type", "get", "hscan", "lrange", "sscan", "zscan", "xrange"),
        ),
        keys=("*",),
    ),
}


def sample_commands(role: Role) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give each command of a role once with arguments that it takes, on a key that it may use."""
    arguments: dict[str, tuple[str, ...]] = {
        "ping": (), "time": (), "info": ("server",), "exists": ("K",), "type": ("K",),
        "msetnx": ("K", "x"), "scan": ("0",), "lrange": ("K", "0", "0"), "sscan": ("K", "0"),
        "zscan": ("K", "0"), "xrange": ("K", "-", "+"),
        "get": ("K",), "mget": ("K",), "set": ("K", "x"), "mset": ("K", "x"),
        "hget": ("K", "f"), "xadd": ("K", "*", "f", "x"), "xrevrange": ("K", "+", "-"),
        "xtrim": ("K", "MAXLEN", "9"),
        "hmget": ("K", "f"), "hgetall": ("K",), "hset": ("K", "f", "x"),
        "hsetnx": ("K", "f", "x"), "hincrby": ("K", "f", "1"), "hdel": ("K", "f"),
        "hscan": ("K", "0"), "zadd": ("K", "1", "x"), "zrem": ("K", "x"), "zcard": ("K",),
        "zpopmin": ("K",),
        "zrevrange": ("K", "0", "0"), "del": ("K",), "pexpire": ("K", "1000"),
        "eval": ("return 1", "0"), "evalsha": ("0" * 40, "0"), "script|load": ("return 1",),
        "config|get": ("appendonly",),
    }  # fmt: skip
    for command in role.commands:
        if command in ("multi", "discard"):
            continue
        for key in role.keys if command == "exists" else role.keys[:1]:
            place = key.replace("*", "fraudstream-check")
            given = (place if text == "K" else text for text in arguments[command])
            yield command, (*command.upper().split("|"), *given)


def privileges() -> str:
    """Give the table of all roles as Markdown, for docs/security.md."""
    lines = ["| role | of | operations of Kafka |", "|---|---|---|"]
    for name, role in ROLES.items():
        by_operations: dict[tuple[str, ...], list[str]] = {}
        for topic, operations in role.topics.items():
            by_operations.setdefault(operations, []).append(f"`{topic}`")
        parts = [
            f"{', '.join(operations)} on {', '.join(topics)}"
            for operations, topics in by_operations.items()
        ]
        parts += [f"{READ} on the group `consumer_group`"] if role.group else []
        parts += [f"{', '.join(role.cluster)} on the cluster"] if role.cluster else []
        lines.append(f"| {name} | {role.text} | {'; '.join(parts)} |")
    users = [
        f"ACL SETUSER {name} on >PASSWORD {' '.join(role.redis_rules)}"
        for name, role in ROLES.items()
        if role.commands
    ]
    return "\n".join(lines) + "\n\n```\n" + "\n".join(users) + "\n```\n"
