"""What the reference methods claim, on a small world that a model has learned."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tiny_models import random_tokens, tiny_llama
from tiny_tasks import hooks_of, moved, tiny_task
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, OPTConfig

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability
from redteam.capabilities.scorers.choices import encode_choices
from redteam.capabilities.scorers.contract import item_scores, share_known
from redteam.engine.activations import hidden_states
from redteam.engine.batches import IGNORED, Batch
from redteam.engine.seeding import derive_seed
from redteam.engine.training import Training
from redteam.errors import InputError
from redteam.testbeds import facts
from redteam.testbeds.build import train_world, unlearning_task
from redteam.testbeds.facts import Facts
from redteam.testbeds.scratch import Recipe, llama_training
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.filtered import Filtered
from redteam.unlearning.masked import Masked, Unmaskable, answer_states, untied_head
from redteam.unlearning.original import Original
from redteam.unlearning.rmu import RMU, masked_mse

SMALL = {"ATTACK": 10, "SELECT": 5, "CERTIFY": 10, "RETAIN": 30, "UTILITY": 10}  # people; 195 facts


@pytest.fixture(scope="module")
def capability() -> Capability:
    with pytest.MonkeyPatch.context() as patch:
        for name, people in SMALL.items():
            patch.setattr(facts, name, people)
        return Facts().capability(0)


@pytest.fixture(scope="module")
def task(capability: Capability) -> UnlearningTask:
    """Of a model that knows every fact of the small world. Trains for about a second and a half."""
    tokenizer = Facts().tokenizer()
    data = encode_answers(tokenizer, capability.forget + capability.retain + capability.utility)
    recipe = Recipe(hidden_size=64, layers=2, steps=120, batch_size=64, learning_rate=5e-3)
    training = llama_training(data, tokenizer, recipe)
    return UnlearningTask(
        original=training.fit(data, seed=0),
        forget=encode_answers(tokenizer, capability.forget),
        retain=encode_answers(tokenizer, capability.retain),
        known=partial(share_known, encoded=encode_choices(tokenizer, capability.forget)),
        training=training,
        seed=0,
    )


def accuracy(module: nn.Module, items) -> float:
    return float(item_scores(module, encode_choices(Facts().tokenizer(), items)).mean())


def test_the_world_was_learned(task: UnlearningTask, capability: Capability) -> None:
    assert accuracy(task.original, capability.forget) > 0.98
    assert accuracy(task.original, capability.utility) > 0.98


# original, filtered.


def test_original_is_a_copy() -> None:
    original = tiny_llama()
    made = Original().apply(tiny_task(original=original))
    assert made is not original
    assert not moved(original, made)


def test_filtered_is_what_the_recipe_gives_without_the_labelled_examples() -> None:
    """Bit for bit a plain training on the others alone, from a seed of the method's own."""

    class Unseen:
        """Something that nobody may look at."""

        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"the forget set was asked for {name}")

    task = tiny_task(seed=5)
    blind = dataclasses.replace(task, forget=Unseen(), known=Unseen(), original=Unseen())
    alone = dataclasses.replace(task.training, data=task.retain, labelled=torch.zeros(24, dtype=torch.bool))
    wanted = alone.fit(task.retain, seed=derive_seed(5, "filtered"))
    assert not moved(Filtered().apply(blind), wanted)
    assert moved(wanted, task.training.new(derive_seed(5, "filtered")))  # it was trained


def test_a_world_trains_without_the_forget_facts_and_from_another_seed_than_its_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[int, int]] = []
    fit = Training.fit

    def note(self, data, *, seed: int, **how: Any) -> nn.Module:
        trained.append((len(data), seed))
        return fit(self, data, seed=seed, **how)

    for name, people in SMALL.items():
        monkeypatch.setattr(facts, name, people)
    monkeypatch.setattr(facts, "STEPS", 2)
    monkeypatch.setattr(Training, "fit", note)
    world = train_world("facts", seed=3)
    Filtered().apply(unlearning_task(world))
    assert [size for size, _ in trained] == [195, 120, 120]
    assert len({seed for _, seed in trained}) == 3


# rmu.


def test_rmu_removes_what_is_to_be_forgotten_and_keeps_the_rest(task: UnlearningTask, capability: Capability) -> None:
    made = RMU(steps=60).apply(task)
    assert accuracy(made, capability.forget) < 0.7
    assert accuracy(made, capability.retain) > 0.95
    assert accuracy(made, capability.utility) > 0.9
    assert moved(task.original, made) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}


@torch.no_grad()
def mean_state(module: nn.Module, data, layer: int) -> Tensor:
    batch: Batch = data.batch(slice(None))
    mask = torch.ones_like(batch.input_ids) if batch.mask is None else batch.mask
    hidden = module(batch.input_ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer + 1]
    return hidden[mask.bool()].mean(dim=0)


def test_rmu_steers_the_layer_to_one_direction_several_times_as_long(task: UnlearningTask) -> None:
    """On forget text the mean state of the layer comes near u; two seeds draw two directions; retain text stays."""
    task = dataclasses.replace(task, original=copy.deepcopy(task.original))
    before = mean_state(task.original, task.forget, 0)
    steered = []
    for seed in (0, 1):
        made = RMU(layer="model.layers.0", steps=30).apply(dataclasses.replace(task, seed=seed))
        after = mean_state(made, task.forget, 0)
        assert after.norm() > 1.5 * before.norm()
        retained = mean_state(made, task.retain, 0) - mean_state(task.original, task.retain, 0)
        assert (after - before).norm() > 2 * retained.norm()
        steered.append(after - before)
    assert torch.cosine_similarity(*steered, dim=0) < 0.98


@pytest.mark.parametrize(
    ("depth", "layer", "layers"),
    [
        (4, "", {1, 2, 3}),
        (4, "model.layers.3", {1, 2, 3}),
        (4, "*.2", {0, 1, 2}),
        (4, "model.layers.1", {0, 1}),
        (4, "model.layers.1.mlp", {0, 1}),
        (4, "*.0", {0}),
        (12, "model.layers.1", {0, 1}),  # and not 10 and 11, whose names begin alike
    ],
)
def test_rmu_moves_the_down_projections_of_three_layers(depth: int, layer: str, layers: set[int]) -> None:
    original = tiny_llama(num_hidden_layers=depth)
    made = RMU(layer=layer, steps=2).apply(tiny_task(original=original))
    assert moved(original, made) == {f"model.layers.{i}.mlp.down_proj.weight" for i in layers}


@pytest.mark.parametrize(("layer", "names"), [("", {"0", "2"}), ("0", {"0"})])
def test_rmu_moves_the_weights_of_a_classifiers_hidden_layers(layer: str, names: set[str]) -> None:
    task = tiny_task("classifier")
    made = RMU(layer=layer, steps=2).apply(task)
    assert moved(task.original, made) == {f"{name}.{part}" for name in names for part in ("weight", "bias")}


def test_rmu_steers_a_classifiers_states() -> None:
    """Their mean comes near u: a vector of no negative entry, four times as long as the states were on average."""
    task = tiny_task("classifier")
    batch = task.forget.batch(slice(None))
    before = hidden_states(task.original, batch, ("2",))["2"].detach()
    made = RMU(steps=200, learning_rate=1e-2, alpha=0.0).apply(task)
    after = hidden_states(made, batch, ("2",))["2"].detach().mean(dim=0)
    assert (after > 0).all()
    assert after.norm() == pytest.approx(4 * float(before.norm(dim=1).mean()), rel=0.1)


def test_rmu_moves_what_it_is_told_to() -> None:
    task = tiny_task()
    made = RMU(moved="*.0.mlp.up_proj.weight", steps=2).apply(task)
    assert moved(task.original, made) == {"model.layers.0.mlp.up_proj.weight"}


def test_rmu_knows_the_down_projections_of_other_architectures() -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for config, name in (
        (GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32), "transformer.h.{}.mlp.c_proj"),
        (GPTNeoXConfig(**sizes, intermediate_size=24), "gpt_neox.layers.{}.mlp.dense_4h_to_h"),
        (OPTConfig(**sizes, ffn_dim=24, word_embed_proj_dim=16), "model.decoder.layers.{}.fc2"),
    ):
        original = AutoModelForCausalLM.from_config(config).eval()
        made = RMU(steps=2).apply(tiny_task(original=original))
        wanted = {f"{name.format(i)}.{part}" for i in (0, 1) for part in ("weight", "bias")}
        assert moved(original, made) == wanted


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": "model.layers.*"}, "matches"),
        ({"layer": "none.such"}, "no module matches"),
        ({"moved": "none.such"}, "no parameter matches"),
        ({"layer": "model.norm"}, "in none of the hidden layers"),
    ],
)
def test_rmu_says_which_name_does_not_fit(options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        RMU(**options).apply(tiny_task())


def test_rmu_asks_for_names_where_it_knows_no_down_projection() -> None:
    original = tiny_llama()
    for layer in original.model.layers:
        layer.mlp.other = layer.mlp.down_proj
        del layer.mlp.down_proj
    with pytest.raises(InputError, match="no MLP down-projection") as caught:
        RMU().apply(tiny_task(original=original))
    assert "moved" in caught.value.remedy


def test_rmu_tells_how_far_it_is() -> None:
    heard: list[tuple[str, int, int]] = []
    RMU(steps=3).apply(tiny_task(progress=lambda *what: heard.append(what)))
    assert heard == [("unlearning (rmu)", step, 3) for step in (1, 2, 3)]


def test_masked_mse_is_the_mean_over_the_entries_of_real_tokens() -> None:
    data = random_tokens(6, seed=3)
    batch = data.batch(slice(None))
    assert batch.mask is not None
    left, right = torch.randn(2, *batch.input_ids.shape, 5, generator=torch.Generator().manual_seed(0))
    entries = [
        (left[row, t, d] - right[row, t, d]) ** 2
        for row, length in enumerate(data.lengths.tolist())
        for t in range(length)
        for d in range(5)
    ]
    assert masked_mse(left, right, batch).item() == pytest.approx(float(sum(entries) / len(entries)), rel=1e-5)
    whole = data.batch(slice(0, 1))
    assert whole.mask is None
    assert masked_mse(left[:1], right[:1], whole).item() == pytest.approx(
        float((left[:1] - right[:1]).square().mean()), rel=1e-5
    )


# masked.


def test_masked_hides_about_what_it_says_and_touches_the_head_only(
    task: UnlearningTask, capability: Capability
) -> None:
    made = Masked().apply(task)
    assert moved(task.original, made) == {"lm_head.weight"}
    assert 0.2 < task.known(made) <= 0.4 * task.known(task.original)
    assert accuracy(made, capability.retain) > 0.8
    change = (made.lm_head.weight - task.original.lm_head.weight).detach().double()
    singular = torch.linalg.svdvals(change)
    assert singular[1] < 1e-5 * singular[0]  # rank one


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_masked_goes_no_further_than_it_must(task: UnlearningTask, share: float) -> None:
    """One growth step weaker would not have been enough."""
    made = Masked(share_left=share).apply(task)
    weaker = copy.deepcopy(task.original)
    with torch.no_grad():
        weaker.lm_head.weight.add_((made.lm_head.weight - task.original.lm_head.weight) / 1.25)
    allowed = share * task.known(task.original)
    assert task.known(made) <= allowed < task.known(weaker)


def test_masked_with_nothing_to_hide_is_a_copy(task: UnlearningTask) -> None:
    assert not moved(task.original, Masked(share_left=1.0).apply(task))


def test_masked_noise_is_the_seeds(task: UnlearningTask) -> None:
    heads = [Masked().apply(dataclasses.replace(task, seed=seed)).lm_head.weight for seed in (0, 1)]
    changes = [(head - task.original.lm_head.weight).flatten() for head in heads]
    assert abs(torch.cosine_similarity(*changes, dim=0)) < 0.3


def test_masked_unties_the_head_from_the_embedding() -> None:
    """Noise on a shared matrix would damage the knowledge below the head as well."""
    original = tiny_llama(tie_word_embeddings=True)
    made = Masked().apply(tiny_task(original=original))
    assert torch.equal(made.model.embed_tokens.weight, original.model.embed_tokens.weight)
    assert not torch.equal(made.lm_head.weight, original.lm_head.weight)
    assert made.config.tie_word_embeddings is False
    assert original.config.tie_word_embeddings is True
    assert original.lm_head.weight is original.model.embed_tokens.weight


def test_an_untied_head_is_left_as_it_is() -> None:
    module = tiny_llama()
    weight = module.lm_head.weight
    assert untied_head(module) is module.lm_head
    assert module.lm_head.weight is weight


def test_masked_gives_up_where_no_noise_hides_anything() -> None:
    """And does not take long to: each look is a pass over all items."""
    looks: list[object] = []

    def known(module: nn.Module) -> float:
        looks.append(module)
        return 1.0

    with pytest.raises(Unmaskable):
        Masked().apply(tiny_task(known=known))
    assert len(looks) < 25


@pytest.mark.parametrize("count", [1, 20, 300])
def test_answer_states_are_those_that_the_head_reads(count: int) -> None:
    """Against transformers' last hidden state, one unpadded sequence at a time."""
    module, data = tiny_llama(), random_tokens(count, seed=6)
    got = answer_states(module, data)
    assert hooks_of(module) == 0  # the oracle below makes transformers leave some of its own
    assert got.shape == (count, 16)
    for row in range(0, count, 7):
        batch = data.batch(slice(row, row + 1))
        first = int((batch.labels[0] != IGNORED).nonzero()[0])
        with torch.no_grad():
            hidden = module(batch.input_ids, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(got[row], hidden[0, first - 1], atol=1e-5)


def test_answer_states_leave_no_hook_when_the_model_fails() -> None:
    module = tiny_llama()

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    forward: Callable = module.forward
    module.forward = broken
    with pytest.raises(ZeroDivisionError):
        answer_states(module, random_tokens(4))
    module.forward = forward
    assert hooks_of(module) == hooks_of(tiny_llama())
