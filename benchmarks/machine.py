"""Which machine a figure is from."""

import os
import platform
from collections.abc import Mapping

import psutil


def machine() -> dict[str, object]:
    """Describe this machine in a few plain words."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def as_text(found: Mapping[str, object]) -> str:
    """Name a machine that was described, in one line.

    >>> as_text({"processor": "A", "cores": 2, "memory_gb": 8.0, "system": "L", "python": "3.12"})
    'A, 2 cores, 8.0 GB, L, Python 3.12'
    """
    return (
        f"{found['processor']}, {found['cores']} cores, {found['memory_gb']} GB, "
        f"{found['system']}, Python {found['python']}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
