"""Shared by all tests: one thread (two are slower under load), and no network."""

from __future__ import annotations

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

LONGEST = ("test_ground_truth.py", "test_real_questions.py", "test_birthdays.py", "test_built_targets.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first: at the end no worker is left alone with one."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny untrained models and question files of sixty facts: every stage runs, in seconds.

    Nothing can be recovered from them, so the verdict is INCONCLUSIVE.
    """
    from tiny import tiny_model

    from redteam.checkpoints.trio import Trio, save_trio
    from redteam.testbeds.facts import Facts

    world, folder = Facts(), tmp_path_factory.mktemp("untrained")
    tokenizer, capability = world.tokenizer(), world.capability(0)
    for name, items in (("forget", capability.forget), ("retain", capability.retain)):
        rows = [{"ask": i.prompt, "about": i.group, "choices": i.choices, "answer": i.answer} for i in items[:60]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = folder / "capability.toml"
    rules.write_text(
        'name = "facts"\nprompt = "{ask}"\ngroup = { field = "about" }\n'
        'forget = ["forget.jsonl"]\nretain = ["retain.jsonl"]\n'
    )
    target, original, reference = (tiny_model(len(tokenizer), seed) for seed in range(3))
    trio = Trio(target=target, original=original, reference=reference, tokenizer=tokenizer)
    save_trio(folder / "model.pt", trio, method="none", seed=0, capability=rules)
    return folder / "model.pt"
