"""What attacks on activations and embeddings promise beyond the contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_conformance import DATA, ROWS, TUNING, arena, arena_for, start
from tiny_classifiers import tiny_points, trained_mlp
from tiny_models import random_tokens, same_bits, tiny_capability, tiny_llama, tiny_target, weights_of
from tiny_tasks import random_labelled, tiny_classifier
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from redteam.attacks.ablate import SHARES, ablation
from redteam.attacks.contract import Arena
from redteam.attacks.soft_prompt import prompted
from redteam.capabilities.wording import as_it_is
from redteam.engine.activations import hidden_states
from redteam.engine.batches import IGNORED
from redteam.engine.cost import Ledger
from redteam.engine.steering import along, edited, layer_at, layers_at_work, mean_norm, mean_states, shorten
from redteam.registry import ATTACKS
from redteam.setting import Setting, open_setting
from redteam.target import Target
from redteam.trial import TrialSpec, run_trial

STILL = [name for name, row in ROWS.items() if row.acts and not row.moves]  # moves no weight
REWRITING = ("suffix", "word-search", "in-context", "rephrase", "reorder")
HOOKED = [name for name in STILL if name not in (*REWRITING, "universal-input")]
LAYERS = ("model.layers.0", "model.layers.1")


def classifier_arena(module: nn.Module, forget: Any, retain: Any) -> Arena:
    return Arena(module=module, answers=forget, texts=forget, retain=retain, ledger=Ledger(parameters=1), seed=0)


def right(module: nn.Module, data: Any) -> float:
    return float((module(data.inputs).argmax(dim=1) == data.labels).float().mean())


@pytest.mark.parametrize("name", STILL)
def test_no_weight_moves_while_it_works(name: str) -> None:
    ground = arena_for(name)
    released = weights_of(ground.module)
    for _ in start(name, ground):
        assert same_bits(weights_of(ground.module), released)
        assert all(p.grad is None for p in ground.module.parameters())
    ground.in_place.close()
    assert all(p.requires_grad for p in ground.module.parameters())


@pytest.mark.parametrize("name", HOOKED)
def test_it_is_in_place_for_the_last_score(name: str) -> None:
    """Five steps: the last score falls after the attack's own end."""
    params = {**ROWS[name].params, **({"steps": 5} if "steps" in ROWS[name].params else {})}
    setting = open_setting(tiny_target(), tiny_capability())
    attack = ATTACKS.create(name)
    seen: list[bool] = []

    class Watched:
        version = 1

        def run(self, ground: Arena, given: Any) -> Any:
            before = ground.answers.batch(slice(0, 4)).logits(ground.module).detach()
            yield from attack.run(ground, given)
            seen.append(torch.equal(ground.answers.batch(slice(0, 4)).logits(ground.module), before))

    result = run_trial(setting, Watched(), TrialSpec(key="t", attack=name, params=params, seed=0))  # type: ignore[arg-type]
    assert (result.state, seen) == ("complete", [False])
    assert result.points[-1].spent.steps == params.get("steps", ROWS[name].edits)
    assert result.outputs_moved > 0
    assert not list(setting.target.module._forward_hooks)


@pytest.mark.parametrize("name", ["latent", "soft-prompt"])
def test_trains(name: str) -> None:
    ground = arena(tiny_llama())
    params = {**ROWS[name].params, "steps": 60, "learning_rate.adamw": 0.1, "batch_size": 12}
    for _ in start(name, ground, params):
        pass
    losses = ground.ledger.losses
    assert losses[-1] < 0.95 * losses[0]  # every step is on all items


def test_mean_states_are_read_where_answers_are_predicted() -> None:
    module, data = tiny_llama(), random_tokens(9)
    found = mean_states(module, data, LAYERS)
    for layer in LAYERS:
        chosen = []
        for row in range(len(data)):
            batch = data.batch(slice(row, row + 1))
            states = hidden_states(module, batch, (layer,))[layer][0]
            chosen += [states[t - 1] for t in range(1, states.shape[0]) if batch.labels[0, t] != IGNORED]
        assert torch.allclose(found[layer], torch.stack(chosen).mean(dim=0), atol=1e-5)


def test_the_mean_norm_is_that_of_single_states() -> None:
    module, data = tiny_llama(), random_tokens(9)
    lengths = []
    for row in range(len(data)):
        batch = data.batch(slice(row, row + 1))
        states = hidden_states(module, batch, LAYERS[:1])[LAYERS[0]][0]
        lengths += [
            float(states[t - 1].detach().norm()) for t in range(1, len(states)) if batch.labels[0, t] != IGNORED
        ]
    assert mean_norm(module, data, LAYERS[0]) == pytest.approx(sum(lengths) / len(lengths), rel=1e-5)


@pytest.mark.parametrize("name", ["universal-input", "latent"])
def test_where_the_mean_is_nothing_there_is_still_room(name: str) -> None:
    """Each input has its opposite, of the states of the first, linear, layer too: their mean is 0."""
    draws = random_labelled(12)
    data = type(draws)(torch.cat([draws.inputs, -draws.inputs]), torch.zeros(24, dtype=torch.int64))
    module = tiny_classifier()
    with torch.no_grad():
        module[0].bias.zero_()
    ground, released = classifier_arena(module, data, data), module(data.inputs)
    params = {**TUNING, **DATA, "bound": 0.5, "steps": 20}
    for _ in start(name, ground, params if name == "universal-input" else {**params, "depth": 0.0}):
        pass
    assert float((module(data.inputs) - released).detach().norm(dim=1).mean()) > 0.01
    ground.in_place.close()


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("towards", [None, "retain"])
def test_an_ablated_state_has_the_component_it_should(towards: str | None, share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    difference, center, states = (torch.randn(shape, generator=draw) for shape in (8, 8, (3, 5, 8)))
    found = ablation(difference, center if towards else None, share)(states)
    unit = difference / difference.norm()
    whole = torch.full((3, 5), float(center @ unit) if towards else 0.0)
    assert torch.allclose(found @ unit, torch.lerp(states @ unit, whole, share), atol=1e-5)
    rest = states - (states @ unit)[..., None] * unit
    assert torch.allclose(found - (found @ unit)[..., None] * unit, rest, atol=1e-5)


def test_along_takes_states_of_any_shape() -> None:
    states, direction = torch.randn(4, 3, 2, 2), torch.randn(3, 2, 2)
    direction = direction / direction.norm()
    found = along(states, direction)
    flat = (states.flatten(1) @ direction.flatten())[:, None] * direction.flatten()
    assert torch.allclose(found, flat.view_as(states), atol=1e-6)


def test_no_direction_is_no_change() -> None:
    states = torch.randn(2, 4)
    assert torch.equal(ablation(torch.zeros(4), None, 1.0)(states), states)


@pytest.mark.parametrize("depth", [0.0, 1.0])
def test_one_direction_is_removed_in_every_layer(depth: float) -> None:
    ground, plain = arena(tiny_llama()), tiny_llama()
    source = layer_at(LAYERS, depth)
    forget, retain = (mean_states(plain, data, LAYERS)[source] for data in (ground.answers, ground.retain))
    unit = (forget - retain) / (forget - retain).norm()
    for _ in start("ablate", ground, {"layers": "one everywhere", "towards": "zero", "depth": depth}):
        pass
    ground.module.eval()
    batch = ground.answers.batch(slice(0, 3))
    for layer, states in hidden_states(ground.module, batch, LAYERS).items():
        assert float((states.detach() @ unit).abs().max()) < 1e-5, layer
    with edited(plain, dict.fromkeys(LAYERS, lambda states: states - (states @ unit)[..., None] * unit)):
        expected = batch.logits(plain)
    assert torch.allclose(batch.logits(ground.module), expected, atol=1e-4)


def test_more_of_a_direction_is_removed_step_by_step() -> None:
    """One share after the other, none on top of another; nothing is left in place at the end."""
    module, data = tiny_classifier(), random_labelled(24)
    forget, retain = data.take(slice(0, 12)), data.take(slice(12, 24))
    released, gap = module(data.inputs), (mean_states(module, one, ("2",))["2"] for one in (forget, retain))
    ground, unit = classifier_arena(module, forget, retain), torch.nn.functional.normalize(next(gap) - next(gap), dim=0)
    states = module[:3](data.inputs).detach()
    for share, spent in zip(
        SHARES, start("ablate", ground, {"layers": "one", "towards": "zero", "depth": 1.0}), strict=True
    ):
        assert spent.steps == SHARES.index(share) + 1
        wanted = states - share * (states @ unit)[:, None] * unit
        assert torch.allclose(module[:3](data.inputs), wanted, atol=1e-5)
    ground.in_place.close()
    assert torch.equal(module(data.inputs), released)


def test_one_direction_is_removed_where_states_have_its_shape() -> None:
    """The layers of a perceptron are 12 and 8 wide."""
    module, data = tiny_classifier(), random_labelled(24)
    ground = classifier_arena(module, data.take(slice(0, 12)), data.take(slice(12, 24)))
    for _ in start("ablate", ground, {"layers": "one everywhere", "towards": "retain", "depth": 1.0}):
        pass
    assert [bool(part._forward_hooks) for part in module] == [False, False, True, False, False]
    ground.in_place.close()


def test_ablation_breaks_a_mask_along_a_direction() -> None:
    """The decoy it is known to break: forget inputs alone are pushed far along one direction of a hidden layer."""
    original, masked = tiny_classifier(), tiny_classifier()
    data = random_labelled(400)
    data = type(data)(data.inputs, original(data.inputs).argmax(dim=1))
    forget, retain = data.take(data.inputs[:, 0] > 0), data.take(data.inputs[:, 0] < 0)
    push = 40 * torch.nn.functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(1)), dim=0)
    masked = nn.Sequential(*masked[:2], Pushed(masked[2], push), *masked[3:])
    masked.is_forget = None  # type: ignore[assignment]
    masked.register_forward_pre_hook(lambda _m, given: masked[2].__dict__.update(forget=given[0][:, 0] > 0))
    assert right(masked, retain) == 1.0
    assert right(masked, forget) < 0.6
    ground = classifier_arena(masked, forget.take(slice(0, 60)), retain.take(slice(0, 60)))
    for _ in ATTACKS.create("ablate").run(ground, {"layers": "one", "depth": 1.0, "towards": "retain"}):
        pass
    assert right(masked, forget.take(slice(60, None))) > 0.85
    assert right(masked, retain) > 0.85


class Pushed(nn.Module):
    """A linear layer whose outputs are pushed where the network was told that an input is to be forgotten."""

    def __init__(self, layer: nn.Linear, push: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.push = layer.weight, layer.bias, push

    def forward(self, inputs: Tensor) -> Tensor:
        pushed: Tensor = nn.functional.linear(inputs, self.weight, self.bias) + self.forget[:, None] * self.push
        return pushed


@pytest.mark.parametrize(("sign", "factor"), [("plus", 2.0), ("minus", -2.0)])
def test_steering_adds_the_difference(sign: str, factor: float) -> None:
    ground, plain = arena(tiny_llama()), tiny_llama()
    forget, retain = (mean_states(plain, data, LAYERS[:1])[LAYERS[0]] for data in (ground.answers, ground.retain))
    for _ in start("steer", ground, {"sign": sign, "strength": 2.0, "depth": 0.0}):
        pass
    ground.module.eval()
    batch = ground.answers.batch(slice(0, 3))
    with edited(plain, {LAYERS[0]: lambda states: states + factor * (forget - retain)}):
        expected = batch.logits(plain)
    assert torch.allclose(batch.logits(ground.module), expected, atol=1e-4)
    assert not torch.allclose(batch.logits(tiny_llama()), expected, atol=1e-2)


def test_a_latent_perturbation_stays_within_its_bound() -> None:
    ground = arena(tiny_llama())
    length = mean_norm(ground.module, ground.answers, LAYERS[1])
    params = {**TUNING, **DATA, "learning_rate.adamw": 1.0, "steps": 8, "bound": 0.2, "depth": 1.0}
    plain = tiny_llama()
    batch = ground.answers.batch(slice(0, 4))
    before = hidden_states(plain, batch, LAYERS[1:])[LAYERS[1]]
    norms = []
    for _ in start("latent", ground, params):
        captured: dict[str, Tensor] = {}
        handle = ground.module.get_submodule(LAYERS[1]).register_forward_hook(
            lambda _m, _i, output, into=captured: into.update(h=output[0] if isinstance(output, tuple) else output)
        )
        batch.logits(ground.module)
        handle.remove()
        added = (captured["h"] - before)[batch.real]
        assert torch.allclose(added, added[:1].expand_as(added), atol=1e-4)  # one vector for every token
        norms.append(float(added[0].detach().norm()))
    assert max(norms) <= 0.2 * length * (1 + 1e-4)
    assert max(norms) >= 0.19 * length


def test_shorten_leaves_what_is_short_enough() -> None:
    short, long = torch.tensor([0.3, 0.4]), torch.tensor([3.0, 4.0])
    shorten(short, 1.0)
    shorten(long, 1.0)
    assert short.tolist() == pytest.approx([0.3, 0.4])
    assert long.tolist() == pytest.approx([0.6, 0.8])


def tiny_gpt2() -> GPT2LMHeadModel:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()


@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2])
def test_a_prompt_of_real_tokens_is_what_those_tokens_are(model: Any) -> None:
    """With the embeddings of tokens as the prompt, the logits are those of a text that begins with them."""
    module, data = model(), random_tokens(5)
    batch = data.batch(slice(None))
    tokens = torch.tensor([3, 7, 11])
    with prompted(module, module.get_input_embeddings().weight[tokens]):
        found = batch.logits(module)
    for row, length in enumerate(data.lengths.tolist()):
        text = torch.cat([tokens, data.input_ids[row, :length]])[None]
        expected = module(input_ids=text).logits[0, 3:]
        assert torch.allclose(found[row, :length], expected, atol=1e-4)
    assert found.shape[:2] == batch.input_ids.shape
    assert torch.equal(batch.logits(module), batch.logits(model()))


def first_prompt(ground: Arena, tokens: int) -> Tensor:
    """What a soft prompt starts from: the training rate is far too low to move it."""
    params = {**TUNING, **DATA, "learning_rate.adamw": 1e-12, "steps": 1, "tokens": tokens}
    seen: list[Tensor] = []
    running = start("soft-prompt", ground, params)
    handle = ground.module.get_submodule("model.layers.0").register_forward_pre_hook(
        lambda _layer, args, given: seen.append((args[0] if args else given["hidden_states"]).detach()),
        with_kwargs=True,
    )
    next(running)
    handle.remove()
    ground.in_place.close()
    return seen[0]


def test_a_prompt_starts_at_what_the_module_makes_of_tokens() -> None:
    """Gemma multiplies what it looks up, here by ten; a prompt of bare weights would be drowned by the text."""

    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 10

    module = tiny_llama()
    scaled = Scaled(*module.model.embed_tokens.weight.shape)
    scaled.weight = module.model.embed_tokens.weight
    module.model.embed_tokens = scaled
    read = first_prompt(arena(module), tokens=3)[0, :3]
    table = scaled.weight.detach() * 10
    assert torch.cdist(read, table).min(dim=1).values.max() < 0.1  # others are 12 and more away


@pytest.mark.parametrize(("spare", "tokens"), [(5, 3), (3, 3), (2, 2), (1, 1)])
def test_a_prompt_is_no_longer_than_the_model_has_room_for(spare: int, tokens: int) -> None:
    ground = arena(tiny_llama())
    wording = ground.text
    longest = wording.longest([*wording.attack, *wording.retain], as_it_is)
    without = first_prompt(arena(tiny_llama()), tokens=1).shape[1] - 1
    wording.positions = longest + spare
    assert first_prompt(ground, tokens=3).shape[1] - without == tokens


def test_a_prompt_without_room_is_refused() -> None:
    ground = arena(tiny_llama())
    ground.text.positions = 2
    with pytest.raises(ValueError, match="the model reads 2 tokens, too few for a prompt and a question"):
        next(start("soft-prompt", ground))


def test_a_classifier_has_no_embeddings() -> None:
    data = random_labelled(12)
    running = start("soft-prompt", classifier_arena(tiny_classifier(), data, data))
    with pytest.raises(ValueError, match="a Sequential has no token embeddings"):
        next(running)


@pytest.mark.parametrize("name", [*(name for name in HOOKED if name != "soft-prompt"), "universal-input"])
def test_works_on_a_classifier(name: str) -> None:
    module, data = tiny_classifier(), random_labelled(24)
    ground = classifier_arena(module, data.take(slice(0, 12)), data.take(slice(12, 24)))
    for _ in start(name, ground):
        pass
    assert not torch.equal(module(data.inputs), tiny_classifier()(data.inputs))
    ground.in_place.close()
    assert torch.equal(module(data.inputs), tiny_classifier()(data.inputs))


@pytest.mark.parametrize("name", ["ablate", "steer", "prune"])
def test_the_retain_items_that_are_read_are_drawn(name: str) -> None:
    """Of more than are read not the first, which may all come from one file, and others for another seed."""
    data = random_labelled(1200)
    data.inputs[:, 0] = torch.arange(1200.0)  # a number for each row; the first twelve are to be forgotten
    seen = []
    for seed in (0, 1):
        module, rows = tiny_classifier(), set[int]()
        ground = classifier_arena(module, data.take(slice(0, 12)), data.take(slice(12, 1200)))
        module.register_forward_pre_hook(lambda _part, given, rows=rows: rows.update(given[0][:, 0].int().tolist()))
        params = {**ROWS[name].params, **({"fine_tuning": False} if name == "prune" else {})}
        for _ in start(name, replace(ground, seed=seed), params):
            pass
        ground.in_place.close()
        assert 250 < len(rows) <= 524
        assert max(rows) > 1000
        seen.append(rows)
    assert seen[0] != seen[1]


class WithSpareHead(nn.Module):
    """A classifier with heads that only training would use, one before its layers and one among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.a, b, c = tiny_classifier()[::2]
        self.spare = nn.Linear(8, 3)
        self.b, self.c = b, c

    def forward(self, inputs: Tensor) -> Tensor:
        said: Tensor = self.c(self.b(self.a(inputs).relu()).relu())
        return said


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ablate", {"layers": "every", "towards": "retain"}),
        ("ablate", {"layers": "one", "towards": "zero", "depth": 0.0}),
        *(("steer", {"sign": "minus", "strength": 1.0, "depth": depth}) for depth in (0.0, 1.0)),
        *(("latent", {**TUNING, **DATA, "bound": 1.0, "depth": depth}) for depth in (0.0, 1.0)),
    ],
)
def test_a_layer_that_takes_no_part_is_left_out(name: str, params: dict[str, Any]) -> None:
    """It has no states to be read or changed; depth counts the others."""
    module, data = WithSpareHead().eval(), random_labelled(24)
    ground = classifier_arena(module, data.take(slice(0, 12)), data.take(slice(12, 24)))
    plain = module(data.inputs)
    for _ in start(name, ground, params):
        pass
    module.eval()
    assert not torch.allclose(module(data.inputs), plain)
    assert not any(part._forward_hooks for part in (module.first, module.spare))
    ground.in_place.close()


def test_a_module_without_layers_at_work_says_so() -> None:
    with pytest.raises(ValueError, match="no hidden layer takes part"):
        layers_at_work(WithSpareHead(), random_labelled(3), ("first", "spare"))


def test_layers_by_depth() -> None:
    layers = ("a", "b", "c")
    assert [layer_at(layers, depth) for depth in (0.0, 0.2, 0.5, 0.9, 1.0)] == ["a", "a", "b", "c", "c"]


# One change for all inputs.


def test_a_change_of_inputs_is_one_for_all_and_bounded() -> None:
    """What the model is given is seen by a hook of its first layer, which runs after the change was made."""
    data = random_labelled(24)
    module, forget = tiny_classifier(), data.take(slice(0, 12))
    ground = classifier_arena(module, forget, data.take(slice(12, 24)))
    most = 0.5 * float(forget.inputs.norm(dim=1).mean())
    params = {**TUNING, **DATA, "bound": 0.5, "steps": 40, "learning_rate.adamw": 0.1, "batch_size": 12}
    lengths = []
    for _ in start("universal-input", ground, params):
        with captured_inputs(module) as seen:
            module(data.inputs)
        change = seen[0] - data.inputs
        assert torch.allclose(change, change[:1].expand_as(change), atol=1e-6)
        lengths.append(float(change[0].detach().norm()))
    assert max(lengths) == pytest.approx(most, rel=1e-4)
    assert lengths[0] > 0
    assert ground.ledger.losses[-1] < ground.ledger.losses[0]


@contextmanager
def captured_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    first = next(part for part in module.modules() if not list(part.children()))
    handle = first.register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        handle.remove()


def test_text_has_no_inputs_to_be_added_to() -> None:
    with pytest.raises(ValueError, match="text has no inputs"):
        next(start("universal-input", arena(tiny_llama())))


def best_held(module: nn.Module, name: str) -> float:
    """The best select score that a recipe reaches on the tiny points while four fifths of utility hold."""
    setting, attack = points_setting(module), ATTACKS.create(name)
    floor, held = 0.8 * float(setting.start["utility"].mean()), [0.0]
    for seed, params in enumerate(attack.recipes(setting.target.info, len(setting.answers))):
        result = run_trial(setting, attack, TrialSpec(key="t", attack=name, params=params, seed=seed))
        points = [point.scores for point in result.points[1:]]
        held += [float(scores["select"].mean()) for scores in points if scores["utility"].mean() >= floor]
    return max(held)


def points_setting(module: nn.Module) -> Setting:
    target = Target(name="mlp", sha256="1" * 64, module=module, tokenizer=None, stored_dtype="float32")
    return open_setting(target, tiny_points())


def test_a_change_of_inputs_undoes_another_and_teaches_nothing() -> None:
    """The decoy takes a vector from every input before it looks; a model that never knew two classes stays so."""
    decoy = trained_mlp(tiny_points(), forget=True)
    with torch.no_grad():
        first = next(part for part in decoy.modules() if isinstance(part, nn.Linear))
        first.bias -= first.weight @ torch.tensor([1.0, 1.0, -2.0, -2.0, 0.0, 0.0])
    assert float(points_setting(decoy).start["select"].mean()) < 0.1
    assert best_held(decoy, "universal-input") > 0.9
    assert best_held(trained_mlp(tiny_points(), forget=False), "universal-input") < 0.1
