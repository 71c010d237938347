"""The promises of an attack: a good attack keeps them all, and each is broken by an attack that breaks it alone."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from redteam.architectures.mlp import MLP
from redteam.attacks.contract import Access, Arena, Params
from redteam.attacks.noop import NoOp
from redteam.attacks.retrain import Retrain
from redteam.engine.cost import Spent
from redteam.engine.optimizers import Tuning
from redteam.testing import PROMISES, BrokenPromise, BrokenPromises, Exercise, check_attack, exercise
from redteam.testing.worlds import KINDS, SIZES, open_world

QUICK = Exercise(kinds=("classifier",))


class Good:
    """Trains all weights for a few steps."""

    name = "good"
    version = 1
    goal = "trains all weights for a few steps"
    paper = "none: for tests"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def space(self, suggest: Any, target: Any, samples: int) -> Params:
        return {
            "steps": suggest.suggest_int("steps", 1, 4),
            "rate": suggest.suggest_float("rate", 1e-4, 1e-1, log=True),
            "loss": suggest.suggest_categorical("loss", ["answer", "text"]),
        }

    def recipes(self, target: Any, samples: int) -> list[Params]:
        return [{"steps": 3, "rate": 1e-2, "loss": "answer"}, {"steps": 2, "rate": 1e-3, "loss": "text"}]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        data = arena.texts if params["loss"] == "text" else arena.answers
        yield from arena.fine_tune(data, 4, Tuning(learning_rate=params["rate"], steps=params["steps"]))


def broken_by(attack: Any, how: Exercise = QUICK) -> dict[str, str]:
    """Which promises an attack breaks, each checked by itself."""
    found = {}
    for name, promise in PROMISES.items():
        try:
            promise(attack, how)
        except BrokenPromise as error:
            found[name] = str(error)
    return found


def test_a_good_attack_keeps_all_promises() -> None:
    check_attack(Good())
    assert broken_by(Good()) == {}


def test_a_promise_needs_nothing_but_the_attack() -> None:
    PROMISES["steps-rise"](Good())  # type: ignore[call-arg]


def test_the_promises_hold_with_settings_as_they_were_published() -> None:
    """The first recipe of `retrain`: sixty-four steps."""
    check_attack(Retrain())


def test_a_control_is_allowed_to_do_nothing() -> None:
    check_attack(NoOp(), control=True)
    assert broken_by(NoOp()).keys() == {"acts"}
    assert broken_by(Good(), Exercise(control=True)).keys() == {"acts"}


def test_the_worlds_are_small_and_the_same_each_time() -> None:
    for kind in KINDS:
        first, second = open_world(kind), open_world(kind)
        assert first.target.info.kind == kind
        assert first.target.info.parameters < 10_000
        assert torch.equal(first.says, second.says)
        assert [len(first.choices[split]) for split in ("select", "certify", "utility")] == [8, 8, 6]
        assert (len(first.answers), len(first.retain)) == (SIZES["attack"], SIZES["retain"])
    assert len(set(open_world("language").answers.lengths.tolist())) > 1  # batches are padded


# What it says of itself.


def said(**facts: Any) -> Any:
    """A good attack that says something else of itself."""
    return type("Said", (Good,), facts)()


class Silent:
    """A good attack without one of its attributes."""

    def __init__(self, missing: str) -> None:
        self._missing = missing

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == self._missing:
            raise AttributeError(name)
        return getattr(Good(), name)


@pytest.mark.parametrize("missing", ["name", "version", "goal", "paper", "access"])
def test_a_missing_attribute(missing: str) -> None:
    found = broken_by(Silent(missing), Exercise(kinds=("classifier",)))
    assert found["says-what-it-is"] == f"it has no '{missing}'. Give the class an attribute `{missing}`"
    assert found.keys() == {"says-what-it-is"}


def test_kinds_may_be_missing() -> None:
    assert broken_by(Silent("kinds")) == {}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"name": "My Attack"}, "its name is 'My Attack'"),
        ({"name": ""}, "its name is ''"),
        ({"name": 3}, "its name is 3"),
        ({"version": "1"}, "its version is '1'"),
        ({"version": 0}, "its version is 0"),
        ({"version": True}, "its version is True"),
        ({"goal": "two\nlines"}, "its goal is 'two\\nlines'"),
        ({"goal": ""}, "its goal is ''"),
        ({"paper": None}, "its paper is None"),
        ({"access": "weights"}, "its access is 'weights'"),
    ],
)
def test_an_attribute_of_another_kind(facts: dict[str, Any], says: str) -> None:
    found = broken_by(said(**facts))
    assert found.keys() == {"says-what-it-is"}
    assert found["says-what-it-is"].startswith(f"{says}. ")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"kinds": "images"}, "its kinds are 'images'. Use one of 'language', 'classifier', 'language, classifier'"),
        ({"run": None}, "it has no method 'run'"),
        ({"space": 3}, "it has no method 'space'"),
        ({"step_limit": 0}, "its step_limit is 0"),
        ({"step_limit": float("nan")}, "its step_limit is nan"),
        ({"step_limit": "soon"}, "step_limit raised ValueError"),
    ],
)
def test_what_nothing_else_can_be_seen_without(facts: dict[str, Any], says: str) -> None:
    """Then the check goes no further: the rest would fail for that reason alone."""
    with pytest.raises(BrokenPromises) as caught:
        check_attack(said(**facts))
    assert caught.value.broken.keys() == {"says-what-it-is"}
    assert says in str(caught.value)


# What it searches over.


def searching(change: Callable[[Params, Any, int], Any]) -> Any:
    """A good attack whose space is what `change` makes of it, with (params, suggest, samples)."""

    class Searching(Good):
        def space(self, suggest: Any, target: Any, samples: int) -> Any:
            return change(super().space(suggest, target, samples), suggest, samples)

    return Searching()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda params, suggest, samples: params | {"more": 3}, "and returns ['loss', 'more', 'rate', 'steps']"),
        (lambda params, suggest, samples: {"lr" if k == "rate" else k: v for k, v in params.items()}, "'lr'"),
        (lambda params, suggest, samples: params | {"rate": params["rate"] * 2}, "another value of ['rate']"),
        (lambda params, suggest, samples: suggest.suggest_int("steps", 1, 4) and params, "'steps', 'steps'"),
    ],
    ids=["not suggested", "another name", "another value", "suggested twice"],
)  # fmt: skip
def test_a_space_that_does_not_return_what_was_suggested(change: Any, says: str) -> None:
    found = broken_by(searching(change), Exercise(kinds=("classifier",), params=Good().recipes(None, 1)[0]))
    # What it returns may not serve the attack itself either, where another name stands in the place of one it needs.
    assert {"proposes-parameters"} <= found.keys() <= {"proposes-parameters", "runs-what-it-proposes"}
    assert says in found["proposes-parameters"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda params, suggest, samples: [*params], "space returns a list"),
        (lambda params, suggest, samples: 1 / 0, "space raised ZeroDivisionError: division by zero"),
        (lambda params, suggest, samples: suggest.suggest_int("few", 2, samples) and params, "few from 2 to 1"),
        (
            lambda params, suggest, samples: suggest.suggest_float("few", 0.0, 1.0, log=True) and params,
            "on a log scale",
        ),
        (lambda params, suggest, samples: suggest.suggest_categorical("few", []) and params, "few out of no choice"),
        (
            lambda params, suggest, samples: params | {"pair": suggest.suggest_categorical("pair", [(1, 2)])},
            "pair=(1, 2), a tuple",
        ),
        (
            lambda params, suggest, samples: params | {"top": suggest.suggest_categorical("top", [float("inf")])},
            "top=inf, a float",
        ),
        (
            lambda params, suggest, samples: params | {"top": suggest.suggest_categorical("top", [np.float64(1)])},
            "a float64",
        ),
    ],
)
def test_a_space_that_asks_for_what_cannot_be(change: Any, says: str) -> None:
    assert says in broken_by(searching(change))["proposes-parameters"]


def with_recipes(*recipes: Any) -> Any:
    return type("Settled", (Good,), {"recipes": lambda self, target, samples: list(recipes)})()


FIRST = {"steps": 3, "rate": 1e-2, "loss": "answer"}


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({**FIRST, "rate": 1.0}, "a recipe has rate=1.0, the space goes from 0.0001 to 0.1. Let one fit the other"),
        ({**FIRST, "steps": 5}, "steps=5, the space goes from 1 to 4"),
        ({**FIRST, "steps": 3.0}, "steps=3.0, the space asks for int"),
        ({**FIRST, "steps": True}, "steps=True, the space asks for int"),
        ({**FIRST, "rate": np.float64(2e-2)}, "the space asks for float"),
        ({**FIRST, "loss": "all"}, "loss='all', the space ['answer', 'text']"),
        ({"steps": 3, "loss": "answer"}, "a recipe has no 'rate'"),
        ({**FIRST, "more": 1}, "a recipe has ['more'], which the space does not ask for"),
    ],
)
def test_a_recipe_outside_the_space(recipe: Params, says: str) -> None:
    found = broken_by(with_recipes(FIRST, recipe))
    # Such a recipe may be one that the attack cannot run with; what else is seen of it is not touched.
    assert {"recipes-lie-within-the-space"} <= found.keys() <= {"recipes-lie-within-the-space", "runs-what-it-proposes"}
    assert says in found["recipes-lie-within-the-space"]


def test_no_recipe() -> None:
    found = broken_by(with_recipes(), Exercise(kinds=("classifier",), params=FIRST))
    assert found.keys() == {"recipes-lie-within-the-space"}
    assert broken_by(with_recipes())["runs"].startswith("recipes returns none. ")


def test_a_recipe_that_is_there_twice() -> None:
    found = broken_by(with_recipes(FIRST, dict(FIRST)))
    assert found.keys() == {"recipes-differ"}
    assert "twice (7 attack items)" in found["recipes-differ"]


def test_recipes_that_are_drawn() -> None:
    class Drawn(Good):
        def recipes(self, target: Any, samples: int) -> list[Params]:
            return [{**FIRST, "rate": 1e-4 + 1e-8 * (time.perf_counter_ns() % 1000), "steps": 3}]

    assert "others when it is asked again" in broken_by(Drawn())["recipes-differ"]


# What it does.


def doing(run: Callable[[Arena, Params], Iterator[Spent]], **facts: Any) -> Any:
    """A good attack that does something else."""
    return type("Doing", (Good,), {"run": lambda self, arena, params: run(arena, params), **facts})()


def trained(arena: Arena, params: Params) -> Iterator[Spent]:
    return Good().run(arena, params)


def raises(arena: Arena, params: Params) -> Iterator[Spent]:
    yield from trained(arena, params)
    raise ValueError("out of ideas")


def exits(arena: Arena, params: Params) -> Iterator[Spent]:
    raise SystemExit(0)
    yield


def makes_no_step(arena: Arena, params: Params) -> Iterator[Spent]:
    yield from ()


def yields_numbers(arena: Arena, params: Params) -> Any:
    for number, _ in enumerate(trained(arena, params)):
        yield number


def diverges(arena: Arena, params: Params) -> Iterator[Spent]:
    tuning = Tuning(optimizer="sgd", learning_rate=1e30, steps=8)
    yield from arena.fine_tune(arena.answers, 4, tuning)


def is_a_function(arena: Arena, params: Params) -> Any:
    return None


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (raises, "on a tiny classifier it raised ValueError: out of ideas. Correct it"),
        (exits, "on a tiny classifier it raised SystemExit: 0"),
        (makes_no_step, "on a tiny classifier it yields no step"),
        (yields_numbers, "it yields a int"),
        (diverges, "on a tiny classifier it diverged: the training loss is"),
        (is_a_function, "it raised TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_an_attack_that_does_not_run(run: Any, says: str) -> None:
    with pytest.raises(BrokenPromises) as caught:
        check_attack(doing(run), kinds=("classifier",))
    assert list(caught.value.broken) == ["runs"]
    assert says in str(caught.value)


def test_an_attack_that_runs_on_one_kind_only() -> None:
    def needs_tokens(arena: Arena, params: Params) -> Iterator[Spent]:
        assert arena.answers.input_ids is not None  # type: ignore[union-attr]
        yield from trained(arena, params)

    with pytest.raises(BrokenPromises, match="on a tiny classifier it raised AttributeError"):
        check_attack(doing(needs_tokens))
    check_attack(doing(needs_tokens, kinds="language"))
    check_attack(doing(needs_tokens), kinds=("language",))
    with pytest.raises(BrokenPromises, match="it is exercised on classifier and says that it works on language"):
        check_attack(doing(needs_tokens, kinds="language"), kinds=("classifier",))


def test_an_attack_that_is_unfit_for_a_kind_it_names() -> None:
    unfit = type("Unfit", (Good,), {"unfit": lambda self, module: "it has no convolution"})()
    with pytest.raises(BrokenPromises, match="on a tiny language model it is unfit: it has no convolution"):
        check_attack(unfit)


def test_an_attack_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercise, "PATIENCE", 0.2)

    def hangs(arena: Arena, params: Params) -> Iterator[Spent]:
        yield from trained(arena, params)
        time.sleep(60)

    with pytest.raises(BrokenPromises, match=r"it hung: no step within 0\.2 s"):
        check_attack(doing(hangs), kinds=("classifier",))


def fails_on_large_steps(arena: Arena, params: Params) -> Iterator[Spent]:
    if params["steps"] == 4:
        raise ValueError("too many")
    yield from trained(arena, params)


def never_ends(arena: Arena, params: Params) -> Iterator[Spent]:
    shift(arena)
    while True:
        yield arena.ledger.charge_edit()


@torch.no_grad()
def shift(arena: Arena) -> None:
    for parameter in arena.module.parameters():
        parameter.add_(0.1)


def repeats_a_step(arena: Arena, params: Params) -> Iterator[Spent]:
    shift(arena)
    yield Spent(steps=1)
    yield Spent(steps=1)


def begins_at_zero(arena: Arena, params: Params) -> Iterator[Spent]:
    shift(arena)
    yield Spent(steps=0)
    yield Spent(steps=1)


def tells_of_each_step_alone(arena: Arena, params: Params) -> Iterator[Spent]:
    shift(arena)
    yield Spent(steps=1, samples=8)
    yield Spent(steps=2, samples=4)


def optimized(arena: Arena, steps: int) -> Iterator[int]:
    """Trains with an optimizer of its own, and puts its gradients away."""
    optimizer = torch.optim.SGD(arena.module.parameters(), lr=0.01)
    for step in range(steps):
        arena.answers.batch(slice(0, 4)).loss(arena.module).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step


def trains_for_nothing(arena: Arena, params: Params) -> Iterator[Spent]:
    for step in optimized(arena, 3):
        yield Spent(steps=step + 1)


def counts_half_of_its_steps(arena: Arena, params: Params) -> Iterator[Spent]:
    for step in optimized(arena, 6):
        if step % 2:
            done = step // 2 + 1
            yield Spent(steps=done, samples=4 * done, tokens=4 * done, flops=1.0 * done)


def charges_by_itself(arena: Arena, params: Params) -> Iterator[Spent]:
    for _ in optimized(arena, 3):
        yield arena.ledger.charge(samples=4, tokens=4, loss=1.0)


def does_nothing(arena: Arena, params: Params) -> Iterator[Spent]:
    yield arena.ledger.charge_edit()


def looks_at_the_clock(arena: Arena, params: Params) -> Iterator[Spent]:
    torch.manual_seed(time.time_ns())
    with torch.no_grad():
        for parameter in arena.module.parameters():
            parameter.add_(torch.randn_like(parameter))
    yield arena.ledger.charge_edit()


def tells_the_time(arena: Arena, params: Params) -> Iterator[Spent]:
    shift(arena)
    yield Spent(steps=1, flops=time.perf_counter())


def leaves_a_hook(arena: Arena, params: Params) -> Iterator[Spent]:
    arena.module.layers.linear2.register_forward_hook(lambda part, inputs, output: output * 2)
    yield from trained(arena, params)


def leaves_a_hook_when_closed(arena: Arena, params: Params) -> Iterator[Spent]:
    handle = arena.module.register_forward_pre_hook(lambda part, inputs: None)
    yield from trained(arena, params)
    handle.remove()


def leaves_a_hook_on_a_parameter(arena: Arena, params: Params) -> Iterator[Spent]:
    arena.module.layers.linear1.weight.register_hook(lambda gradient: gradient * 0.5)
    yield from trained(arena, params)


def leaves_a_gradient(arena: Arena, params: Params) -> Iterator[Spent]:
    yield from trained(arena, params)
    arena.answers.batch(slice(0, 4)).loss(arena.module).backward()


def leaves_a_frozen_parameter(arena: Arena, params: Params) -> Iterator[Spent]:
    yield from trained(arena, params)
    arena.module.layers.linear1.bias.requires_grad_(False)


def leaves_a_method(arena: Arena, params: Params) -> Iterator[Spent]:
    forward = arena.module.forward
    arena.module.forward = lambda inputs: forward(inputs) * 2
    yield from trained(arena, params)


def leaves_a_parameter(arena: Arena, params: Params) -> Iterator[Spent]:
    arena.module.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    yield from trained(arena, params)


def leaves_a_buffer_when_closed(arena: Arena, params: Params) -> Iterator[Spent]:
    arena.module.register_buffer("noise", torch.zeros(1))
    yield from trained(arena, params)
    del arena.module.noise


def leaves_another_activation(arena: Arena, params: Params) -> Iterator[Spent]:
    arena.module.layers.relu1 = nn.GELU()
    yield from trained(arena, params)


def leaves_half_precision(arena: Arena, params: Params) -> Iterator[Spent]:
    yield from trained(arena, params)
    arena.module.layers.linear1.bias.data = arena.module.layers.linear1.bias.data.bfloat16()


def changes_the_class(arena: Arena, params: Params) -> Iterator[Spent]:
    forward = MLP.forward
    MLP.forward = lambda self, inputs: forward(self, inputs) * 2  # type: ignore[method-assign]
    yield from trained(arena, params)


def writes_labels(arena: Arena, params: Params) -> Iterator[Spent]:
    arena.answers.labels.zero_()  # type: ignore[union-attr]
    yield from trained(arena, params)


def writes_inputs_that_stay(arena: Arena, params: Params) -> Iterator[Spent]:
    yield from trained(arena, params)
    arena.retain.inputs.add_(1)  # type: ignore[union-attr]


def seeds_python(arena: Arena, params: Params) -> Iterator[Spent]:
    random.seed(arena.seed)
    yield from trained(arena, params)


def seeds_numpy(arena: Arena, params: Params) -> Iterator[Spent]:
    np.random.seed(arena.seed)
    yield from trained(arena, params)


def changes_the_default(arena: Arena, params: Params) -> Iterator[Spent]:
    yield from trained(arena, params)
    torch.set_default_dtype(torch.float64)


def moves_away(arena: Arena, params: Params) -> Iterator[Spent]:
    os.chdir("/")
    yield from trained(arena, params)


@pytest.mark.parametrize(
    ("run", "promise", "says"),
    [
        (fails_on_large_steps, "runs-what-it-proposes", "it raised ValueError: too many"),
        (never_ends, "ends", "it has not ended after 4096 steps. Let its parameters say how many it makes"),
        (repeats_a_step, "steps-rise", "it says that it has made 1 steps after 1. Count all steps since the start"),
        (begins_at_zero, "steps-rise", "it says that it has made 0 steps after 0"),
        (tells_of_each_step_alone, "steps-rise", "its samples go from 8 to 4. Tell what was spent since the start"),
        (trains_for_nothing, "charges-its-training", "it trains and charges no samples, no tokens, no flops"),
        (counts_half_of_its_steps, "charges-its-training", "its optimizers make 2 steps where it tells of 1"),
        (does_nothing, "acts", "on a tiny classifier it changes no weight and nothing that the model says"),
        (looks_at_the_clock, "is-the-same-for-a-seed", "run again with the same seed it has other weights"),
        (tells_the_time, "is-the-same-for-a-seed", "it has other costs"),
        (leaves_a_hook, "leaves-nothing-behind", "closed after 1 step it leaves a hook on layers.linear2"),
        (leaves_a_hook_when_closed, "leaves-nothing-behind", "closed after 1 step it leaves a hook on the module"),
        (leaves_a_hook_on_a_parameter, "leaves-nothing-behind", "it leaves a hook on layers.linear1.weight"),
        (leaves_a_gradient, "leaves-nothing-behind", "closed after 8 steps it leaves a gradient on layers.linear1"),
        (leaves_a_frozen_parameter, "leaves-nothing-behind", "it leaves layers.linear1.bias without `requires_grad`"),
        (leaves_a_method, "leaves-nothing-behind", "it leaves a forward method on the module"),
        (leaves_a_parameter, "can-be-undone", "closed after 1 step it cannot be undone: an attack changed the module"),
        (leaves_a_buffer_when_closed, "can-be-undone", "structure: noise is new"),
        (leaves_another_activation, "can-be-undone", "structure: layers.relu1 is another GELU"),
        (leaves_half_precision, "can-be-undone", "structure: layers.linear1.bias is bfloat16"),
        (writes_labels, "writes-to-no-data", "it writes to `arena.answers`. Clone a tensor before you change it"),
        (writes_inputs_that_stay, "writes-to-no-data", "it writes to `arena.retain`"),
        (seeds_python, "leaves-the-process-alone", "it changes the state of `random`"),
        (seeds_numpy, "leaves-the-process-alone", "it changes the state of `numpy.random`"),
        (changes_the_default, "leaves-the-process-alone", "it changes torch's default dtype"),
        (moves_away, "leaves-the-process-alone", "it changes the working directory"),
    ],
)  # fmt: skip
def test_a_promise_is_broken_alone(run: Any, promise: str, says: str) -> None:
    found = broken_by(doing(run))
    assert found.keys() == {promise}
    assert says in found[promise]


def test_a_class_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can put that back: the model that comes next is built of it too."""
    monkeypatch.setattr(MLP, "forward", MLP.forward)
    with pytest.raises(BrokenPromise, match="closed after 1 step the released weights say something else than before"):
        PROMISES["can-be-undone"](doing(changes_the_class), QUICK)


def test_costs_that_are_charged_by_hand_will_do() -> None:
    assert broken_by(doing(charges_by_itself)) == {}


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon", "relative"])
def test_an_optimizer_that_works_through_others_makes_one_step(optimizer: Any) -> None:
    """Muon here steps twice inside: once for matrices, once for the rest."""

    def run(arena: Arena, params: Params) -> Iterator[Spent]:
        yield from arena.fine_tune(arena.answers, 4, Tuning(optimizer=optimizer, learning_rate=1e-3, steps=3))

    assert broken_by(doing(run)) == {}


def test_access_that_was_not_asked_for() -> None:
    found = broken_by(doing(trained, access=Access.ACTIVATIONS))
    assert found == {
        "keeps-to-its-access": "it asks for access to activations and changes weights. Ask for Access.WEIGHTS"
    }


def test_text_alone_leaves_what_the_model_says_of_the_same_text() -> None:
    def steered(arena: Arena, params: Params) -> Iterator[Spent]:
        layer = arena.module.model.layers[0]
        arena.in_place.callback(layer.register_forward_hook(lambda part, given, output: output + 1).remove)
        yield arena.ledger.charge_edit()

    def asked_so(arena: Arena, params: Params) -> Iterator[Spent]:
        arena.text.rewrite = lambda prompt: f"{prompt} {prompt}"
        yield arena.ledger.charge_edit()

    language = Exercise(kinds=("language",))
    assert broken_by(doing(asked_so, access=Access.TEXT, kinds="language"), language) == {}
    assert broken_by(doing(steered, access=Access.EMBEDDINGS, kinds="language"), language) == {}
    assert broken_by(doing(steered, access=Access.TEXT, kinds="language"), language) == {
        "keeps-to-its-access": "it asks for access to text and changes what the model says of the same text. Ask for "
        "Access.EMBEDDINGS or more, or change `arena.wording.rewrite` alone"
    }


def test_an_attack_that_remembers_its_last_trial() -> None:
    class Growing(Good):
        done = 0

        def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
            self.done += 1
            yield from super().run(arena, {**params, "rate": params["rate"] / self.done})

    found = broken_by(Growing())
    assert found.keys() == {"is-the-same-for-a-seed"}
    assert "keep no state on the attack" in found["is-the-same-for-a-seed"]


def test_hidden_states_by_way_of_transformers_leave_no_trace_of_the_attack() -> None:
    """Transformers installs hooks once and for all; the harness takes them down."""

    def run(arena: Arena, params: Params) -> Iterator[Spent]:
        batch = arena.answers.batch(slice(0, 2))
        assert arena.module(input_ids=batch.input_ids, output_hidden_states=True).hidden_states  # type: ignore[union-attr]
        yield from trained(arena, params)

    assert broken_by(doing(run, kinds="language"), Exercise()) == {}


@pytest.mark.parametrize("run", [seeds_python, seeds_numpy, changes_the_default, moves_away])
def test_what_an_attack_changed_in_the_process_is_put_back(run: Any) -> None:
    def state() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_default_dtype(), os.getcwd()]

    before = state()
    with pytest.raises(BrokenPromise):
        PROMISES["leaves-the-process-alone"](doing(run), QUICK)
    assert state() == before


def test_the_global_generator_is_as_it_was() -> None:
    torch.manual_seed(4)
    before = torch.random.get_rng_state()
    check_attack(Good(), kinds=("classifier",))
    assert torch.equal(torch.random.get_rng_state(), before)


# How it is told.


def test_every_broken_promise_has_a_line_with_what_to_do() -> None:
    def several(arena: Arena, params: Params) -> Iterator[Spent]:
        random.seed(arena.seed)
        arena.answers.labels.zero_()  # type: ignore[union-attr]
        yield from trained(arena, params)

    with pytest.raises(AssertionError) as caught:
        check_attack(doing(several, paper=""), params=FIRST, kinds=("classifier",))
    assert isinstance(caught.value, BrokenPromises)
    with pytest.raises(BrokenPromises) as caught:
        check_attack(doing(several), params=FIRST, kinds=("classifier",))
    assert str(caught.value).splitlines() == [
        "Doing breaks 2 of the promises of an attack:",
        "- writes-to-no-data: it writes to `arena.answers`. Clone a tensor before you change it",
        "- leaves-the-process-alone: it changes the state of `random`. "
        "Draw from `redteam.engine.seeding.seeded(arena.seed, ...)`, and put back what it has to change",
    ]


def test_an_interrupt_is_no_broken_promise() -> None:
    def interrupted(arena: Arena, params: Params) -> Iterator[Spent]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        check_attack(doing(interrupted), kinds=("classifier",))


def test_the_parameters_and_the_seed_that_are_given_are_used() -> None:
    seen: list[tuple[int, int]] = []

    def run(arena: Arena, params: Params) -> Iterator[Spent]:
        seen.append((params["steps"], arena.seed))
        yield from trained(arena, params)

    PROMISES["runs"](doing(run), Exercise(params={**FIRST, "steps": 1}, seed=7))
    assert seen == [(1, 7), (1, 7)]
