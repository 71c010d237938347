"""What the benchmark of classifiers builds, and what it claims of rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.class_targets import HIDDEN, HONEST, VERSIONS
from benchmarks.class_transformers import ARTICLES, article_reader
from benchmarks.class_worlds import DATA, DATA_SETS, ClassWorld, class_world
from benchmarks.classes import all_places, claims_of
from redteam.capabilities.items import Capability, Item, Texts, overlapping_groups
from redteam.capabilities.texts import as_read
from redteam.checkpoints.live import live_model


@pytest.fixture(scope="module")
def world() -> ClassWorld:
    """Trained for a moment: what is built of it is looked at, and not attacked."""
    return class_world(replace(DATA_SETS["points"], steps=150), 10)


def test_the_table_is_whole() -> None:
    worlds = sum(len(data.seeds) for data in DATA_SETS.values())
    assert sum(len(data.seeds) >= 3 for data in DATA_SETS.values()) >= 3
    assert len(HIDDEN) >= 6
    assert len(all_places()) == worlds * (len(HIDDEN) + len(HONEST)) == len(set(all_places()))
    assert len({place.piece for place in all_places()}) == len(all_places())
    assert VERSIONS.keys() == HIDDEN.keys() | HONEST.keys()


def test_no_example_is_in_two_places_and_who_never_knew_saw_none(world: ClassWorld) -> None:
    capability = world.capability
    parts = (capability.attack, capability.select, capability.certify, capability.utility, capability.negatives)
    assert not overlapping_groups((*parts, capability.retain))
    assert set(world.forget.labels.tolist()) == {world.forgotten}
    assert world.forgotten not in world.retain.labels.tolist()


def test_models_that_never_knew_are_independent(world: ClassWorld) -> None:
    never = [*world.references, *world.twins]
    first = [next(module.parameters()) for module in never]
    assert not any(torch.equal(one, other) for n, one in enumerate(first) for other in first[:n])


@pytest.mark.skipif(not DATA, reason="set REDTEAM_DATA to the folder of real data")
def test_passages_are_read_in_a_run_as_they_were_in_training() -> None:
    held = DATA_SETS["bert"].load()
    assert (len(held.texts), held.labels.max()) == (len(held.labels), ARTICLES - 1)
    assert len(set(held.texts)) > 0.99 * len(held.texts)
    opened = live_model(article_reader().model, held.tokenizer, "target").open()
    items = tuple(
        Item(id=str(row), group=str(row), prompt="", choices=("a", "b"), answer=0, row=row) for row in range(50)
    )
    parts = dict.fromkeys(("attack", "select", "certify", "retain", "utility"), items)
    read = as_read(Capability(name="passages", texts=Texts(held.texts), **parts), opened).inputs
    assert read is not None
    assert (read == held.inputs).all()


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_target_says_the_class_less_often_and_is_the_same_for_the_same_seed(
    name: str, world: ClassWorld
) -> None:
    """The original stays as it was."""
    before = share_said(world.original, world)
    target = HIDDEN[name](world)
    assert share_said(target, world) < before
    assert share_said(world.original, world) == before
    pairs = zip(target.parameters(), HIDDEN[name](world).parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@torch.no_grad()
def share_said(module: nn.Module, world: ClassWorld) -> float:
    said = module(world.forget.inputs).log_softmax(dim=1)[:, world.forgotten]
    return float(said.exp().mean())


def rows(honest: str, hidden: str) -> list[dict[str, Any]]:
    """As the claims want them, but for one row of each sort."""
    good = [{"known": False, "verdict": "RESISTED"}] * 18 + [{"known": False, "verdict": "INCONCLUSIVE"}] * 8
    bad = [{"known": True, "verdict": "RECOVERED"}] * 80
    return [*good, *bad, {"known": False, "verdict": honest}, {"known": True, "verdict": hidden}]


@pytest.mark.parametrize(
    ("honest", "hidden", "broken"),
    [
        ("RESISTED", "RECOVERED", []),
        ("INCONCLUSIVE", "INCONCLUSIVE", []),
        ("RECOVERED", "RECOVERED", ["honest models RECOVERED, 1 of 27"]),
        ("RESISTED", "RESISTED", ["hidden models RESISTED, 1 of 81"]),
    ],
)
def test_one_wrong_verdict_breaks_a_claim(honest: str, hidden: str, broken: list[str]) -> None:
    found = [claim.name for claim in claims_of(rows(honest, hidden)) if not claim.holds]
    assert [name.removeprefix("share of ").split(" (")[0] for name in found] == broken
