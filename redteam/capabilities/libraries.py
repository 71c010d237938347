"""Libraries that only some capabilities need: asked for by name, and kept from writing to the terminal."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redteam.errors import InputError

TALKATIVE = ("datasets", "huggingface_hub", "lm_eval")


def library(module: str, extra: str, what: str) -> Any:
    """Imports a module of an optional dependency.

    Args:
        module: its dotted name.
        extra: of this package, that brings it.
        what: needs it, for the message.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"{what} needs {package}, which is not installed", f"pip install 'unlearning-redteam[{extra}]'"
        ) from error


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Turns off progress bars and logs, whose lines quote data nobody vouches for, and restores their settings."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels, bars = [logger.level for logger in loggers], not are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            enable_progress_bars()
