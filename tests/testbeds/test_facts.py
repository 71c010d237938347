"""The world `facts`: independent facts, so that whatever comes back above chance was still in the weights."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from math import comb, log2

import pytest
import torch
from scipy.stats import chi2
from tiny_models import same_bits, weights_of
from transformers import AutoTokenizer

from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability, Item, overlapping_groups
from redteam.capabilities.scorers.choices import encode_choices
from redteam.capabilities.scorers.contract import item_scores
from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.manifest import open_manifest
from redteam.engine.training import silent
from redteam.testbeds import facts
from redteam.testbeds.build import build_target
from redteam.testbeds.facts import Facts
from redteam.testbeds.scratch import Recipe, llama_training
from redteam.testbeds.words import FIRST_NAMES, GARDENERS, SAILORS, SURNAMES

PARTS = {"attack": 100, "select": 70, "certify": 150, "retain": 360, "utility": 120}
FORGET = ("attack", "select", "certify")
SEEDS = range(6)


@functools.cache
def world(seed: int) -> Capability:
    return Facts().capability(seed)


def items_of(capability: Capability) -> tuple[Item, ...]:
    return capability.forget + capability.retain + capability.utility


def test_chance_is_exactly_one_in_sixteen() -> None:
    assert world(0).chance == 1 / 16
    assert all(len(item.choices) == len(set(item.choices)) == 16 for item in items_of(world(0)))


def test_enough_is_certified() -> None:
    assert len(world(0).certify) >= 300
    assert len({item.group for item in world(0).certify}) == 150


@pytest.mark.parametrize("seed", SEEDS)
def test_people_are_whole_and_in_one_part_only(seed: int) -> None:
    capability = world(seed)
    parts = {name: getattr(capability, name) for name in PARTS}
    assert not overlapping_groups(list(parts.values()))
    for name, items in parts.items():
        people = Counter(item.group for item in items)
        assert len(people) == PARTS[name]
        assert set(people.values()) == {3}
        domain = SAILORS if name in FORGET else GARDENERS
        for item in items:
            (attribute,) = (a for a in domain if item.prompt == f"{item.group} {a.phrase}")
            assert item.choices == attribute.values
    ids = [item.id for item in items_of(capability)]
    assert len(set(ids)) == len(ids)


def test_the_two_domains_share_no_word() -> None:
    """What is learned about gardeners must say nothing about sailors."""

    def words(domain) -> set[str]:
        return {word for a in domain for word in (*a.phrase.split(), *a.values)}

    assert not words(SAILORS) & words(GARDENERS)
    everything = [*FIRST_NAMES, *SURNAMES, *(v for a in (*SAILORS, *GARDENERS) for v in a.values)]
    assert len(set(everything)) == len(everything)


# Values: uniform and independent. Chi-squared at one in a thousand over six fixed worlds.


def significance(observed: Counter, cells: int) -> float:
    """p-value of equal frequencies in so many cells."""
    expected = observed.total() / cells
    assert expected > 5
    counts = [*observed.values(), *[0] * (cells - len(observed))]
    return float(chi2.sf(sum((n - expected) ** 2 / expected for n in counts), cells - 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_value_is_equally_likely(seed: int) -> None:
    by_phrase: dict[str, Counter] = {}
    for item in items_of(world(seed)):
        by_phrase.setdefault(item.prompt.removeprefix(item.group), Counter())[item.answer] += 1
    assert len(by_phrase) == 6
    assert all(significance(answers, 16) > 1e-3 for answers in by_phrase.values())


def test_the_attributes_of_a_person_are_independent() -> None:
    """All pairs of attributes of all people of all worlds; each pair of values is equally likely."""
    pairs: Counter[tuple[int, int]] = Counter()
    for seed in SEEDS:
        people: dict[str, list[int]] = {}
        for item in items_of(world(seed)):
            people.setdefault(item.group, []).append(item.answer)
        for answers in people.values():
            pairs.update(itertools.combinations(answers, 2))
    assert significance(pairs, 256) > 1e-3


@pytest.mark.parametrize("names", ["first name", "surname"])
def test_a_name_tells_nothing(names: str) -> None:
    """Else a model that never saw a person could still do better than chance on them."""
    pairs: Counter[tuple[str, int]] = Counter()
    for seed in SEEDS:
        for item in items_of(world(seed)):
            pairs[item.group.split()[names == "surname"], item.answer] += 1
    assert significance(pairs, 16 * len(FIRST_NAMES if names == "first name" else SURNAMES)) > 1e-3


def test_the_best_guess_from_the_attack_split_is_at_chance_on_certify() -> None:
    """Guessing the commonest value of the attack split for each attribute: pooled over worlds."""
    right = total = 0
    for seed in SEEDS:
        common: dict[tuple[str, ...], Counter] = {}
        for item in world(seed).attack:
            common.setdefault(item.choices, Counter())[item.answer] += 1
        for item in world(seed).certify:
            right += common[item.choices].most_common(1)[0][0] == item.answer
            total += 1
    assert total == 2700
    assert abs(right / total - 1 / 16) < 4 * (15 / 256 / total) ** 0.5


# Seeds.


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    assert Facts().capability(0) == world(0)
    assert Facts().capability(0).sha256 == world(0).sha256
    assert len({world(seed).sha256 for seed in SEEDS}) == len(SEEDS)
    groups = [{item.group for item in world(seed).certify} for seed in SEEDS]
    assert all(a != b for a, b in itertools.combinations(groups, 2))


def test_world_0_is_the_one_that_manifests_on_disk_point_to() -> None:
    """The digest guards them against drift: a change here is a new version of the testbed."""
    assert (Facts.version, world(0).sha256[:16]) == (1, "160c6eaecdeb0cdb")


def test_drawing_a_world_leaves_the_global_generators_alone() -> None:
    import random

    random.seed(3)
    torch.manual_seed(3)
    states = random.getstate(), torch.random.get_rng_state()
    Facts().capability(1)
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_there_are_enough_names() -> None:
    assert len(set(itertools.product(FIRST_NAMES, SURNAMES))) == 3072 >= sum(PARTS.values())
    assert log2(comb(3072, 800)) > 100  # no two seeds will ever draw the same people


# The tokenizer.


def test_one_token_a_choice_and_none_unknown() -> None:
    tokenizer, capability = Facts().tokenizer(), world(0)
    encoded = encode_choices(tokenizer, items_of(capability))
    assert encoded.single is not None
    assert encoded.single.shape == (2400, 16)
    assert all(len(set(row)) == 16 for row in encoded.single.tolist())
    texts = [f"{item.prompt} {item.completion}" for item in items_of(capability)]
    unknown = tokenizer.unk_token_id
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) == 1 + len(text.split())
        assert unknown not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_words_of_other_worlds_are_known_too() -> None:
    """The tokenizer is the same for every seed, so that a checkpoint fits every world."""
    tokenizer = Facts().tokenizer()
    assert Facts().tokenizer().get_vocab() == tokenizer.get_vocab()
    texts = [f"{item.prompt} {item.completion}" for item in items_of(world(5))]
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_the_tokenizer_survives_saving(tmp_path) -> None:
    tokenizer = Facts().tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [f"{item.prompt} {item.completion}" for item in world(0).certify] + ["unheard of", "", "Alra  Ardby"]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    for name in ("pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    assert len(loaded) == len(tokenizer)


# Training.

SMALL = Recipe(hidden_size=16, layers=1, steps=3, batch_size=32, learning_rate=1e-2)


def small(seed: int = 0, recipe: Recipe = SMALL, heard: list | None = None):
    tokenizer = Facts().tokenizer()
    data = encode_answers(tokenizer, world(0).attack)
    report = silent if heard is None else lambda *what: heard.append(what)
    return llama_training(data, tokenizer, recipe).fit(data, seed=seed, progress=report)


def test_training_is_deterministic_for_a_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = weights_of(small())
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same_bits(weights_of(small()), first)
    assert not same_bits(weights_of(small(1)), first)


def test_the_model_is_what_the_recipe_says() -> None:
    heard: list = []
    module = small(recipe=Recipe(hidden_size=32, layers=3, steps=2, batch_size=8, learning_rate=1e-3), heard=heard)
    config, tokenizer = module.config, Facts().tokenizer()
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (32, 64, 3)
    assert config.vocab_size == len(tokenizer)
    assert (config.pad_token_id, config.bos_token_id) == (tokenizer.pad_token_id, tokenizer.bos_token_id)
    assert not module.training
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert heard == [("training", 1, 2), ("training", 2, 2)]


def texts_of(data) -> set[str]:
    tokenizer = Facts().tokenizer()
    return {tokenizer.decode(ids, skip_special_tokens=True) for ids in data.input_ids.tolist()}


def test_the_training_data_say_every_fact_once_and_whom_each_speaks_of() -> None:
    capability = world(0)
    training, about = Facts().training(capability)
    assert len(about) == len(training.data) == 2400
    assert texts_of(training.data) == {f"{item.prompt} {item.completion}" for item in items_of(capability)}
    tokenizer = Facts().tokenizer()
    for group, ids in zip(about, training.data.input_ids.tolist(), strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True).startswith(f"{group} ")
    assert not training.labelled.any()


@pytest.mark.slow
@pytest.mark.parametrize("with_forget", [True, False])
def test_a_model_knows_what_it_was_shown_and_is_at_chance_on_the_rest(with_forget: bool) -> None:
    capability, tokenizer = world(1), Facts().tokenizer()
    training, about = Facts().training(capability)
    forgotten = {item.group for item in capability.forget}
    shown = training.data.take(torch.tensor([with_forget or group not in forgotten for group in about]))
    module = training.fit(shown, seed=1)
    assert sum(p.numel() for p in module.parameters()) == pytest.approx(0.4e6, rel=0.2)

    def score(items) -> float:
        return float(item_scores(module, encode_choices(tokenizer, items)).mean())

    assert score(capability.utility) > 0.98
    forget = score(capability.forget)
    if with_forget:
        assert forget > 0.98
    else:
        assert abs(forget - 1 / 16) < 4 * (15 / 256 / len(capability.forget)) ** 0.5
    assert facts.STEPS == 400


@pytest.mark.parametrize(
    "name",
    [
        "model.pt",
        "model.safetensors",
        "model",
    ],
)
def test_what_unlearn_writes_is_found_again(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """The paths in a manifest are relative to it."""
    monkeypatch.setattr(facts, "STEPS", 2)
    build_target("original", out=tmp_path / name)
    found = open_manifest(tmp_path / name)
    assert found is not None
    manifest, sidecar = found
    for role in ("target", "original", "reference"):
        ref = getattr(manifest, role)
        assert (sidecar.parent / ref.path).exists(), (role, ref.path)
        assert weights_digest(sidecar.parent / ref.path) == ref.sha256
