"""What of the process an attack can change, so that it is as it was afterwards."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# Name -> how it is read, how it is set.
STATES: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the state of `random`": (random.getstate, random.setstate),
    "the state of `numpy.random`": (np.random.get_state, np.random.set_state),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the working directory": (os.getcwd, os.chdir),
}


@contextmanager
def surroundings_kept() -> Iterator[Callable[[], list[str]]]:
    """While open, anything may change; afterwards random numbers of Python, NumPy and torch are as they were before.

    So are torch's default dtype, gradient mode and number of threads, and the working directory.

    Yields:
        A function that returns the names of what is not as it was; torch's random numbers are not among that, since
        drawing from them is no offence where they were seeded.
    """
    before = {name: read() for name, (read, _) in STATES.items()}

    def changed() -> list[str]:
        return [name for name, (read, _) in STATES.items() if pickle.dumps(read()) != pickle.dumps(before[name])]

    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=accelerators):
        try:
            yield changed
        finally:
            for name, (_, write) in STATES.items():
                write(before[name])
