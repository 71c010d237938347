"""One trial: what it scores, what it leaves behind, and what becomes of an attack that misbehaves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import tiny_classifier_target, tiny_points
from tiny_models import same_bits, tiny_capability, tiny_llama, tiny_target, weights_of, word_tokenizer
from torch import nn

from redteam.attacks.contract import Access, Arena, Attack, Params
from redteam.attacks.noop import NoOp
from redteam.attacks.retrain import Retrain
from redteam.capabilities.scorers.choices import encode_choices
from redteam.capabilities.scorers.contract import item_scores
from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint
from redteam.engine.cost import Ledger, Spent
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.setting import Setting, open_setting
from redteam.trial import TrialResult, TrialSpec, run_trial

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


@pytest.fixture
def setting() -> Setting:
    return open_setting(tiny_target(), tiny_capability())


def spec(attack: str = "retrain", *, seed: int = 0, certify: bool = False, **params: Any) -> TrialSpec:
    chosen = {**RETRAIN, **params} if attack == "retrain" else params
    return TrialSpec(key=f"target/search/{seed:04d}", attack=attack, params=chosen, seed=seed, certify=certify)


class Scripted:
    """An attack that does what a test tells it: `body` is its generator."""

    name = "scripted"
    version = 7
    goal = "does as it is told"
    paper = "none"
    access = Access.WEIGHTS

    def __init__(self, body: Callable[[Arena], Iterator[Spent]]) -> None:
        self.body = body

    def space(self, suggest, target, samples):
        return {}

    def recipes(self, target, samples):
        return [{}]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        yield from self.body(arena)


def scripted(setting: Setting, body: Callable[[Arena], Iterator[Spent]], **how: Any) -> TrialResult:
    return run_trial(setting, Scripted(body), spec("scripted", **how))


@torch.no_grad()
def shake(module: nn.Module, by: float = 0.5) -> None:
    for parameter in module.parameters():
        parameter.add_(by)


def idle(steps: int, then: Callable[[Arena, int], None] = lambda arena, step: None) -> Callable:
    """A body of so many steps that calls `then` before each is yielded."""

    def body(arena: Arena) -> Iterator[Spent]:
        for step in range(1, steps + 1):
            then(arena, step)
            yield Spent(steps=step)

    return body


def outcome(result: TrialResult) -> dict[str, Any]:
    """A result without how long it took, comparable with ==."""
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "seconds"}
    fields["points"] = [(p.spent, {split: s.tolist() for split, s in p.scores.items()}) for p in result.points]
    return fields


@pytest.mark.parametrize(
    ("steps", "scored"),
    [
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 3]),
        (4, [0, 1, 2, 4]),
        (7, [0, 1, 2, 4, 7]),
        (8, [0, 1, 2, 4, 8]),
        (21, [0, 1, 2, 4, 8, 16, 21]),
    ],
)
def test_scores_at_powers_of_two_and_at_the_last_step(setting: Setting, steps: int, scored: list[int]) -> None:
    result = run_trial(setting, Retrain(), spec(steps=steps))
    assert [p.spent.steps for p in result.points] == scored
    assert len(result.losses) == steps
    assert result.points[-1].spent.samples == 4 * steps
    assert all(a.spent.flops < b.spent.flops for a, b in zip(result.points, result.points[1:], strict=False))


def strides(*steps: int) -> Callable[[Arena], Iterator[Spent]]:
    """A body that tells of these steps only."""

    def body(arena: Arena) -> Iterator[Spent]:
        for step in steps:
            yield Spent(steps=step)

    return body


def test_an_attack_that_yields_rarely_is_scored_whenever_a_power_of_two_has_passed(setting: Setting) -> None:
    result = scripted(setting, strides(10, 12, 20, 30))
    assert [p.spent.steps for p in result.points] == [0, 10, 20, 30]


@pytest.mark.parametrize("steps", [(1, 1), (2, 1), (0,)])
def test_steps_that_do_not_rise_are_a_failed_trial(setting: Setting, steps: tuple[int, ...]) -> None:
    """Two scores at one cost could not be told apart in the evidence."""
    result = scripted(setting, strides(*steps))
    assert result.state == "failed"
    assert "steps" in (result.error or "")


def test_a_model_whose_outputs_are_not_finite_is_refused() -> None:
    """Its weights are finite, so loading has not refused it."""
    target = tiny_target()
    with torch.no_grad():
        target.module.get_output_embeddings().weight.fill_(1e38)
        target.module.model.norm.weight.fill_(1e38)
    with pytest.raises(InputError, match="not finite"):
        open_setting(target, tiny_capability())


def test_a_tokenizer_of_another_model_is_refused() -> None:
    target = tiny_target()
    target.module.resize_token_embeddings(4)
    with pytest.raises(InputError, match="the model has 4 embeddings"):
        open_setting(target, tiny_capability())


def test_items_longer_than_the_model_reads_are_refused() -> None:
    target = tiny_target()
    target.module.config.max_position_embeddings = 2
    with pytest.raises(InputError, match="reads 2"):
        open_setting(target, tiny_capability())


def test_an_attack_that_takes_no_step_has_the_released_weights_only(setting: Setting) -> None:
    result = scripted(setting, idle(0))
    assert [p.spent for p in result.points] == [Spent()]
    assert result.state == "complete"


def test_step_zero_is_the_settings_start(setting: Setting) -> None:
    """And the start is what scoring the released weights directly gives."""
    capability = tiny_capability()
    for split in ("select", "certify", "utility"):
        fresh = item_scores(tiny_llama(), encode_choices(word_tokenizer(), getattr(capability, split)))
        assert np.array_equal(setting.start[split], fresh)
    result = run_trial(setting, Retrain(), spec(certify=True))
    assert {split: s.tolist() for split, s in result.points[0].scores.items()} == {
        split: s.tolist() for split, s in setting.start.items()
    }


@pytest.mark.parametrize(
    ("certify", "splits"), [(False, {"select", "utility"}), (True, {"select", "utility", "certify"})]
)
def test_certify_is_scored_only_when_asked(setting: Setting, certify: bool, splits: set[str]) -> None:
    result = run_trial(setting, Retrain(), spec(certify=certify))
    assert all(set(point.scores) == splits for point in result.points)
    capability = tiny_capability()
    for point in result.points:
        assert {split: len(s) for split, s in point.scores.items()} == {s: len(getattr(capability, s)) for s in splits}


def test_scores_are_those_of_the_attacked_weights(setting: Setting) -> None:
    """In evaluation mode, whatever the mode in which the attack trains."""
    seen: list[dict[str, list[float]]] = []
    modes: list[bool] = []

    def watch(arena: Arena, step: int) -> None:
        shake(arena.module, 0.3 * step)
        modes.append(arena.module.training)
        arena.module.eval()
        seen.append({s: item_scores(arena.module, setting.choices[s]).tolist() for s in ("select", "utility")})
        arena.module.train()  # whatever an attack leaves it in

    result = scripted(setting, idle(4, watch))
    scored = {p.spent.steps: {split: s.tolist() for split, s in p.scores.items()} for p in result.points}
    assert [scored[step] for step in (1, 2, 4)] == [seen[0], seen[1], seen[3]]
    assert not modes[0]  # an attack begins with the model as it is scored


def test_scoring_is_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout would make a score a matter of luck."""
    modes: list[bool] = []
    target = tiny_target()
    module = target.module
    forward = module.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        modes.append(module.training)
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", watched)  # and is part of the released model
    setting = open_setting(target, tiny_capability())
    modes.clear()
    scripted(setting, idle(4))  # takes no step of its own, so that every forward pass is one of scoring
    assert len(modes) >= 3
    assert not any(modes)


def moves(arena: Arena) -> Iterator[Spent]:
    shake(arena.module)
    yield Spent(steps=1)


@pytest.mark.parametrize(
    ("body", "access", "reversible"),
    [
        (idle(1), Access.TEXT, True),
        (idle(1), Access.EMBEDDINGS, True),
        (idle(1), Access.ACTIVATIONS, True),
        (idle(1), Access.WEIGHTS, False),
        (moves, Access.ACTIVATIONS, False),  # whatever it says of itself
    ],
)
def test_what_moves_no_weight_can_be_switched_off(
    setting: Setting, body: Callable, access: Access, reversible: bool
) -> None:
    attack = Scripted(body)
    attack.access = access
    assert run_trial(setting, attack, spec("scripted")).reversible == reversible


def test_of_a_classifier_nobody_knows_when_to_switch_it_off() -> None:
    points = open_setting(tiny_classifier_target(), tiny_points())
    attack = Scripted(idle(1))
    attack.access = Access.ACTIVATIONS
    assert not run_trial(points, attack, spec("scripted")).reversible


def test_scoring_does_not_change_the_attack(setting: Setting) -> None:
    """The losses are those of the same attack that nobody looks at."""
    losses = run_trial(setting, Retrain(), spec(seed=2, certify=True)).losses
    order = torch.randperm(len(setting.answers), generator=seeded(2, "sample"))
    alone = Arena(
        module=tiny_llama().train(),
        answers=setting.answers.take(order),
        texts=setting.texts.take(order),
        retain=setting.retain,
        ledger=Ledger(parameters=1),
        seed=2,
    )
    for _ in Retrain().run(alone, RETRAIN):
        pass
    assert tuple(alone.ledger.losses) == losses


# What a trial leaves behind.


def raises(arena: Arena) -> Iterator[Spent]:
    shake(arena.module)
    yield Spent(steps=1)
    raise ValueError("the attack is broken")


def freezes(arena: Arena) -> Iterator[Spent]:
    for parameter in arena.module.parameters():
        parameter.requires_grad_(False)
    shake(arena.module)
    yield Spent(steps=1)


def leaves_gradients(arena: Arena) -> Iterator[Spent]:
    batch = arena.answers.batch(slice(None))
    arena.module(input_ids=batch.input_ids, attention_mask=batch.mask).logits.sum().backward()
    shake(arena.module)
    yield Spent(steps=1)


def turns_to_nan(arena: Arena) -> Iterator[Spent]:
    shake(arena.module, math.nan)
    yield Spent(steps=1)


def changes_modes(arena: Arena) -> Iterator[Spent]:
    arena.module.model.layers[0].train()
    torch.manual_seed(5)
    shake(arena.module, float(torch.rand(())))
    yield Spent(steps=1)


@pytest.mark.parametrize("body", [raises, freezes, leaves_gradients, turns_to_nan, changes_modes])
def test_the_module_is_restored_bit_for_bit(setting: Setting, body: Callable) -> None:
    module = setting.target.module
    before, flags = weights_of(module), [p.requires_grad for p in module.parameters()]
    undisturbed = outcome(run_trial(setting, Retrain(), spec()))
    scripted(setting, body)
    assert same_bits(weights_of(module), before)
    assert [p.requires_grad for p in module.parameters()] == flags
    assert all(p.grad is None for p in module.parameters())
    assert not any(part.training for part in module.modules())
    assert outcome(run_trial(setting, Retrain(), spec())) == undisturbed


def test_hooks_that_an_attack_leaves_do_not_touch_the_next_trial(setting: Setting) -> None:
    undisturbed = outcome(run_trial(setting, Retrain(), spec()))

    def hooks(arena: Arena) -> Iterator[Spent]:
        arena.module.model.layers[0].register_forward_hook(lambda module, inputs, output: output * 0)
        yield Spent(steps=1)
        raise ValueError("and does not come to remove it")

    scripted(setting, hooks)
    assert outcome(run_trial(setting, Retrain(), spec())) == undisturbed


def test_a_changed_structure_stops_the_run_with_what_was_changed(setting: Setting) -> None:
    """Such a module cannot be restored, so no later trial may run on it: loud, and not a failed trial."""

    def grows(arena: Arena) -> Iterator[Spent]:
        arena.module.register_parameter("extra", nn.Parameter(torch.zeros(1)))
        yield Spent(steps=1)

    with pytest.raises(RuntimeError, match="structure: extra"):
        scripted(setting, grows)


def test_the_global_generator_is_untouched(setting: Setting) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    run_trial(setting, Retrain(), spec())
    scripted(setting, changes_modes)
    scripted(setting, raises)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_data_is_drawn_anew_and_the_settings_own_is_untouched(setting: Setting) -> None:
    before = {name: getattr(setting, name).input_ids.clone() for name in ("answers", "texts", "retain")}
    drawn = []

    def writes(arena: Arena) -> Iterator[Spent]:
        drawn.append((arena.answers.input_ids.clone(), arena.texts.input_ids.clone()))
        arena.answers.input_ids.zero_()
        arena.texts.labels.zero_()
        yield Spent(steps=1)

    for seed in (0, 0, 1):
        scripted(setting, writes, seed=seed)
    assert all(torch.equal(getattr(setting, name).input_ids, tensor) for name, tensor in before.items())
    (first, first_texts), (again, _), (other, _) = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, first_texts)  # both forms hold the same sequences in the same order
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, setting.answers.input_ids.tolist()))


# What becomes of an attack that fails.


def test_an_attack_that_raises_is_a_failed_trial(setting: Setting) -> None:
    result = scripted(setting, raises)
    assert (result.state, result.diverged) == ("failed", False)
    assert result.error == "ValueError: the attack is broken"
    assert [p.spent.steps for p in result.points] == [0, 1]  # what was scored before stands
    assert result.version == 7


def test_an_error_is_told_on_one_line(setting: Setting) -> None:
    def talkative(arena: Arena) -> Iterator[Spent]:
        raise ValueError("first line\nsecond line\x1b[31m")
        yield

    error = scripted(setting, talkative).error
    assert error is not None
    assert error.startswith("ValueError: first line")
    assert error.isprintable()


@pytest.mark.parametrize("code", [0, 1])
def test_an_attack_that_exits_is_a_failed_trial(setting: Setting, code: int) -> None:
    """Exit code 0 would be read as a run that came to a verdict, 1 as a gate that failed."""

    def leaves(arena: Arena) -> Iterator[Spent]:
        raise SystemExit(code)
        yield

    assert scripted(setting, leaves).state == "failed"


def test_an_interrupt_is_not_a_failed_trial(setting: Setting) -> None:
    """And the next trial starts from the released weights all the same."""
    undisturbed = outcome(run_trial(setting, Retrain(), spec()))

    def interrupted(arena: Arena) -> Iterator[Spent]:
        shake(arena.module)
        yield Spent(steps=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scripted(setting, interrupted)
    assert outcome(run_trial(setting, Retrain(), spec())) == undisturbed


def test_an_attack_that_is_no_generator_is_a_failed_trial(setting: Setting) -> None:
    class Forgetful(Scripted):
        def run(self, arena: Arena, params: Params):
            return None

    assert run_trial(setting, Forgetful(idle(0)), spec("scripted")).state == "failed"


def test_parameters_that_an_attack_does_not_know_are_a_failed_trial(setting: Setting) -> None:
    result = run_trial(setting, Retrain(), TrialSpec(key="k", attack="retrain", params={}, seed=0))
    assert result.state == "failed"
    assert result.error == "KeyError: 'loss'"


def test_weights_that_turn_to_nan_are_divergence_and_never_a_score(setting: Setting) -> None:
    def late(arena: Arena, step: int) -> None:
        if step == 4:
            shake(arena.module, math.nan)

    result = scripted(setting, idle(8, late))
    assert (result.state, result.error, result.diverged) == ("complete", None, True)
    assert [p.spent.steps for p in result.points] == [0, 1, 2]
    assert all(np.isfinite(s).all() for p in result.points for s in p.scores.values())
    assert result.share_moved == 1.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_loss_that_an_attack_charges_and_is_none_is_divergence(setting: Setting, loss: Any) -> None:
    """It trains by itself, and never looked: no loss that the log cannot hold is kept."""

    def body(arena: Arena) -> Iterator[Spent]:
        for step in range(8):
            shake(arena.module, 0.01)
            yield arena.ledger.charge(samples=1, tokens=2, loss=loss if step == 3 else 1.0)

    result = scripted(setting, body)
    assert (result.state, result.error, result.diverged) == ("complete", None, True)
    assert [p.spent.steps for p in result.points] == [0, 1, 2]
    assert result.losses == (1.0, 1.0, 1.0)


def test_training_that_falls_apart_is_divergence(setting: Setting) -> None:
    """The loss turns NaN in the middle: the points before it stand, none comes after."""
    result = run_trial(setting, Retrain(), spec(optimizer="sgd", **{"learning_rate.sgd": 1e38}, steps=64))
    assert (result.state, result.error, result.diverged) == ("complete", None, True)
    assert len(result.points) >= 1
    assert result.points[-1].spent.steps <= len(result.losses) < 64
    assert all(math.isfinite(loss) for loss in result.losses)
    assert all(np.isfinite(s).all() for p in result.points for s in p.scores.values())


# Trials are functions of setting and spec.


def test_the_same_spec_gives_the_same_result(setting: Setting) -> None:
    first = outcome(run_trial(setting, Retrain(), spec(certify=True)))
    assert outcome(run_trial(setting, Retrain(), spec(certify=True))) == first
    fresh = open_setting(tiny_target(), tiny_capability())
    assert outcome(run_trial(fresh, Retrain(), spec(certify=True))) == first


def test_dropout_of_the_config_does_not_disturb_an_attack() -> None:
    dropping, plain = (
        open_setting(tiny_target(**config), tiny_capability()) for config in ({"attention_dropout": 0.95}, {})
    )
    results = [run_trial(setting, Retrain(), spec(seed=4, certify=True)) for setting in (dropping, plain)]
    assert outcome(results[0]) == outcome(results[1])


def test_global_randomness_follows_the_seed(setting: Setting) -> None:
    def draw(arena: Arena, step: int) -> None:
        drawn.append(float(torch.rand(())))

    drawn: list[float] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        scripted(setting, idle(2, draw))
    assert drawn[:2] == drawn[2:]


def test_the_order_of_trials_does_not_matter(setting: Setting) -> None:
    trials: list[tuple[Attack, TrialSpec]] = [
        (Retrain(), spec(seed=0)),
        (Retrain(), spec(seed=1, loss="text", optimizer="sgd", **{"learning_rate.sgd": 0.1})),
        (Scripted(turns_to_nan), spec("scripted", seed=2)),
        (NoOp(), spec("noop", seed=3, steps=3)),
    ]
    forth = [outcome(run_trial(setting, attack, what)) for attack, what in trials]
    back = [outcome(run_trial(setting, attack, what)) for attack, what in reversed(trials)]
    assert forth == back[::-1]


def test_the_seed_draws_the_sample(setting: Setting) -> None:
    few = {"samples": 2, "steps": 2, "batch_size": 2}
    first = [run_trial(setting, Retrain(), spec(seed=seed, **few)).losses[0] for seed in range(5)]
    assert len(set(first)) > 2


# How much moved, at which precision.


def test_share_moved(setting: Setting) -> None:
    assert run_trial(setting, NoOp(), spec("noop", steps=3)).share_moved == 0
    assert 0.5 < run_trial(setting, Retrain(), spec()).share_moved <= 1

    def one_layer(arena: Arena) -> Iterator[Spent]:
        with torch.no_grad():
            arena.module.lm_head.weight.add_(1)
        yield Spent(steps=1)

    module = setting.target.module
    expected = module.lm_head.weight.numel() / sum(p.numel() for p in module.parameters())
    assert scripted(setting, one_layer).share_moved == expected


def test_weights_stored_in_half_precision_are_attacked_in_single(tmp_path) -> None:
    """In bfloat16 a step of 1e-5 is lost on nearly every weight of this size: an inert attack looks like resistance."""
    path = tmp_path / "half.pt"
    save_checkpoint(path, tiny_llama().to(torch.bfloat16), word_tokenizer())
    target = open_target(path)
    assert target.stored_dtype == "bfloat16"
    setting = open_setting(target, tiny_capability())
    seen: set[torch.dtype] = set()
    scripted(setting, idle(1, lambda arena, step: seen.update(p.dtype for p in arena.module.parameters())))
    assert seen == {torch.float32}
    gentle = {"learning_rate.adamw": 1e-5, "steps": 1}
    assert run_trial(setting, Retrain(), spec(**gentle)).share_moved > 0.5


def test_seconds_are_accounted_for(setting: Setting) -> None:
    seconds = run_trial(setting, Retrain(), spec()).seconds
    assert set(seconds) == {"total", "training", "scoring"}
    assert min(seconds.values()) > 0
    assert seconds["training"] + seconds["scoring"] <= seconds["total"]
