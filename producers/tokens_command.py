"""`fraudstream tokens`: what the tokens of given card numbers are, under each key."""

from typing import TextIO

import click
import msgspec

from pipeline.errors import DataError
from producers.tokens import Tokeniser
from stack.command_settings import current_settings


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
def tokens(file: TextIO) -> None:
    """Give the tokens of the card numbers in FILE, or of those that are typed, one a line.

    Each line of the answer is a JSON object of a line's number and its token under each key that
    is here, the oldest first: what a list of blocked cards needs when the key changes. The numbers
    themselves are never shown. They are no arguments, since a shell remembers those.
    """
    tokeniser = Tokeniser(current_settings().keys_path)
    for number, line in enumerate(file, start=1):
        if not (text := line.strip()):
            continue
        try:
            found = tokeniser.every(text)
        except DataError as error:
            raise DataError(f"{file.name}: line {number:,}: {error}") from None
        click.echo(msgspec.json.encode({"line": number, "tokens": found}).decode())
