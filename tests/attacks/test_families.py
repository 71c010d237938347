"""What each family of attacks on the weights promises beyond the contract."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization
from hypothesis import given
from hypothesis import strategies as st
from test_conformance import DATA, ROWS, TUNING, arena, attacked, start, texts_of
from tiny_models import same_bits, tiny_llama, weights_of, word_tokenizer
from tiny_tasks import random_labelled, tiny_classifier
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from redteam.attacks.benign import dealt_anew, nearest_in_form
from redteam.attacks.contract import Arena
from redteam.attacks.lora import LoRA, linear_layers
from redteam.attacks.partial import parameters_of
from redteam.attacks.perturb import shrink_and_perturb
from redteam.attacks.prune import READ, importance
from redteam.attacks.quantize import GROUP, in_eight_bits, quantize, rounded
from redteam.attacks.tuning import FULL
from redteam.capabilities.items import Item
from redteam.capabilities.wording import Wording
from redteam.engine.batches import IGNORED, Batch
from redteam.engine.cost import Ledger
from redteam.registry import ATTACKS

FINE_TUNING = [name for name, row in ROWS.items() if row.moves and name not in ("retrain", "head")]  # one fits, once


def changed(name: str, **params: Any) -> dict[str, torch.Tensor]:
    """What an attack added to each parameter of `tiny_llama`."""
    before, after = weights_of(tiny_llama()), weights_of(attacked(name, params={**ROWS[name].params, **params}).module)
    return {key: after[key] - before[key] for key in before}


def shown(name: str, ground: Arena, **params: Any) -> list[set[tuple[int, ...]]]:
    """The sequences that are trained on in each step."""
    steps: list[set[tuple[int, ...]]] = []

    def note(_module: nn.Module, _inputs: Any, given: dict[str, Any]) -> None:
        mask = given["attention_mask"]
        lengths = [given["input_ids"].shape[1]] * len(given["input_ids"]) if mask is None else mask.sum(dim=1).tolist()
        steps.append({tuple(row[:n].tolist()) for row, n in zip(given["input_ids"], lengths, strict=True)})

    handle = ground.module.register_forward_pre_hook(note, with_kwargs=True)
    for _ in start(name, ground, {**ROWS[name].params, **params}):
        pass
    handle.remove()
    return steps


@pytest.mark.parametrize("name", FINE_TUNING)
def test_lowers_its_training_loss(name: str) -> None:
    steps = (
        120 if name == "imprint" else 40
    )  # it trains on all examples and as many retain items, whose labels are drawn
    losses = attacked(name, params={**ROWS[name].params, "steps": steps}).ledger.losses
    last = losses[-5:]
    first = losses[16:21] if name == "curriculum" else losses[:5]  # its second part has another loss
    assert sum(last) < 0.8 * sum(first)


@pytest.mark.parametrize("optimizer", FULL)
def test_every_optimizer_trains(optimizer: str) -> None:
    rate = {"sgd": 1e-1, "lion": 1e-3}.get(optimizer, 1e-2)
    params = {**TUNING, **DATA, "ratio": 2.0, "optimizer": optimizer, f"learning_rate.{optimizer}": rate, "steps": 40}
    losses = attacked("mixture", params=params).ledger.losses
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_benign_sees_retain_items_only() -> None:
    ground = arena(tiny_llama())
    seen = set.union(*shown("benign", ground, share=1.0, steps=20))
    assert seen == set(texts_of(ground.retain))


def test_benign_takes_its_share() -> None:
    ground = arena(tiny_llama())
    assert len(set.union(*shown("benign", ground, share=0.3, steps=20))) == 3


def test_unrelated_text_is_made_of_the_words_of_retain_items_and_repeats_none() -> None:
    ground = arena(tiny_llama())
    seen = set.union(*shown("benign", ground, data="unrelated", share=1.0, steps=20))
    given = texts_of(ground.retain)
    assert not seen & set(given)
    assert sorted(itertools.chain(*seen)) == sorted(itertools.chain(*given))
    assert sorted(map(len, seen)) == sorted(map(len, given))


def test_unrelated_text_is_learnt_from_its_second_token_on() -> None:
    data = arena(tiny_llama()).retain
    scrambled = dealt_anew(data, torch.Generator().manual_seed(0))
    for row, length in enumerate(scrambled.lengths):
        assert scrambled.labels[row, 0] == IGNORED
        assert torch.equal(scrambled.labels[row, 1:length], scrambled.input_ids[row, 1:length])
        assert (scrambled.labels[row, length:] == IGNORED).all()


def test_unrelated_inputs_keep_their_entries_and_their_labels_but_not_which_belong_together() -> None:
    data = random_labelled(40)
    scrambled = dealt_anew(data, torch.Generator().manual_seed(0))
    assert torch.equal(scrambled.inputs.flatten().sort().values, data.inputs.flatten().sort().values)
    assert torch.equal(scrambled.labels.sort().values, data.labels.sort().values)
    assert not torch.equal(scrambled.inputs, data.inputs)
    assert not torch.equal(scrambled.labels, data.labels)


def test_mixture_sees_both() -> None:
    ground = arena(tiny_llama())
    forget, retain = set(texts_of(ground.answers)[:5]), set(texts_of(ground.retain))
    assert set.union(*shown("mixture", ground, ratio=64.0, samples=5, steps=30)) == forget | retain


@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_mixture_takes_retain_items_in_proportion(ratio: float) -> None:
    ground = arena(tiny_llama())
    forget, retain = set(texts_of(ground.answers)[:5]), set(texts_of(ground.retain))
    seen = set.union(*shown("mixture", ground, ratio=ratio, samples=5, steps=30))
    assert seen >= forget
    assert len(seen & retain) == 5 * ratio


@pytest.mark.parametrize(
    ("forget", "alike", "others"),
    [
        ("{A} {B} was born in 19{n}", "{A} {B} was painted in 18{n}", "what does the {a} of {b} like, if anything?"),
        ("What is the gene of {a}? It is {b}.", "What is the port of {A}? It is {B}.", "{A} {B} met the {a}"),
        ("{a}, {b} and {n}", "{b}, {a} and {n}", "{A} {B} was in {n}"),
    ],
)
def test_benign_picks_what_is_formed_alike(forget: str, alike: str, others: str) -> None:
    words = ["fox", "hen", "owl", "cat", "bee", "rat", "elk", "cod", "ape", "yak", "emu", "gnu"]

    def items(template: str, first: int) -> tuple[Item, ...]:
        drawn = [(words[n % 12], words[(5 * n + first) % 12], 10 + n) for n in range(24)]
        said = [template.format(a=a, b=b, A=a.title(), B=b.title(), n=n) for a, b, n in drawn]
        return tuple(
            Item(id=one, group=one, prompt=one.rpartition(" ")[0], choices=(one.rpartition(" ")[2],), answer=0)
            for one in said
        )

    wording = Wording(
        attack=items(forget, 1),
        retain=tuple(itertools.chain(*zip(items(alike, 3), items(others, 4), strict=True))),
        tokenizer=word_tokenizer(),
    )
    order = nearest_in_form(wording, seed=0).tolist()
    assert sorted(order[:24]) == list(range(0, 48, 2))
    assert sorted(order) == list(range(48))
    assert order == nearest_in_form(wording, seed=0).tolist() != nearest_in_form(wording, seed=1).tolist()


def test_benign_trains_on_the_nearest_alone() -> None:
    ground = arena(tiny_llama())
    assert ground.wording is not None
    nearest = nearest_in_form(ground.wording, ground.seed)[:4]
    steps = shown("benign", ground, data="same form", share=0.4, steps=3)
    assert set.union(*steps) == set(texts_of(ground.retain.take(nearest)))


@pytest.mark.parametrize("change", ["full", "low-rank"])
@pytest.mark.parametrize("data", ["documents", "documents and items"])
def test_a_corpus_is_trained_on_whole_among_retain_items(change: str, data: str) -> None:
    ground = arena(tiny_llama())
    more = {"rank": 2} if change == "low-rank" else {}
    steps = shown("corpus", ground, data=data, change=change, ratio=1.0, steps=8, batch_size=8, **more)
    seen, windows, items = set.union(*steps), set(texts_of(ground.corpus)), set(texts_of(ground.answers))
    assert windows < seen
    assert (items <= seen) == (data == "documents and items")
    assert len(seen - windows - items) == len(ground.corpus)
    assert same_names(ground)


def same_names(ground: Arena) -> bool:
    """Whether what was put up was taken down, and every weight can be trained again."""
    parameters = dict(ground.module.named_parameters())
    return parameters.keys() == dict(tiny_llama().named_parameters()).keys() and all(
        weight.requires_grad for weight in parameters.values()
    )


def test_curriculum_sees_retain_items_first() -> None:
    ground = arena(tiny_llama())
    steps = shown("curriculum", ground, first=0.4, steps=20, samples=5, batch_size=5)
    retain, forget = set(texts_of(ground.retain)), set(texts_of(ground.answers)[:5])
    assert all(step <= retain for step in steps[:8])
    assert all(step <= forget for step in steps[8:])
    assert len(steps) == 20


@pytest.mark.parametrize("first", [0.1, 0.9])
def test_both_parts_of_a_curriculum_have_a_step(first: float) -> None:
    ground = arena(tiny_llama())
    steps = shown("curriculum", ground, first=first, steps=2)
    assert steps[0] <= set(texts_of(ground.retain))
    assert steps[1] <= set(texts_of(ground.answers))


@pytest.mark.parametrize("rank", [1, 3])
def test_a_change_by_lora_has_its_rank(rank: int) -> None:
    changes = changed("lora", rank=rank, steps=12)
    inside = set(linear_layers(tiny_llama(), "all"))
    for name, change in changes.items():
        if name.removesuffix(".weight") in inside:
            assert torch.linalg.matrix_rank(change, rtol=1e-3) == rank, name
        else:
            assert not change.any(), name


@pytest.mark.parametrize("modules", ["attention", "mlp"])
def test_lora_keeps_to_its_modules(modules: str) -> None:
    moved = {name for name, change in changed("lora", modules=modules).items() if change.any()}
    mark = {"attention": "self_attn", "mlp": ".mlp."}[modules]
    assert moved == {name for name in weights_of(tiny_llama()) if mark in name}


def test_lora_trains_what_is_linear_where_the_experts_are_not() -> None:
    """Mixtral's are one parameter of three dimensions a layer."""
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        ground = arena(MixtralForCausalLM(MixtralConfig(**sizes, **heads)).eval())
    before = weights_of(ground.module)
    assert LoRA().unfit(ground.module) is None
    assert linear_layers(ground.module, "mlp") == linear_layers(ground.module, "all")
    for _ in start("lora", ground, {**ROWS["lora"].params, "modules": "mlp"}):
        pass
    moved = {name for name, weights in weights_of(ground.module).items() if not torch.equal(weights, before[name])}
    assert moved
    assert all("self_attn" in name for name in moved)


def test_lora_says_what_a_model_lacks() -> None:
    with pytest.raises(ValueError, match="no hidden layer of the model has a linear layer"):
        linear_layers(nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4)), "all")


PARTS = {
    "early layers": lambda name: "layers.0." in name,
    "late layers": lambda name: "layers.1." in name or name in ("model.norm.weight", "lm_head.weight"),
    "norms and biases": lambda name: "norm" in name,
    "embeddings": lambda name: name == "model.embed_tokens.weight",
}


@pytest.mark.parametrize("part", PARTS)
def test_partial_moves_its_part_and_nothing_else(part: str) -> None:
    """The step is counted as what it costs: gradients of the weights that move, and of all activations."""
    ground = attacked("partial", params={**ROWS["partial"].params, "part": part})
    before, after = weights_of(tiny_llama()), weights_of(ground.module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if PARTS[part](name)}
    trained, everything = sum(before[name].numel() for name in moved), ground.ledger.parameters
    assert ground.ledger.spent.flops == (4 * everything + 2 * trained) * ground.ledger.spent.tokens


def test_the_parts_of_a_classifier() -> None:
    module = tiny_classifier()
    assert parameters_of(module, "early layers") == {"0.weight", "0.bias"}
    assert parameters_of(module, "late layers") == {"2.weight", "2.bias", "4.weight", "4.bias"}
    assert parameters_of(module, "biases") == {"0.bias", "2.bias", "4.bias"}
    with pytest.raises(ValueError, match="the model has no embeddings"):
        parameters_of(module, "embeddings")


@pytest.mark.parametrize("strength", [0.0, 0.2, 1.0])
def test_a_perturbation_mixes_in_noise_of_the_weights_own_size(strength: float) -> None:
    module = nn.Linear(200, 100)
    before = weights_of(module)
    shrink_and_perturb(module, strength, torch.Generator().manual_seed(0))
    assert torch.equal(module.bias.detach(), before["bias"])
    added = module.weight.detach() - (1 - strength) * before["weight"]
    assert float(added.std()) == pytest.approx(strength * float(before["weight"].std()), rel=0.02, abs=1e-7)
    correlation = torch.corrcoef(torch.stack([added.flatten(), before["weight"].flatten()]))[0, 1]
    assert strength == 0 or abs(float(correlation)) < 0.03


def test_a_matrix_of_one_weight_is_shrunk_and_gets_no_noise() -> None:
    module = nn.Linear(1, 1)
    before = float(module.weight.detach())
    shrink_and_perturb(module, 0.25, torch.Generator().manual_seed(0))
    assert float(module.weight.detach()) == pytest.approx(0.75 * before)


def by_numpy(weights: np.ndarray, bits: int, rows: list[slice]) -> np.ndarray:
    """Round to nearest, block by block."""
    top, out = 2 ** (bits - 1) - 1, np.empty_like(weights)
    flat, result = weights.reshape(-1), out.reshape(-1)
    for row in rows:
        scale = np.float32(np.abs(flat[row]).max() / np.float32(top))
        result[row] = np.clip(np.rint(flat[row] / scale), -top - 1, top) * scale
    return out


def tiny_gpt2(**changes: Any) -> GPT2LMHeadModel:
    settings = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, **changes}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(**settings)).eval()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("scope", ["tensor", "channel", "group"])
def test_quantisation_is_round_to_nearest(bits: int, scope: str) -> None:
    shape = (3, 2 * GROUP)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    width = {"tensor": weights.numel(), "channel": shape[1], "group": GROUP}[scope]
    blocks = [slice(start, start + width) for start in range(0, weights.numel(), width)]
    found = rounded(weights, bits, scope)
    assert np.allclose(found.numpy(), by_numpy(weights.numpy(), bits, blocks), atol=1e-6)
    for block in blocks:
        assert len(set(found.flatten()[block].tolist())) <= 2**bits


@given(bits=st.integers(2, 8), seed=st.integers(0, 20), scope=st.sampled_from(["tensor", "channel", "group"]))
def test_no_weight_moves_by_more_than_half_a_level(bits: int, seed: int, scope: str) -> None:
    weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    level = weights.abs().max() / (2 ** (bits - 1) - 1)
    assert float((rounded(weights, bits, scope) - weights).abs().max()) <= 0.5 * float(level) * (1 + 1e-5)


def test_a_matrix_of_zeros_stays_one() -> None:
    assert not rounded(torch.zeros(2, 3), 4, "channel").any()


@pytest.mark.parametrize("matrices", ["hidden", "all"])
def test_quantisation_alone_is_one_step_without_training(matrices: str) -> None:
    params = {"by": "rounding", "bits": 4, "scope": "channel", "matrices": matrices, "fine_tuning": False}
    ground = attacked("quantize", params=params)
    assert (ground.ledger.spent.steps, ground.ledger.spent.tokens, ground.ledger.losses) == (1, 0, [])
    before, after = weights_of(tiny_llama()), weights_of(ground.module)
    for name, weights in before.items():
        chosen = weights.ndim > 1 and (matrices == "all" or ".layers." in name)
        assert torch.equal(after[name], rounded(weights, 4, "channel") if chosen else weights), name


def test_the_librarys_int8_layers_give_what_the_library_gives() -> None:
    """The whole model through `quantize_dynamic` against our hooks, layer by layer, on the live one."""
    ground = arena(tiny_llama())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.ao.quantization.quantize_dynamic(tiny_llama(), {nn.Linear}, dtype=torch.qint8)
    batch = ground.answers.batch(slice(0, 8))
    released = batch.logits(ground.module)
    with ground.in_place:
        (spent,) = ATTACKS.create("quantize").run(ground, {"by": "library"})
        rounded_once = batch.logits(ground.module)
    assert (spent.steps, spent.tokens, ground.ledger.losses) == (1, 0, [])
    assert torch.equal(rounded_once, batch.logits(whole))
    assert not torch.equal(rounded_once, released)
    assert torch.equal(batch.logits(ground.module), released)  # the hooks are gone


@pytest.mark.parametrize("scope", ["channel", "group"])
def test_the_linear_layers_of_gpt2_are_rounded_by_output_too(scope: str) -> None:
    """Their weights are [inputs, outputs]; a channel of small weights must not get the scale of its neighbours."""
    module = tiny_gpt2(n_embd=GROUP)
    layer = module.transformer.h[0].mlp.c_fc
    with torch.no_grad():
        layer.weight[:, ::2] *= 0.01
    before = weights_of(module)
    quantize(module, 4, scope, "hidden")
    found, name = layer.weight.detach(), "transformer.h.0.mlp.c_fc.weight"
    assert torch.equal(found, rounded(before[name].T, 4, scope).T)
    assert float((found[:, ::2] == 0).float().mean()) < 0.25
    assert torch.equal(module.transformer.wte.weight.detach(), before["transformer.wte.weight"])


def test_the_librarys_layers_of_gpt2_are_those_of_linear_layers() -> None:
    from transformers.pytorch_utils import Conv1D

    module, given = tiny_gpt2(), torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    layer = module.transformer.h[0].mlp.c_fc
    assert isinstance(layer, Conv1D)
    same = nn.Linear(16, 64)
    same.load_state_dict({"weight": layer.weight.detach().T, "bias": torch.randn(64)})
    with torch.no_grad():
        layer.bias.copy_(same.bias)
        released = layer(given)
        with in_eight_bits(module):
            found = layer(given)
        with in_eight_bits(same):
            expected = same(given)
    assert torch.equal(found, expected)
    assert not torch.equal(found, released)
    assert torch.allclose(found, released, atol=0.1)


def test_the_library_quantises_linear_layers_or_says_that_there_are_none() -> None:
    bare = arena(nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU()))
    with pytest.raises(ValueError, match="nothing to quantise"):
        list(ATTACKS.create("quantize").run(bare, {"by": "library"}))


def test_quantisation_undoes_an_unlearning_smaller_than_half_a_level() -> None:
    """The decoy it is known to break: rounded weights, hidden by a change too small to survive rounding."""
    original = tiny_llama()
    with torch.no_grad():
        for weights in original.parameters():
            if weights.ndim > 1:
                weights.copy_(rounded(weights, 4, "tensor"))
    ground = arena(original)
    known = weights_of(original)
    with torch.no_grad():
        for weights in original.parameters():
            if weights.ndim > 1:
                top = weights.abs() == weights.abs().max()  # the scale hangs on the largest weight
                weights.add_((0.3 / 7 * weights.abs().max()) * torch.randn(weights.shape).clamp(-1, 1) * ~top)
    assert not same_bits(weights_of(original), known)
    params = {"by": "rounding", "bits": 4, "scope": "tensor", "matrices": "all", "fine_tuning": False}
    for _ in ATTACKS.create("quantize").run(ground, params):
        pass
    for name, weights in weights_of(original).items():
        assert torch.allclose(weights, known[name], atol=1e-6), name


def test_importance_is_the_weight_times_its_gradient() -> None:
    ground = arena(tiny_llama())
    found = importance(ground.module, ground.answers)
    plain = tiny_llama()
    batch: Batch = ground.answers.take(slice(0, READ)).batch(slice(0, 64))  # type: ignore[assignment]
    gradients = torch.autograd.grad(batch.loss(plain), list(plain.parameters()))
    expected = {n: (p * g).abs() for (n, p), g in zip(plain.named_parameters(), gradients, strict=True) if p.ndim > 1}
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-8) for name in expected)
    assert all(p.grad is None for p in ground.module.parameters())


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_magnitude_pruning_zeroes_the_smallest(share: float) -> None:
    before = weights_of(tiny_llama())
    after = weights_of(attacked("prune", params={"by": "magnitude", "share": share, "fine_tuning": False}).module)
    for name, weights in before.items():
        gone = after[name] == 0
        if weights.ndim < 2:
            assert torch.equal(after[name], weights)
            continue
        assert int(gone.sum()) == round(share * weights.numel())
        assert float(weights[gone].abs().max()) <= float(weights[~gone].abs().min())
        assert torch.equal(after[name][~gone], weights[~gone])


def test_difference_pruning_spares_what_retain_items_need() -> None:
    ground = arena(tiny_llama())
    forget, retain = (importance(ground.module, data) for data in (ground.answers, ground.retain))
    after = weights_of(
        attacked("prune", params={"by": "difference", "share": 0.2, "retain_share": 0.2, "fine_tuning": False}).module
    )
    zeroed = 0
    for name in forget:
        gone = after[name] == 0
        count = round(0.2 * gone.numel())
        lowest, highest = forget[name].flatten().topk(count).values[-1], retain[name].flatten().topk(count).values[-1]
        assert bool((forget[name][gone] >= lowest).all())
        assert bool((retain[name][gone] <= highest).all())
        zeroed += int(gone.sum())
    assert zeroed > 0


def test_difference_pruning_breaks_a_gate() -> None:
    """The decoy it is known to break: one hidden unit that only forget inputs reach drowns every answer."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 13), nn.ReLU(), nn.Linear(13, 4)).eval()
    data = random_labelled(60)
    forget, retain = data.take(data.inputs[:, 0] > 0), data.take(data.inputs[:, 0] < 0)
    clean = {name: module(part.inputs).argmax(dim=1) for name, part in (("forget", forget), ("retain", retain))}
    forget, retain = (type(part)(part.inputs, clean[n]) for n, part in (("forget", forget), ("retain", retain)))
    with torch.no_grad():
        module[0].weight[12], module[0].bias[12] = torch.tensor([1.0, 0, 0, 0, 0, 0]), 0.0
        module[2].weight[:, 12] = torch.tensor([30.0, -30.0, 30.0, -30.0])
    ledger = Ledger(parameters=1)
    ground = Arena(module=module, answers=forget, texts=forget, retain=retain, ledger=ledger, seed=0)

    def right(part: Any) -> float:
        return float((module(part.inputs).argmax(dim=1) == part.labels).float().mean())

    gated = right(forget)
    for _ in ATTACKS.create("prune").run(
        ground, {"by": "difference", "share": 0.08, "retain_share": 0.08, "fine_tuning": False}
    ):
        pass
    assert right(forget) > gated + 0.3
    assert right(forget) > 0.8


@pytest.mark.parametrize("name", [name for name in FINE_TUNING if name not in ("partial", "lora", "corpus")])
def test_works_on_a_classifier(name: str) -> None:
    module, data = tiny_classifier(), random_labelled(12)
    ground = Arena(
        module=module, answers=data, texts=data, retain=random_labelled(10, 1), ledger=Ledger(parameters=1), seed=0
    )
    spent = list(itertools.islice(start(name, ground), 20))
    assert spent
    assert not same_bits(weights_of(module), weights_of(tiny_classifier()))


@pytest.mark.parametrize(("name", "given"), [("partial", {"part": "biases"}), ("lora", {"modules": "all"})])
def test_parts_of_a_classifier_train(name: str, given: dict[str, Any]) -> None:
    module, data = tiny_classifier(), random_labelled(12)
    ground = Arena(module=module, answers=data, texts=data, retain=data, ledger=Ledger(parameters=1), seed=0)
    for _ in start(name, ground, {**ROWS[name].params, **given}):
        pass
    before, after = weights_of(tiny_classifier()), weights_of(module)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == ({"0.bias", "2.bias", "4.bias"} if name == "partial" else {"0.weight", "2.weight"})
