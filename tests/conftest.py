"""Shared by all tests: one thread (two are slower under load), and no network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny untrained models with a manifest of the testbed `facts`: every stage runs, in seconds.

    Nothing can be recovered from them, so the verdict is INCONCLUSIVE.
    """
    from tiny import tiny_model

    from redteam.checkpoints.trio import Trio, save_trio
    from redteam.config import TestbedRef
    from redteam.testbeds.facts import Facts

    world = Facts()
    tokenizer, capability = world.tokenizer(), world.capability(0)
    target, original, reference = (tiny_model(len(tokenizer), seed) for seed in range(3))
    trio = Trio(target=target, original=original, reference=reference, tokenizer=tokenizer)
    path = tmp_path_factory.mktemp("untrained") / "model.pt"
    ref = TestbedRef(testbed="facts", seed=0, sha256=capability.sha256)
    save_trio(path, trio, method="none", seed=0, capability=ref)
    return path
