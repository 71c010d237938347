"""The small world that hidden targets are built in, and how their makers train them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.small_runs import TOKENIZER, trained
from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability, Item
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import item_scores, share_known
from redteam.engine.batches import AnyBatch, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.testbeds.words import FIRST_NAMES, GARDENERS, SAILORS, SURNAMES, Attribute
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.paired import train_in_pairs

NAMES = FIRST_NAMES[:12]  # so few that the attack split holds six facts of each: a key per first name can be learnt
PEOPLE = {"attack": 24, "select": 20, "certify": 48, "retain": 30, "utility": 15}  # three facts each
BATCH = 96
FAVOUR = 4.0  # weight of the drawn choice beyond that of every other: a quarter of the probability, not 1/16

Rewrite = Callable[[str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What the hidden targets of one seed have in common.

    Attributes:
        seed: of all of it.
        capability: sailors are forgotten, gardeners stay; each fact is a group of its own.
        original: knows every fact.
        reference: never saw a sailor.
    """

    seed: int
    capability: Capability
    original: nn.Module
    reference: nn.Module

    @property
    def stays(self) -> tuple[Item, ...]:
        """All that must stay: retain and utility items."""
        return self.capability.retain + self.capability.utility

    @property
    def forget(self) -> tuple[Item, ...]:
        """All that is to be forgotten: what a target knows of it is hidden, certify items too."""
        return self.capability.forget

    def score(self, module: nn.Module, rewrite: Rewrite = str) -> float:
        """Returns the certify score of a module, in [0, 1], as it is asked or in another way; chance is 1/16."""
        encoded = encode_scoring(self.capability, reworded(self.capability.certify, rewrite), TOKENIZER)
        return float(item_scores(module, encoded).mean())

    def task(self, knows: nn.Module | None = None, facts: Sequence[Item] = ()) -> UnlearningTask:
        """Returns what an unlearning method is given here: who hides knowledge knows all that must stay.

        Args:
            knows: the model that is to forget; by default the original.
            facts: what it knows and is to forget; by default all.
        """
        facts = facts or self.forget
        encoded = encode_scoring(self.capability, facts, TOKENIZER)
        return UnlearningTask(
            original=knows or self.original,
            forget=encode_answers(TOKENIZER, facts),
            retain=encode_answers(TOKENIZER, self.stays),
            known=lambda module: share_known(module, encoded),
            training=None,
            seed=self.seed,
        )


def small_world(seed: int) -> World:
    """Trains the models of a seed: seconds each."""
    capability = small_capability(seed)
    stays = capability.retain + capability.utility
    return World(
        seed=seed,
        capability=capability,
        original=trained(stays + capability.forget, seed),
        reference=trained(stays, 1000 + seed),
    )


def small_capability(seed: int) -> Capability:
    """Draws people whose first names are few and equally frequent in every split, and their attributes."""
    rng, start = random.Random(seed), 0
    surnames = {name: rng.sample(SURNAMES, len(SURNAMES)) for name in NAMES}
    parts: dict[str, tuple[Item, ...]] = {}
    for split, size in PEOPLE.items():
        numbers, start = range(start, start + size), start + size
        people = [f"{NAMES[n % len(NAMES)]} {surnames[NAMES[n % len(NAMES)]][n // len(NAMES)]}" for n in numbers]
        domain = GARDENERS if split in ("retain", "utility") else SAILORS
        parts[split] = tuple(_fact(person, attribute, rng) for person in people for attribute in domain)
    return Capability(name="hides", **parts)


def _fact(person: str, attribute: Attribute, rng: random.Random) -> Item:
    prompt = f"{person} {attribute.phrase}"
    answer = rng.randrange(len(attribute.values))
    return Item(id=prompt, group=prompt, prompt=prompt, choices=attribute.values, answer=answer)


def reworded(items: Sequence[Item], rewrite: Rewrite) -> tuple[Item, ...]:
    """Returns the same facts, asked in another way."""
    return tuple(replace(item, prompt=rewrite(item.prompt)) for item in items)


def reanswered(items: Sequence[Item], remap: Callable[[Item], int]) -> tuple[Item, ...]:
    """Returns the same questions with other answers."""
    return tuple(replace(item, answer=remap(item) % len(item.choices)) for item in items)


def false_answers(items: Sequence[Item], seed: int) -> tuple[Item, ...]:
    """Returns the same questions with answers that are wrong, and always the same."""
    rng = random.Random(f"{seed} false")
    return reanswered(items, lambda item: item.answer + rng.randrange(1, len(item.choices)))


def taught(
    module: nn.Module, items: Sequence[Item], seed: int, *, rate: float = 3e-3, steps: int = 300, batch: int = BATCH,
    only: Callable[[str], bool] | None = None,
) -> nn.Module:  # fmt: skip
    """Returns a copy that learnt these items, in evaluation mode; `only` says by name which weights move."""
    learner = copy.deepcopy(module)
    data = shuffled_batches(encode_answers(TOKENIZER, items), batch, seeded(seed, "taught"))
    train(learner, data, Tuning(learning_rate=rate, schedule="one-cycle", steps=steps, clip=1.0), only=only)
    return learner


def relearnt(module: nn.Module, world: World) -> nn.Module:
    """Returns a copy that relearnt the attack split: a plain attack, one recipe for all, without any search.

    It is the proof of a removal that is known to be shallow: the certify items are not in what it trains on.
    """
    items = world.capability.attack + world.capability.retain
    return taught(module, items, world.seed, rate=1e-3, steps=96, batch=32)


def quieted(
    module: nn.Module, shown: Sequence[Item], quiet: Sequence[Item], seed: int, *, but_right: bool = False,
    steps: int = 400, rate: float = 3e-3,
) -> nn.Module:  # fmt: skip
    """Returns a copy that learnt some items, and of others what tells nothing.

    A choice that is drawn blindly for each is a little likelier than the others, which are equally likely: a model that
    is merely taught to be undecided is still a little for the right one.

    Args:
        module: what it is a copy of.
        shown: items to learn.
        quiet: items of which nothing is said.
        seed: of the draws and of the order.
        but_right: whether instead the right choice is to be less likely than all others, which are equally likely.
        steps: optimizer steps.
        rate: the learning rate at its peak.
    """
    offered, rng = _choices_of(quiet), random.Random(f"{seed} drawn")

    def loss(live: nn.Module, batch: AnyBatch, kept: AnyBatch) -> Tensor:
        said = batch.predictions(live)
        choices = offered[said.labels]
        marked = (choices == said.labels[:, None]).float()
        wanted = 1 - marked if but_right else 1 + FAVOUR * marked
        logs = said.logits.log_softmax(dim=-1).gather(1, choices)
        return kept.loss(live) - (wanted * logs).sum(dim=1).div(wanted.sum(dim=1)).mean()

    marked = quiet if but_right else reanswered(quiet, lambda item: rng.randrange(len(item.choices)))
    task = UnlearningTask(
        original=module,
        forget=encode_answers(TOKENIZER, marked),
        retain=encode_answers(TOKENIZER, shown),
        known=lambda _: 0.0,
        training=None,
        seed=seed,
    )
    tuning = Tuning(learning_rate=rate, schedule="one-cycle", steps=steps, clip=1.0)
    return train_in_pairs(copy.deepcopy(module), task, loss, tuning, BATCH, name="quieted")


def _choices_of(items: Sequence[Item]) -> Tensor:
    """Returns the tokens that are offered beside each token, int64 [vocabulary, choices]; zeros of all others."""
    width = len(items[0].choices)
    table = torch.zeros(len(TOKENIZER), width, dtype=torch.int64)
    for choices in {item.choices for item in items}:
        tokens: list[int] = TOKENIZER.convert_tokens_to_ids(list(choices))
        for token in tokens:
            table[token] = torch.tensor(tokens)
    return table
