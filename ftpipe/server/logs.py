"""The server's log: one file that turns over, and stderr."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
MAX_BYTES = 10 * 1024 * 1024
KEPT_FILES = 3


def configure_logging(path: Path, level: str) -> None:
    """Send the server's log lines to a file that only its owner may read, and to stderr.

    Args:
        path: The file.
        level: Name of a logging level.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    ]
    if not _is_stderr(path):
        handlers.append(logging.StreamHandler(sys.stderr))
    for name in ("ftpipe.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.setLevel(level.upper() if name == "ftpipe.server" else "WARNING")
        logger.propagate = False
        logger.handlers = list(handlers)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))


def _is_stderr(path: Path) -> bool:
    """True where whoever started the server sends its stderr to the log file: each line would be there twice."""
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError, AttributeError):
        return False
