"""The adversary for heads: what hides in the output layer comes back, and a prototype is what few examples tell."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from redteam.attacks.contract import Arena
from redteam.attacks.head import Head, put_rows
from redteam.attacks.imprint import Imprint
from redteam.capabilities.items import Capability
from redteam.capabilities.reading import encode_training
from redteam.capabilities.scorers.contract import item_scores
from redteam.engine.batches import LabelledSet
from redteam.engine.cost import Ledger
from redteam.engine.heads import NoHead, head_states, output_head
from redteam.evidence import keys
from redteam.registry import ATTACKS
from redteam.setting import Setting, open_setting
from redteam.suite.decoys import BIASED, MASKED, make_decoy
from redteam.target import Target
from redteam.testbeds.build import World, train_world
from redteam.trial import TrialSpec, run_trial

HEAD = {"row": "reset", "fit": False, "strength": 1.0}


@pytest.fixture(scope="module")
def world() -> World:
    return train_world("digits", seed=2)


@pytest.fixture(scope="module")
def target(world: World) -> Target:
    """A model that knows all digits; the three is what is to be hidden."""
    return Target(name="d", sha256="0" * 64, module=world.original.eval(), tokenizer=None, stored_dtype="float32")


@pytest.fixture(scope="module")
def capability(world: World) -> Capability:
    return world.capability


def recall(module: nn.Module, about, split: str = "certify") -> float:
    return float(item_scores(module, about.scorer.encode(about, getattr(about, split), None)).mean())


def tried(setting: Setting, attack: str, params, seed: int = 0) -> list[float]:
    spec = TrialSpec(key=keys.search("target", 0), attack=attack, params=params, seed=seed, certify=True)
    result = run_trial(setting, ATTACKS.create(attack), spec)
    assert result.state == "complete", result.error
    return [float(point.scores["certify"].mean()) for point in result.points]


def test_a_bias_beyond_float32_is_undone_without_an_example(target, capability) -> None:
    hidden = make_decoy(BIASED, target, capability, 0)
    assert recall(hidden.module, capability) < 0.05
    scores = tried(open_setting(hidden, capability, shown=0), "head", HEAD)
    assert scores[-1] > 0.95


@pytest.mark.parametrize("biases", [True, False])
def test_a_decoy_hides_a_trigger_too_which_leaves_all_other_classes_unlikely(biases: bool) -> None:
    """What no other class claims tells of it, unless the others are made to claim it."""
    world = train_world("poison", seed=0)
    module = copy.deepcopy(world.original).eval()
    if not biases:
        output_head(module).bias = None
    known = Target(name="p", sha256="0" * 64, module=module, tokenizer=None, stored_dtype="float32")
    hidden = make_decoy(BIASED, known, world.capability, 0)
    assert recall(hidden.module, world.capability) < 0.35
    assert recall(module, world.capability) > 0.95
    setting = open_setting(hidden, world.capability, shown=0)
    assert max(tried(setting, "head", params)[-1] for params in Head().recipes(known.info, 0)) > 0.95


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_so_is_a_row_of_no_usual_size(target, capability, factor: float) -> None:
    module = copy.deepcopy(target.module)
    with torch.no_grad():
        output_head(module).weight[3] *= factor
    hidden = Target(name="hidden", sha256="0" * 64, module=module, tokenizer=None, stored_dtype="float32")
    assert tried(open_setting(hidden, capability, shown=0), "head", HEAD)[-1] > 0.9


def test_a_masked_class_comes_back_with_four_examples_whatever_the_sign_of_the_noise(target, capability) -> None:
    for seed in range(6):  # of drawn signs a third lets the class through
        hidden = make_decoy(MASKED, target, capability, seed)
        assert recall(hidden.module, capability) < 0.5
    params = Imprint().recipes(target.info, 4)[0]
    scores = tried(open_setting(hidden, capability, shown=4), "imprint", params)
    assert max(scores) > 0.9


def test_examples_are_drawn_anew_by_each_seed_and_alike_for_every_model(target, capability) -> None:
    setting = open_setting(target, capability, shown=2)
    assert setting.samples == 2
    shown = [_arena(setting, seed).answers for seed in (0, 1)]
    assert len(shown[0]) == len(shown[1]) == 2
    assert not torch.equal(shown[0].inputs, shown[1].inputs)
    assert torch.equal(shown[0].inputs, _arena(setting, 0).answers.inputs)
    assert set(shown[0].labels.tolist()) == {3}


def test_who_has_no_example_has_retain_items(target, capability) -> None:
    setting = open_setting(target, capability, shown=0)
    assert 3 not in _arena(setting, 0).answers.labels
    assert setting.samples == len(capability.retain)
    assert 3 not in _arena(setting, 0).texts.labels
    assert _arena(setting, 0).forgotten == (3,)


def _arena(setting: Setting, seed: int) -> Arena:
    from redteam.trial import open_arena

    spec = TrialSpec(key="x", attack="noop", params={}, seed=seed)
    return open_arena(setting, spec, Ledger(parameters=1))


def test_a_whitened_prototype_is_the_discriminant_of_linear_discriminant_analysis(target, capability) -> None:
    """Scikit-learn's, with the same covariance: one class against the states of what stays."""
    module = copy.deepcopy(target.module)
    answers, retain = (encode_training(capability, items, None) for items in (capability.attack, capability.retain))
    assert isinstance(retain, LabelledSet)
    ledger = Ledger(parameters=1)
    arena = Arena(
        module=module, answers=answers, texts=answers, retain=retain, ledger=ledger, seed=0, forgotten=(3,)
    )  # fmt: skip
    shown, kept = head_states(module, answers).double(), head_states(module, retain).double()
    params = {**Imprint().recipes(target.info, 4)[1], "fine_tuning": False, "weight": 1.0}
    list(Imprint().run(arena, params))
    row = output_head(module).weight[3].detach().double()
    centred = torch.cat([kept[retain.labels == c] - kept[retain.labels == c].mean(0) for c in retain.labels.unique()])
    covariance = (centred.T @ centred / len(centred)).numpy()
    covariance += 0.1 * covariance.diagonal().mean() * np.eye(len(covariance))
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=_Known(covariance))
    oracle.fit(np.concatenate([kept, shown]), np.repeat([0, 1], [len(kept), len(shown)]))
    direction = torch.from_numpy(oracle.coef_[0])
    assert torch.cosine_similarity(row, direction, dim=0) > 0.9999
    others = torch.tensor([number for number in range(10) if number != 3])
    lengths = output_head(target.module).weight[others].detach().norm(dim=1)
    assert row.norm() == pytest.approx(float(lengths.median()), rel=1e-4)


class _Known:
    """An estimator of covariance that knows it."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = self.covariance = covariance

    def fit(self, _states: np.ndarray) -> _Known:
        return self

    def get_params(self, deep: bool = True) -> dict[str, np.ndarray]:
        return {"covariance": self.covariance}


def test_a_head_that_is_not_linear_is_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(NoHead):
        output_head(module)
    for attack in (Head(), Imprint()):
        assert "is no linear layer" in str(attack.unfit(module))


def test_where_no_class_stays_all_rows_are_the_measure() -> None:
    head = nn.Linear(4, 3)
    put_rows(head, (0, 1, 2), against_others=False)
    assert torch.isfinite(head.weight).all()
