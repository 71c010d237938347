"""What every scorer promises, on tiny models that know the answers and on such that do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redteam.capabilities.items import SPLITS, Capability, Item
from redteam.capabilities.reading import encode_scoring, encode_training
from redteam.capabilities.scorers.contract import Encoded, NotFinite, Scorer, Scores, UnusableScores, scores_of
from redteam.capabilities.scorers.membership import read_odds
from redteam.capabilities.typical import typical_of
from redteam.engine.batches import shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.engine.surroundings import surroundings_kept
from redteam.target import Target
from redteam.testing.declared import fact_of, facts_are_there, kinds_are_known
from redteam.testing.promise import BrokenPromise, answer
from redteam.testing.traces import traces_on
from redteam.testing.worlds import KINDS, LANGUAGE, held_points, tiny_capability, tiny_model

NEEDS = (
    *("choices", "answer", "choices, premise", "answer, premise"),
    *("choices, negatives", "choices, negatives, references"),
)
METHODS = ("encode", "chance", "constant")
IGNORANT = range(6)  # seeds of models that know nothing
BESIDE = range(10, 16)  # of others, beside which samples stand out
NEAR = 0.15  # of chance: the mean of six such models on 44 items is seldom further away than half of that
APART = 0.25  # how much more a model scores that was trained on the very items
ROUNDING = 1e-4  # of a score: batches of other shapes
PREMISE = "always eats"
ANSWERS = ("corn", "rice always", "fish", "milk the")  # of one and of two tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A tiny model with random weights, and the items that a scorer scores it on.

    Attributes:
        target: the model.
        capability: all of what it is asked.
    """

    target: Target
    capability: Capability

    @property
    def items(self) -> tuple[Item, ...]:
        """All items."""
        return self.capability.forget + self.capability.retain + self.capability.utility

    def encoded(self, items: Sequence[Item]) -> Encoded:
        """Returns some of the items as the scorer encodes them.

        Raises:
            BrokenPromise: it raised.
        """
        return answer("encode", encode_scoring, self.capability, items, self.target.tokenizer)

    def table(self, items: Sequence[Item], module: nn.Module | None = None) -> Tensor:
        """Returns what a module says of items; by default the model.

        Raises:
            BrokenPromise: the scorer raised.
        """
        with surroundings_kept():
            return answer("table", self.encoded(items).table, self.target.module if module is None else module)

    def scores(self, items: Sequence[Item], module: nn.Module | None = None) -> Scores:
        """Returns what a module scores on items, unchecked; by default the model.

        Raises:
            BrokenPromise: the scorer raised.
        """
        return np.asarray(answer("scores", self.encoded(items).scores, self.table(items, module)))

    def trained(self, items: Sequence[Item]) -> nn.Module:
        """Returns a copy of the model that was trained on items until it knows them by heart."""
        module = tiny_model(self.target.info.kind).module
        data = encode_training(self.capability, items, self.target.tokenizer, whole_text=True)
        batches = shuffled_batches(data, len(items), seeded(0, "order"))
        train(module, batches, Tuning(learning_rate=1e-2, steps=200))
        return module


def worlds_of(scorer: Scorer) -> Iterator[Scored]:
    """Yields a new world for each kind of model that a scorer works on."""
    for kind in (kind for kind in KINDS if kind in scorer.kinds):
        capability = tiny_capability(kind)
        if kind == LANGUAGE:
            parts: dict[str, Any] = {
                split: tuple(_asked(item, "choices" in scorer.needs) for item in getattr(capability, split))
                for split in ("attack", "select", "certify", "retain", "utility")
            }
            capability = replace(capability, **parts, premise=PREMISE if "premise" in scorer.needs else None)
        if "negatives" in scorer.needs:
            capability = held_points(scorer)
            if "references" in scorer.needs:
                never = [read_odds(tiny_model(kind, seed), capability, SPLITS) for seed in BESIDE]
                capability = replace(capability, typical=typical_of(never))
            yield Scored(target=tiny_model(kind), capability=capability)
        else:
            yield Scored(target=tiny_model(kind), capability=replace(capability, scorers=(scorer,)))


def _asked(item: Item, chosen: bool) -> Item:
    """Returns a question with two to four choices of one or two tokens, or with its right answer alone."""
    if not chosen:
        return replace(item, choices=(ANSWERS[item.answer],), answer=0)
    count = 2 + len(item.prompt) % 3
    return replace(item, choices=ANSWERS[:count], answer=item.answer % count)


@surroundings_kept()
def says_what_it_is(scorer: Scorer) -> None:
    """It has the attributes and methods of the contract, each of its type."""
    for name in METHODS:
        if not callable(getattr(scorer, name, None)):
            raise BrokenPromise(f"it has no method {name!r}", "See redteam.capabilities.scorers.contract.Scorer")
    facts_are_there(scorer)
    kinds_are_known(fact_of(scorer, "kinds"))
    needs = fact_of(scorer, "needs")
    if needs not in NEEDS:
        raise BrokenPromise(f"it needs {needs!r}", f"Use one of {', '.join(map(repr, NEEDS))}")


@surroundings_kept()
def scores_every_item(scorer: Scorer) -> None:
    """It reads a row of every item, without a gradient, and gives one score in [0, 1] to each."""
    for world in worlds_of(scorer):
        encoded, table = world.encoded(world.items), world.table(world.items)
        shape = tuple(table.shape)
        if len(encoded) != len(world.items) or len(shape) != 2 or shape[0] != len(world.items):
            raise BrokenPromise(
                f"of {len(world.items)} items its table has the shape {shape}", "Return [items, columns]"
            )
        if table.dtype != torch.float32 or table.requires_grad:
            raise BrokenPromise(
                f"its table is {str(table.dtype).removeprefix('torch.')}{' with a gradient' * table.requires_grad}",
                "Return float32, and read the model under torch.no_grad()",
            )
        try:
            scores_of(table, encoded)
        except UnusableScores as error:
            raise BrokenPromise(str(error), "Return one float64 in [0, 1] for every item") from error


@surroundings_kept()
def says_its_chance(scorer: Scorer) -> None:
    """Chance is a number in [0, 1] for every item, the same before and after encoding; so is a constant answer."""
    for world in worlds_of(scorer):
        items = world.items
        chance = np.asarray(answer("chance", scorer.chance, items))
        if chance.shape != (len(items),) or not ((chance >= 0) & (chance <= 1)).all():
            raise BrokenPromise("chance is not a number in [0, 1] for every item", "Return one for each item")
        if not np.array_equal(chance, np.asarray(world.encoded(items).chance)):
            raise BrokenPromise("what it encodes has another chance than it says itself", "Let both be the same")
        known, asked = ([item.completion for item in part] for part in (items[:20], items[20:]))
        constant = answer("constant", scorer.constant, known, asked)
        if not 0 <= constant <= 1:
            raise BrokenPromise(f"a constant answer scores {constant:g}", "Return a number in [0, 1]")


@surroundings_kept()
def is_at_chance_where_nothing_is_known(scorer: Scorer) -> None:
    """Models with random weights score what it says that chance is, on average."""
    for world in worlds_of(scorer):
        models = (tiny_model(world.target.info.kind, seed).module for seed in IGNORANT)
        scored = float(np.mean([world.scores(world.items, module) for module in models]))
        chance = float(np.mean(answer("chance", scorer.chance, world.items)))
        if not abs(scored - chance) <= NEAR:
            raise BrokenPromise(
                f"models that know nothing score {scored:.2f} on average, it says that chance is {chance:.2f}",
                "State the expected score of a blind draw",
            )


@surroundings_kept()
def tells_who_knows(scorer: Scorer) -> None:
    """A model that was trained on the items scores more than it did before."""
    for world in worlds_of(scorer):
        items, others = world.capability.certify, world.capability.retain if "negatives" in scorer.needs else ()
        knows = world.trained((*items, *others))
        before, after = (float(world.scores(items, module).mean()) for module in (None, knows))
        if not after - before >= APART:
            raise BrokenPromise(
                f"{world.target.name} scores {before:.2f}, and {after:.2f} once it knows the answers",
                "Let a score rise with what the model knows",
            )


@surroundings_kept()
def scores_each_item_by_itself(scorer: Scorer) -> None:
    """What an item scores depends neither on the items beside it nor on their order."""
    for world in worlds_of(scorer):
        items = world.items
        together = world.scores(items)
        reversed_, alone = world.scores(items[::-1])[::-1], np.concatenate([world.scores([item]) for item in items[:8]])
        for scores, how in ((reversed_, "in another order"), (alone, "by itself")):
            if not np.allclose(scores, together[: len(scores)], rtol=0, atol=ROUNDING):
                raise BrokenPromise(f"an item scores something else {how}", "Score each item from its own row alone")


@surroundings_kept()
def is_the_same_twice(scorer: Scorer) -> None:
    """Asked again, a model says the same of the same items, bit for bit."""
    for world, again in zip(worlds_of(scorer), worlds_of(scorer), strict=True):
        first = world.table(world.items)
        with surroundings_kept():
            torch.manual_seed(1)  # other numbers than before for whoever draws
            second = again.table(world.items)
        if not torch.equal(first, second):
            raise BrokenPromise("asked again the same model says something else", "Draw nothing, and keep no state")


@surroundings_kept()
def leaves_the_model_alone(scorer: Scorer) -> None:
    """It leaves weights, modes, hooks and gradients of the model as they were, and the process too."""
    for world in worlds_of(scorer):
        module = world.target.module
        before, encoded = _state(module), world.encoded(world.items)
        with surroundings_kept() as changed:
            answer("table", encoded.table, module)
            touched = changed()
        after = _state(module)
        moved = [name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name))]
        changes = [f"changes {name}" for name in (*touched, *sorted(moved))]
        for change in (*changes, *(f"leaves {trace}" for trace in traces_on(module))):
            raise BrokenPromise(f"it {change}", "Change nothing, or put it back in a `finally`")


@surroundings_kept()
def refuses_what_is_not_finite(scorer: Scorer) -> None:
    """Of a model that says NaN it raises `NotFinite`: such outputs are no score."""
    for world in worlds_of(scorer):
        module = world.target.module
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
        try:
            world.encoded(world.items).table(module)
        except NotFinite:
            continue
        except Exception as error:
            raise BrokenPromise(
                f"of a model that says NaN it raises {type(error).__name__}: {error}", "Raise NotFinite"
            ) from error
        raise BrokenPromise("it scores a model that says NaN", "Raise NotFinite unless all that it read is finite")


@surroundings_kept()
def shows_all_that_is_read(scorer: Scorer) -> None:
    """What a language model is given is no longer than what `tokens` shows: the harness refuses by that alone."""
    for world in (world for world in worlds_of(scorer) if world.target.info.kind == LANGUAGE):
        longest = 0

        def look(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            nonlocal longest
            ids = named["input_ids"] if "input_ids" in named else given[0]
            longest = max(longest, ids.shape[1])

        handle = world.target.module.register_forward_pre_hook(look, with_kwargs=True)
        try:
            world.table(world.items)
        finally:
            handle.remove()
        shown = max((int(rows.lengths.max()) for rows in world.encoded(world.items).tokens), default=0)
        if shown < longest:
            raise BrokenPromise(
                f"the model reads {longest} tokens, the longest text in `tokens` has {shown}",
                "Show every token set that the model reads, with the longest answer",
            )


def _state(module: nn.Module) -> dict[str, Any]:
    """Returns copies of all arrays of a module by name, and the mode of each of its parts."""
    arrays = [*module.named_parameters(), *module.named_buffers()]
    modes = {f"the mode of {name or 'the module'}": part.training for name, part in module.named_modules()}
    return {name: array.detach().clone() for name, array in arrays} | modes


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.equal(left, right)
    return type(left) is type(right) and bool(left == right)
