"""What each of our attacks must do: the promises of every attack, and what only ours are held to.

A new attack adds one row to `ROWS` and nothing else here.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import pytest
import torch
from tiny_classifiers import tiny_classifier_target, tiny_points
from tiny_models import (
    make_items,
    random_tokens,
    same_bits,
    tiny_capability,
    tiny_llama,
    tiny_target,
    weights_of,
    word_tokenizer,
)
from tiny_tasks import random_labelled, tiny_classifier
from torch import nn

from redteam.attacks.contract import Arena, Attack, Params
from redteam.capabilities.wording import Wording
from redteam.engine.batches import IGNORED, Batch, TokenSet
from redteam.engine.cost import Ledger, Spent
from redteam.engine.loop import mean_loss
from redteam.engine.seeding import seeded
from redteam.registry import ATTACKS
from redteam.setting import open_setting
from redteam.target import TargetInfo
from redteam.testing import PROMISES, Exercise
from redteam.trial import TrialSpec, run_trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, kw_only=True)
class Row:
    """How an attack is exercised.

    Attributes:
        params: a few steps that change a tiny model.
        moves: whether it changes weights.
        acts: whether it changes what the model says; only the control does not.
        edits: steps of it that change weights without training.
    """

    params: Mapping[str, Any]
    moves: bool = True
    acts: bool = True
    edits: int = 0


RETRAIN = {
    "optimizer": "adamw",
    "learning_rate.adamw": 1e-2,
    "weight_decay": 0.0,
    "samples": 12,
    "schedule": "constant",
    "steps": 6,
    "batch_size": 4,
    "loss": "answer",
}
TUNING = {
    "optimizer": "adamw",
    "learning_rate.adamw": 1e-2,
    "weight_decay": 0.0,
    "schedule": "constant",
    "steps": 6,
    "batch_size": 4,
}
DATA = {"samples": 12, "loss": "answer"}
PHRASE = {"tokens": 3, "place": "before", "steps": 8, "width": 16, "samples": 12, "batch_size": 8}
ROWS: dict[str, Row] = {
    "noop": Row(params={"steps": 4}, moves=False, acts=False),
    "retrain": Row(params=RETRAIN),
    "lora": Row(params={**TUNING, **DATA, "rank": 2, "scale": 2.0, "modules": "all"}),
    "partial": Row(params={**TUNING, **DATA, "part": "late layers"}),
    "mixture": Row(params={**TUNING, **DATA, "ratio": 2.0}),
    "corpus": Row(params={**TUNING, "ratio": 2.0, "data": "documents", "change": "full"}),
    "benign": Row(params={**TUNING, "data": "retain", "share": 0.5}),
    "curriculum": Row(params={**TUNING, **DATA, "first": 0.4}),
    "revive": Row(params={**TUNING, **DATA, "opening": "centre", "least": 0.1, "ratio": 2.0}, edits=1),
    "head": Row(params={"row": "reset", "fit": True, "strength": 1.0}, edits=1),
    "imprint": Row(
        params={**TUNING, "prototype": "whitened", "weight": 2.0, "fine_tuning": True, "ratio": 1.0}, edits=1
    ),
    "perturb": Row(params={**TUNING, **DATA, "strength": 0.1}, edits=1),
    "quantize": Row(
        params={
            **TUNING,
            **DATA,
            "by": "rounding",
            "bits": 4,
            "scope": "channel",
            "matrices": "all",
            "fine_tuning": True,
        },
        edits=1,
    ),
    "prune": Row(
        params={**TUNING, **DATA, "by": "difference", "share": 0.1, "retain_share": 0.1, "fine_tuning": True}, edits=1
    ),
    "ablate": Row(params={"layers": "every", "towards": "zero"}, moves=False, edits=3),
    "steer": Row(params={"sign": "minus", "strength": 1.0, "depth": 0.0}, moves=False, edits=1),
    "latent": Row(params={**TUNING, **DATA, "bound": 1.0, "depth": 0.0}, moves=False),
    "soft-prompt": Row(params={**TUNING, **DATA, "tokens": 3}, moves=False),
    "universal-input": Row(params={**TUNING, **DATA, "bound": 1.0}, moves=False),
    "suffix": Row(params=PHRASE, moves=False),
    "word-search": Row(params=PHRASE, moves=False),
    "in-context": Row(
        params={"shots": 2, "source": "attack", "which": "nearest", "separator": "line"}, moves=False, edits=1
    ),
    "rephrase": Row(params={"template": "twice", "spelling": "as it is"}, moves=False, edits=1),
    "reorder": Row(params={"order": "reversed", "padding": 2}, moves=False, edits=1),
}
INFO = TargetInfo(kind="language", architecture="llama", parameters=5_000, layers=2, hidden_size=16)
SIZES = (1, 2, 7, 40, 300)  # of the attack split: a space must not be empty for a small one, nor a recipe outside it

each_attack = pytest.mark.parametrize("name", ROWS)
each_that_moves = pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.moves])


def arena(module: nn.Module, seed: int = 0) -> Arena:
    """An arena over random tokens, its attack split shuffled by the seed as a trial's is."""
    answers = random_tokens(12, seed=1)
    texts = dataclasses.replace(answers, labels=answers.labels.clone())
    for row, length in enumerate(answers.lengths):
        texts.labels[row, 1:length] = answers.input_ids[row, 1:length]
    order = torch.randperm(len(answers), generator=seeded(seed, "sample"))
    return Arena(
        module=module,
        answers=answers.take(order),
        texts=texts.take(order),
        retain=random_tokens(10, seed=2),
        corpus=random_tokens(5, seed=3),
        ledger=Ledger(parameters=sum(p.numel() for p in module.parameters())),
        seed=seed,
        wording=Wording(attack=make_items(range(12)), retain=make_items(range(12, 22)), tokenizer=word_tokenizer()),
    )


def classifier_arena(seed: int = 0) -> Arena:
    """An arena of a classifier over random inputs."""
    answers, module = random_labelled(12, seed=1), tiny_classifier()
    data = answers.take(torch.randperm(len(answers), generator=seeded(seed, "sample")))
    ledger = Ledger(parameters=sum(p.numel() for p in module.parameters()))
    return Arena(module=module, answers=data, texts=data, retain=random_labelled(10), ledger=ledger, seed=seed)


def arena_for(name: str, seed: int = 0) -> Arena:
    """An arena of a kind of model that an attack works on: a language model, where there is a choice."""
    return arena(tiny_llama(), seed) if "language" in ATTACKS.create(name).kinds else classifier_arena(seed)


def start(name: str, ground: Arena, params: Params | None = None) -> Iterator[Spent]:
    """Starts an attack as a trial does: in training mode, with the global generator seeded."""
    attack: Attack = ATTACKS.create(name)
    ground.module.train()
    torch.manual_seed(ground.seed)
    return attack.run(ground, ROWS[name].params if params is None else params)


def attacked(name: str, seed: int = 0, params: Params | None = None) -> Arena:
    """An arena after a whole attack."""
    ground = arena_for(name, seed)
    with torch.random.fork_rng(devices=()):
        for _ in start(name, ground, params):
            pass
    return ground


def test_every_attack_has_its_row() -> None:
    assert ROWS.keys() == ATTACKS.table.keys()


@each_attack
@pytest.mark.parametrize("promise", PROMISES)
def test_keeps_its_promises(promise: str, name: str) -> None:
    """The very tests that an attack of somebody else has to pass, see `redteam.testing`."""
    PROMISES[promise](ATTACKS.create(name), Exercise(params=ROWS[name].params, control=not ROWS[name].acts))


@each_attack
@pytest.mark.parametrize("samples", SIZES)
def test_recipes_lie_within_the_space(name: str, samples: int) -> None:
    """Optuna is given each recipe and must propose exactly it: it warns and draws another value where it cannot."""
    attack: Attack = ATTACKS.create(name)
    recipes = attack.recipes(INFO, samples)
    assert recipes
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for recipe in recipes:
        study.enqueue_trial(dict(recipe))
        trial = study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            proposed = attack.space(trial, INFO, samples)
        assert dict(proposed) == dict(recipe) == trial.params
        assert {key: type(value) for key, value in proposed.items()} == {k: type(v) for k, v in recipe.items()}


@each_attack
def test_tells_of_every_step_and_charges_the_ledger(name: str) -> None:
    ground = arena_for(name)
    spent = list(start(name, ground))
    assert [s.steps for s in spent] == list(range(1, len(spent) + 1))
    assert ground.ledger.spent == (spent[-1] if ROWS[name].acts else Spent())
    assert len(ground.ledger.losses) == (len(spent) - ROWS[name].edits if ROWS[name].acts else 0)


@each_that_moves
def test_is_another_trial_for_another_seed(name: str) -> None:
    assert not same_bits(weights_of(attacked(name, 0).module), weights_of(attacked(name, 1).module))


@each_attack
def test_moves_weights_unless_it_is_the_control(name: str) -> None:
    moved = not same_bits(weights_of(attacked(name).module), weights_of(arena_for(name).module))
    assert moved == ROWS[name].moves


@each_attack
def test_runs_as_a_trial(name: str) -> None:
    text = "language" in ATTACKS.create(name).kinds
    target, capability = (tiny_target(), tiny_capability()) if text else (tiny_classifier_target(), tiny_points())
    setting = open_setting(target, capability)
    result = run_trial(
        setting, ATTACKS.create(name), TrialSpec(key="trial", attack=name, params=ROWS[name].params, seed=0)
    )
    assert (result.state, result.error, result.diverged) == ("complete", None, False)
    assert result.version == ATTACKS.create(name).version
    assert (result.share_moved > 0) == ROWS[name].moves
    assert (result.outputs_moved > 0) == ROWS[name].acts


# What single attacks promise beyond the contract.


def sequences_seen(ground: Arena, params: Params) -> set[tuple[int, ...]]:
    """The token sequences, padding cut off, that a module is shown during an attack."""
    seen: set[tuple[int, ...]] = set()

    def note(_module: nn.Module, _inputs: Any, given: dict[str, Any]) -> None:
        ids, mask = given["input_ids"], given["attention_mask"]
        lengths = torch.full((len(ids),), ids.shape[1]) if mask is None else mask.sum(dim=1)
        seen.update(tuple(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True))

    handle = ground.module.register_forward_pre_hook(note, with_kwargs=True)
    for _ in start("retrain", ground, params):
        pass
    handle.remove()
    return seen


def texts_of(data: TokenSet) -> list[tuple[int, ...]]:
    return [tuple(row[:n].tolist()) for row, n in zip(data.input_ids, data.lengths, strict=True)]


def test_noop_moves_nothing_and_charges_nothing() -> None:
    ground = arena(tiny_llama())
    spent = list(start("noop", ground, {"steps": 3}))
    assert spent == [Spent(steps=1), Spent(steps=2), Spent(steps=3)]
    assert same_bits(weights_of(ground.module), weights_of(tiny_llama()))
    assert ground.ledger == Ledger(parameters=ground.ledger.parameters)


@pytest.mark.parametrize("loss", ["answer", "text"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_retrain_lowers_its_training_loss(optimizer: str, loss: str) -> None:
    rate = {"adamw": 1e-2, "sgd": 1e-1}[optimizer]
    params = {**RETRAIN, "optimizer": optimizer, f"learning_rate.{optimizer}": rate, "steps": 40, "loss": loss}
    losses = attacked("retrain", params=params).ledger.losses
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("samples", [1, 5, 12])
def test_retrain_sees_the_first_samples_only_and_all_of_them(samples: int) -> None:
    ground = arena(tiny_llama(), seed=3)
    seen = sequences_seen(ground, {**RETRAIN, "samples": samples, "steps": 12})
    assert seen == set(texts_of(ground.answers)[:samples])


def test_retrain_draws_another_sample_for_another_seed() -> None:
    few = {**RETRAIN, "samples": 3}
    drawn = [frozenset(sequences_seen(arena(tiny_llama(), seed), few)) for seed in range(6)]
    assert all(len(sample) == 3 for sample in drawn)
    assert len(set(drawn)) > 3


@pytest.mark.parametrize("loss", ["answer", "text"])
def test_retrain_trains_on_the_loss_it_is_told(loss: str) -> None:
    """The first training loss is that of the released weights on the first batch, over answers or whole texts."""
    ground = arena(tiny_llama())
    everything = {**RETRAIN, "steps": 1, "batch_size": 64, "loss": loss}
    for _ in start("retrain", ground, everything):
        pass
    data = ground.texts if loss == "text" else ground.answers
    assert ground.ledger.losses[0] == pytest.approx(loss_on(data.batch(slice(None))), rel=1e-5)
    assert (data.labels[:, 1:2] != IGNORED).all() == (loss == "text")


@torch.no_grad()
def loss_on(batch: Batch) -> float:
    return mean_loss(tiny_llama(), batch).item()


def test_retrain_uses_the_rate_of_its_optimizer() -> None:
    """A space with both rates in it must not let one stand in for the other."""
    both = {**RETRAIN, "learning_rate.sgd": 0.0}
    assert same_bits(
        weights_of(attacked("retrain", params=both).module), weights_of(attacked("retrain", params=RETRAIN).module)
    )
    still = attacked("retrain", params={**both, "optimizer": "sgd"})
    assert same_bits(weights_of(still.module), weights_of(tiny_llama()))
