"""What every attack must do. A new attack adds one row to `ROWS` and nothing else here."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import optuna
import pytest
import torch
from tiny_models import random_tokens, same_bits, tiny_capability, tiny_llama, tiny_target, weights_of
from torch import nn

from redteam.attacks.contract import Access, Arena, Attack, Params
from redteam.engine.batches import IGNORED, Batch, TokenSet
from redteam.engine.cost import Ledger, Spent
from redteam.engine.loop import mean_loss
from redteam.engine.seeding import seeded
from redteam.registry import ATTACKS
from redteam.target import TargetInfo
from redteam.trial import TrialSpec, open_setting, run_trial

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
ROWS: dict[str, Row] = {
    "noop": Row(params={"steps": 4}, moves=False, acts=False),
    "retrain": Row(params=RETRAIN),
    "lora": Row(params={**TUNING, **DATA, "rank": 2, "scale": 2.0, "modules": "all"}),
    "partial": Row(params={**TUNING, **DATA, "part": "late layers"}),
    "mixture": Row(params={**TUNING, **DATA, "share": 0.5}),
    "benign": Row(params={**TUNING, "data": "retain", "share": 0.5}),
    "curriculum": Row(params={**TUNING, **DATA, "first": 0.4}),
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
    "prune": Row(params={**TUNING, **DATA, "by": "difference", "share": 0.1, "fine_tuning": True}, edits=1),
    "ablate": Row(params={"layers": "every", "towards": "zero"}, moves=False, edits=1),
    "steer": Row(params={"sign": "minus", "strength": 1.0, "depth": 0.0}, moves=False, edits=1),
    "latent": Row(params={**TUNING, **DATA, "bound": 1.0, "depth": 0.0}, moves=False),
    "soft-prompt": Row(params={**TUNING, **DATA, "tokens": 3}, moves=False),
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
        ledger=Ledger(parameters=sum(p.numel() for p in module.parameters())),
        seed=seed,
    )


def start(name: str, ground: Arena, params: Params | None = None) -> Iterator[Spent]:
    """Starts an attack as a trial does: in training mode, with the global generator seeded."""
    attack: Attack = ATTACKS.create(name)
    ground.module.train()
    torch.manual_seed(ground.seed)
    return attack.run(ground, ROWS[name].params if params is None else params)


def attacked(name: str, seed: int = 0, params: Params | None = None) -> Arena:
    """An arena after a whole attack."""
    ground = arena(tiny_llama(), seed)
    with torch.random.fork_rng(devices=()):
        for _ in start(name, ground, params):
            pass
    return ground


def hooks_of(module: nn.Module) -> list[Any]:
    """Every hook of every submodule."""
    kinds = [name for name in vars(module) if name.endswith("_hooks")]
    assert kinds
    return [hook for part in module.modules() for kind in kinds for hook in getattr(part, kind).values()]


class Proposals:
    """A `Suggest` that notes the names it is asked for and draws like a coin with many sides."""

    def __init__(self, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.names: list[str] = []

    def _share(self, name: str) -> float:
        self.names.append(name)
        return float(torch.rand((), generator=self.draw))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert low <= high
        assert not log or low > 0
        return low + (high - low) * self._share(name)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        assert low <= high
        assert not log or low > 0
        return min(high, low + int((high - low + 1) * self._share(name)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert choices
        return choices[int(len(choices) * self._share(name))]


def test_every_attack_has_its_row() -> None:
    assert ROWS.keys() == ATTACKS.table.keys()


@each_attack
def test_says_what_it_must_be_able_to_touch(name: str) -> None:
    assert isinstance(ATTACKS.create(name).access, Access)


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
def test_recipes_differ_and_do_not_change(name: str) -> None:
    attack: Attack = ATTACKS.create(name)
    for samples in SIZES[2:]:
        recipes = [tuple(sorted(recipe.items())) for recipe in attack.recipes(INFO, samples)]
        assert len(set(recipes)) == len(recipes)
        assert recipes == [tuple(sorted(recipe.items())) for recipe in attack.recipes(INFO, samples)]


@each_attack
@pytest.mark.parametrize("samples", SIZES)
def test_keys_are_the_suggested_names(name: str, samples: int) -> None:
    """The evidence stores parameters by key, and the search replays them by name."""
    attack: Attack = ATTACKS.create(name)
    for seed in range(40):
        suggest = Proposals(seed)
        params = attack.space(suggest, INFO, samples)
        assert sorted(params) == sorted(suggest.names)


@each_attack
def test_parameters_survive_json(name: str) -> None:
    attack: Attack = ATTACKS.create(name)
    for params in (*attack.recipes(INFO, 40), *(attack.space(Proposals(seed), INFO, 40) for seed in range(20))):
        assert json.loads(json.dumps(dict(params))) == dict(params)


@each_attack
def test_cost_is_cumulative_and_never_falls(name: str) -> None:
    ground = arena(tiny_llama())
    spent = list(start(name, ground))
    assert [s.steps for s in spent] == list(range(1, len(spent) + 1))
    for before, after in pairwise([Spent(), *spent]):
        assert after.samples >= before.samples
        assert after.tokens >= before.tokens
        assert after.flops >= before.flops
    assert ground.ledger.spent == (spent[-1] if ROWS[name].acts else Spent())
    assert len(ground.ledger.losses) == (len(spent) - ROWS[name].edits if ROWS[name].acts else 0)


@each_attack
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_can_be_closed_at_any_step(name: str, steps: int) -> None:
    ground = arena(tiny_llama())
    hooks = hooks_of(ground.module)
    structure = {key: tensor.shape for key, tensor in weights_of(ground.module).items()}
    running = start(name, ground)
    for _ in range(steps):
        next(running, None)
    running.close()  # type: ignore[attr-defined]
    ground.in_place.close()
    assert hooks_of(ground.module) == hooks
    assert all(p.grad is None for p in ground.module.parameters())
    assert {key: tensor.shape for key, tensor in weights_of(ground.module).items()} == structure
    assert all(p.requires_grad for p in ground.module.parameters())


@each_attack
def test_is_deterministic_for_a_seed(name: str) -> None:
    first, second = attacked(name), attacked(name)
    assert same_bits(weights_of(first.module), weights_of(second.module))
    assert first.ledger.losses == second.ledger.losses
    assert first.ledger.spent == second.ledger.spent


@each_that_moves
def test_is_another_trial_for_another_seed(name: str) -> None:
    assert not same_bits(weights_of(attacked(name, 0).module), weights_of(attacked(name, 1).module))


@each_attack
def test_writes_to_no_data(name: str) -> None:
    """The retain set is one tensor for all trials of a run."""
    ground = arena(tiny_llama())
    sets = {"answers": ground.answers, "texts": ground.texts, "retain": ground.retain}
    before = {key: [t.clone() for t in tensors(data)] for key, data in sets.items()}
    for _ in start(name, ground):
        pass
    for key, data in sets.items():
        assert all(torch.equal(now, then) for now, then in zip(tensors(data), before[key], strict=True)), key


def tensors(data: TokenSet) -> list[torch.Tensor]:
    return [data.input_ids, data.labels, data.lengths]


@each_attack
def test_keeps_the_precision_of_the_weights(name: str) -> None:
    assert {p.dtype for p in attacked(name).module.parameters()} == {torch.float32}


@each_attack
def test_moves_weights_unless_it_is_the_control(name: str) -> None:
    moved = not same_bits(weights_of(attacked(name).module), weights_of(tiny_llama()))
    assert moved == ROWS[name].moves


@each_attack
def test_runs_as_a_trial(name: str) -> None:
    setting = open_setting(tiny_target(), tiny_capability())
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
