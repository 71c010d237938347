"""Keeps libraries from writing to the terminal: their reports quote names from files nobody vouches for."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging import CRITICAL

from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turns off progress bars and reports, those of errors too since they are raised, and restores both settings."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_process() -> Iterator[None]:
    """Sends to nowhere whatever the process writes, past Python too: a library in Rust prints, and panics in print."""
    with _one_at_a_time():  # or the second would take nowhere for where the first wrote, and put it back last
        kept: list[tuple[int, int]] = []
        _flush()
        try:
            with suppress(OSError):  # a process may have been started without a terminal
                nowhere = os.open(os.devnull, os.O_WRONLY)
                for number in (1, 2):
                    kept.append((number, os.dup(number)))
                    os.dup2(nowhere, number)
                os.close(nowhere)
            yield
        finally:
            _flush()
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)


@functools.cache
def _one_at_a_time() -> threading.Lock:
    return threading.Lock()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # there may be none, or a closed one
            stream.flush()
