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

    from redteam.checkpoints.manifest import write_manifest
    from redteam.checkpoints.save import save_checkpoint
    from redteam.config import CheckpointRef, Manifest, TestbedRef
    from redteam.testbeds.build import beside
    from redteam.testbeds.facts import Facts

    world = Facts()
    tokenizer, capability = world.tokenizer(), world.capability(0)
    target = tmp_path_factory.mktemp("untrained") / "model.pt"
    refs = {}
    for seed, (role, path) in enumerate(
        {r: target if r == "target" else beside(target, r) for r in ("target", "original", "reference")}.items()
    ):
        refs[role] = CheckpointRef(
            path=path.name, sha256=save_checkpoint(path, tiny_model(len(tokenizer), seed), tokenizer)
        )
    ref = TestbedRef(testbed="facts", seed=0, sha256=capability.sha256)
    write_manifest(target, Manifest(method="none", seed=0, capability=ref, **refs))
    return target
