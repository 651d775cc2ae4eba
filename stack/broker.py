"""One node of Apache Kafka, broker and controller in one process.

Paths in its configuration are relative to its folder, where it runs: a properties file knows
neither letters beyond Latin-1 nor a comma in a path.
"""

import base64
import subprocess
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import StackError
from pipeline.topics import SNAPSHOT_BYTES_MAX
from stack.broker_security import BrokerSecurity
from stack.jars import KAFKA_VERSION, class_path
from stack.java import find_java
from stack.launch import Launch
from stack.network import LOOPBACK, free_port, listens

NAME = "kafka"
FORMAT_SECONDS_MAX = 120
HEAP = "512m"
# A record batch that holds the largest snapshot, with its headers.
MESSAGE_BYTES_MAX = SNAPSHOT_BYTES_MAX + 1024 * 1024

CONFIGURATION = f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{LOOPBACK}:{{controller}}
{{listeners}}
controller.listener.names=CONTROLLER
log.dirs=data
auto.create.topics.enable=false
message.max.bytes={MESSAGE_BYTES_MAX}
replica.fetch.max.bytes={MESSAGE_BYTES_MAX}
# One node holds one copy of everything.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The default of 50 partitions each would be made at the first use, for nothing on one node.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
# Tests of a lost worker would otherwise wait for six seconds at least.
group.min.session.timeout.ms=1000
# After a crash the controller refuses the broker until its former life has timed out (9 s).
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
# A quarter of the heap by default; two compacted topics of few keys need little.
log.cleaner.dedupe.buffer.size=16777216
"""

PLAIN_LISTENERS = f"""\
listeners=PLAINTEXT://{LOOPBACK}:{{broker}},CONTROLLER://{LOOPBACK}:{{controller}}
advertised.listeners=PLAINTEXT://{LOOPBACK}:{{broker}}
"""

LOGGING = """\
status=ERROR
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName=kafka.log
appender.file.filePattern=kafka.log.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%p %m%n%throwable{1}
appender.console.filter.threshold.type=ThresholdFilter
appender.console.filter.threshold.level=ERROR
rootLogger.level=INFO
rootLogger.appenderRef.file.ref=file
rootLogger.appenderRef.console.ref=console
"""


def prepare_broker(
    folder: Path,
    ports: Mapping[str, int],
    say: Callable[[str], None],
    security: BrokerSecurity | None = None,
) -> Launch:
    """Write the configuration, format the log on the first time, and say how to start.

    With `security` it listens with TLS alone, and asks who is there and what they may do.
    """
    roles = ("broker", "controller", *(security.ports if security else ()))
    chosen = {role: free_port(ports.get(role)) for role in roles}
    listeners = security.configuration if security else PLAIN_LISTENERS
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    text = CONFIGURATION.format(listeners=listeners.format(**chosen), **chosen)
    (folder / "server.properties").write_text(text, encoding="ascii")
    (folder / "log4j2.properties").write_text(LOGGING, encoding="ascii")
    java = _java_command(folder, say)
    if not (folder / "data" / "meta.properties").exists():
        _format(java, folder, security.users if security else {})
    return Launch(
        name=NAME,
        version=KAFKA_VERSION,
        address=f"{LOOPBACK}:{chosen['broker']}",
        ports=chosen,
        command=[*java, f"-Xmx{HEAP}", "kafka.Kafka", "server.properties"],
        folder=folder,
        log=folder / "console.log",
        is_ready=lambda: listens(chosen["broker"]),
    )


def _java_command(folder: Path, say: Callable[[str], None]) -> list[str]:
    return [
        str(find_java()),
        "-cp",
        class_path(say),
        # Native libraries are unpacked there; a killed server would leave them in the system's.
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        "-Dlog4j2.configurationFile=log4j2.properties",
        "-Djava.awt.headless=true",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
    ]


def _format(java: list[str], folder: Path, users: Mapping[str, str]) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
    for name, password in users.items():
        tool += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
    done = subprocess.run(
        [*java, "-XX:TieredStopAtLevel=1", *tool, "--config=server.properties"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=FORMAT_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StackError(f"kafka: the log in {folder / 'data'} cannot be formatted: {lines[-1]}")
