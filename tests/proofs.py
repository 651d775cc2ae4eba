"""What some proofs need and not every machine has: data sets, programs of the system.

Where it is missing the test is skipped, and the end of the run lists it as a proof not made, so
that a green run never claims more than it showed.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

NOT_MADE = "proof not made: "
DATA_VARIABLE = "FRAUDSTREAM_DATA"


def not_made(why: str) -> NoReturn:
    """Skip the test that runs, and let the end of the run say why."""
    pytest.skip(NOT_MADE + why)


def data_file(name: str) -> Path:
    """Give a file of the data folder, which the variable FRAUDSTREAM_DATA names."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        not_made(f"{name} is needed: set {DATA_VARIABLE} to the folder that holds it")
    path = Path(folder) / name
    if not path.is_file():
        not_made(f"{path.name} is not in {DATA_VARIABLE}")
    return path


def program(name: str) -> str:
    """Give the path of a program of the system."""
    found = shutil.which(name)
    if found is None:
        not_made(f"{name} is not installed")
    return found
