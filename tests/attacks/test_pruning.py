"""What the sign of an importance is worth: weights that hide an answer are told from those that carry it."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from test_conformance import arena, attacked
from test_hooked import points_setting
from tiny_classifiers import tiny_points, trained_mlp
from tiny_models import tiny_llama, weights_of
from torch import nn

import redteam
from redteam.attacks.prune import importance, relief
from redteam.capabilities.reading import encode_training
from redteam.registry import ATTACKS
from redteam.trial import TrialSpec, run_trial

SHARES = (0.05, 0.1, 0.2, 0.3)


def unlearned(seed: int) -> nn.Module:
    """A perceptron that knew all four classes of the tiny points, after gradient difference on two of them."""
    points = tiny_points()
    data = {name: encode_training(points, getattr(points, name), None) for name in ("attack", "retain")}
    known = trained_mlp(points, forget=True, seed=seed)
    forget, retain = data["attack"], data["retain"]
    options = {"learning_rate": 3e-3, "steps": 60, "seed": seed}
    return redteam.unlearn("graddiff", known, forget=forget, retain=retain, **options).module


def best_held(module: nn.Module, by: str) -> float:
    """The best select score that pruning alone reaches while four fifths of utility hold."""
    setting, attack, held = points_setting(module), ATTACKS.create("prune"), [0.0]
    for share, retain_share in product(SHARES, repeat=2):
        params = {"by": by, "share": share, "retain_share": retain_share, "fine_tuning": False}
        result = run_trial(setting, attack, TrialSpec(key="t", attack="prune", params=params, seed=0))
        scores = result.points[-1].scores
        if scores["utility"].mean() >= 0.8 * setting.start["utility"].mean():
            held.append(float(scores["select"].mean()))
    return max(held)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sign_tells_what_hides_an_answer_from_what_carries_it(seed: int) -> None:
    target = unlearned(seed)
    assert float(points_setting(target).start["select"].mean()) < 0.1
    assert best_held(target, "difference") < 0.6
    assert best_held(target, "signed") > 0.8
    assert best_held(trained_mlp(tiny_points(), forget=False, seed=seed), "signed") == 0


def test_relief_is_what_the_loss_falls_by_without_a_weight() -> None:
    """Against the loss itself, of weights that are scaled down a little."""
    ground, little = arena(tiny_llama()), 1e-2
    found = relief(ground.module, ground.answers)["lm_head.weight"]
    batch = ground.answers.batch(slice(None))
    released = float(batch.loss(ground.module).detach())
    highest = int(found.argmax())
    with torch.no_grad():
        ground.module.lm_head.weight.flatten()[highest] *= 1 - little
    assert released - float(batch.loss(ground.module).detach()) == pytest.approx(little * float(found.max()), rel=0.05)
    assert torch.equal(importance(tiny_llama(), ground.answers)["lm_head.weight"], found.abs())


def test_signed_pruning_takes_what_raises_the_forget_loss_and_spares_what_retain_items_need() -> None:
    ground = arena(tiny_llama())
    forget, retain = relief(ground.module, ground.answers), importance(ground.module, ground.retain)
    params = {"by": "signed", "share": 0.2, "retain_share": 0.4, "fine_tuning": False}
    after = weights_of(attacked("prune", params=params).module)
    zeroed = 0
    for name, scores in forget.items():
        gone, count = after[name] == 0, scores.numel()
        assert bool((scores[gone] > 0).all())
        assert bool((scores[gone] >= scores.flatten().topk(round(0.2 * count)).values[-1]).all())
        assert bool((retain[name][gone] <= retain[name].flatten().topk(round(0.4 * count)).values[-1]).all())
        zeroed += int(gone.sum())
    assert zeroed > 0
