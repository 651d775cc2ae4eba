"""Passwords, certificates and their keys, each read from a file that a setting names.

A password is never a setting itself: settings stand in lists of processes, logs and reports.
"""

import logging
import os
import ssl
from functools import lru_cache
from pathlib import Path

from pipeline.errors import SettingError

logger = logging.getLogger(__name__)

FOR_OTHERS = 0o077


def read_secret(setting: str, path: str) -> str:
    """Read the one line of a file; a file that others may read is a warning."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{setting}: {path} cannot be read: {_why(error)}") from error
    secret = text.rstrip("\r\n")
    if not secret or "\n" in secret:
        raise SettingError(f"{setting}: {path} must hold one line")
    _warn_if_open(setting, path)
    return secret


def is_open_to_others(path: str) -> bool:
    """Say whether others than its owner may read a file."""
    return bool(Path(path).stat().st_mode & FOR_OTHERS)


@lru_cache
def _warn_if_open(setting: str, path: str) -> None:
    if is_open_to_others(path):
        logger.warning("%s: others may read %s (chmod 600)", setting, path)


def tls_context(of: str, *, ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext:
    """Give what a TLS connection is checked by: CA, host name and, with mTLS, our certificate.

    `of` is the beginning of the settings' names, `kafka` or `redis`.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(f"{of}_ca_file: {ca_file} cannot be read: {_why(error)}") from error
    if cert_file:
        _warn_if_open(f"{of}_key_file", key_file) if os.path.exists(key_file) else None
        try:
            # Without a password of its own OpenSSL would ask for one at the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError) as error:
            raise SettingError(
                f"{of}_cert_file and {of}_key_file: {cert_file} and {key_file} cannot be used "
                f"together: {_why(error)}; both are PEM, the key is not encrypted"
            ) from error
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM file").lower().replace("_", " ")
    return getattr(error, "strerror", None) or type(error).__name__
