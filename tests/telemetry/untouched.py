"""Logging as it was, after a test that sets it up."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untouched_logging() -> Iterator[None]:
    """Takes back what `configure_logging` did to `logging` and structlog within the block."""
    root = logging.getLogger()
    names = ["", *(name for name, logger in root.manager.loggerDict.items() if isinstance(logger, logging.Logger))]
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        yield
    finally:
        for name, logger in list(root.manager.loggerDict.items()):
            if isinstance(logger, logging.Logger):
                logger.setLevel(levels.get(name, logging.NOTSET))
        root.setLevel(levels[""])
        setup = sys.modules.get("resilient.telemetry.log_setup")
        if setup is not None:
            setup._replace_sinks([])
            setup._LEVELS_BEFORE.clear()
        structlog = sys.modules.get("structlog")
        if structlog is not None:
            structlog.reset_defaults()
            structlog.contextvars.clear_contextvars()
