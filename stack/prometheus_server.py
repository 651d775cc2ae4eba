"""Prometheus, when its binary is on PATH: the embedded servers work without it.

Each process of ours that serves /metrics writes a file of its own into `STATE_DIR/metrics`, named
`<job>-<pid>.json` and removed at its end, in Prometheus's own format of file discovery:

    [{"targets": ["127.0.0.1:20311"], "labels": {"job": "worker"}}]

Write it under another ending first and rename it, so that no half file is read.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from stack.launch import Launch
from stack.network import LOOPBACK, free_port, listens

NAME = "prometheus"
TARGETS = "metrics"
RULES = "rules.yml"
# Beside the packages in a checkout; an installed one has none, and its Prometheus no rules.
RULES_SOURCE = Path(__file__).parent.parent / "dashboards" / RULES
ANSWER_SECONDS_MAX = 20

CONFIGURATION = f"""\
global:
  scrape_interval: 2s
  evaluation_interval: 2s
rule_files: ["{RULES}"]
scrape_configs:
  - job_name: fraudstream
    file_sd_configs:
      - files: ["../{TARGETS}/*.json"]
        refresh_interval: 5s
"""


def prepare_prometheus(folder: Path, ports: Mapping[str, int]) -> Launch | None:
    """Write the configuration and say how to start; `None` when it is not installed."""
    binary = shutil.which("prometheus")
    if binary is None:
        return None
    port = free_port(ports.get("http"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / TARGETS).mkdir(exist_ok=True)
    (folder / "prometheus.yml").write_text(CONFIGURATION, encoding="ascii")
    if RULES_SOURCE.exists():
        shutil.copyfile(RULES_SOURCE, folder / RULES)
    return Launch(
        name=NAME,
        version=_version(binary),
        address=f"http://{LOOPBACK}:{port}",
        ports={"http": port},
        command=[
            binary,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=7d",
            f"--web.listen-address={LOOPBACK}:{port}",
        ],
        folder=folder,
        log=folder / "prometheus.log",
        is_ready=lambda: listens(port),
    )


def _version(binary: str) -> str:
    done = subprocess.run(
        [binary, "--version"],
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS_MAX,
        check=False,
    )
    found = re.search(r"version (\d+\.\d+\.\d+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"
