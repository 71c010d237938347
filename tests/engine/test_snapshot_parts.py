"""What an attack can change without touching a value of a weight: put back where that is safe, else refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_models import random_tokens, same_bits, tiny_llama, weights_of
from torch import nn

from redteam.engine.activations import hidden_states
from redteam.engine.snapshot import Snapshot, StructureChanged


class Small(nn.Module):
    """Two layers of one shape, an activation that is a module, one that is a function, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act, self.last = nn.GELU(), torch.tanh
        self.drop = nn.Dropout(0.5)
        self.scale = 2.0
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.drop(self.act(self.first(x))))) * self.scale


INPUTS = torch.linspace(-1, 1, 12).reshape(3, 4)


def small() -> Small:
    return Small().eval()


def outputs(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(INPUTS)


# What is put back.


def own_forward(module: Small) -> None:
    module.first.forward = lambda x: x * 0


def own_forward_of_the_whole(module: Small) -> None:
    module.forward = lambda x: x * 0


def own_call(module: Small) -> None:
    module.act._call_impl = lambda x: x * 0


def another_function(module: Small) -> None:
    module.last = torch.relu


def another_number(module: Small) -> None:
    module.scale = 5.0


def lost_number(module: Small) -> None:
    del module.scale


def another_slope(module: Small) -> None:
    module.act.approximate = "tanh"


def hook(module: Small) -> None:
    module.act.register_forward_hook(lambda part, inputs, output: output * 0)


def hook_with_keywords(module: Small) -> None:
    module.act.register_forward_pre_hook(lambda part, inputs, given: ((inputs[0] * 0,), given), with_kwargs=True)


def data_of_its_own(module: Small) -> None:
    module.first.weight.data = torch.full((4, 4), 3.0)


def a_new_parameter_of_the_old_name(module: Small) -> None:
    module.first.weight = nn.Parameter(torch.full((4, 4), 3.0))


PUT_BACK: list[Callable[[Small], None]] = [
    own_forward,
    own_forward_of_the_whole,
    own_call,
    another_function,
    another_number,
    another_slope,
    hook,
    hook_with_keywords,
    data_of_its_own,
    a_new_parameter_of_the_old_name,
]


@pytest.mark.parametrize("change", PUT_BACK)
def test_what_computes_something_else_is_put_back(change: Callable[[Small], None]) -> None:
    module = small()
    before, snapshot = outputs(module), Snapshot.of(module)
    change(module)
    assert not torch.equal(outputs(module), before)
    snapshot.restore(module)
    assert torch.equal(outputs(module), before)
    assert not {"forward", "_call_impl"} & {name for part in module.modules() for name in vars(part)}


def test_what_was_taken_away_is_put_back() -> None:
    module = small()
    before, snapshot = outputs(module), Snapshot.of(module)
    lost_number(module)
    snapshot.restore(module)
    assert torch.equal(outputs(module), before)


def test_dropout_keeps_its_rate() -> None:
    module = small()
    snapshot = Snapshot.of(module)
    module.drop.p = 0.0
    snapshot.restore(module)
    assert module.drop.p == 0.5


def test_a_forward_method_of_the_released_model_stays() -> None:
    """What wraps a model before it is attacked (accelerate does) is part of the model."""
    module = small()
    own_forward(module)
    before, snapshot = outputs(module), Snapshot.of(module)
    del module.first.forward
    assert not torch.equal(outputs(module), before)
    snapshot.restore(module)
    assert torch.equal(outputs(module), before)


def test_a_hook_of_the_released_model_stays() -> None:
    module = small()
    handle = module.act.register_forward_hook(lambda part, inputs, output: output * 0)
    before, snapshot = outputs(module), Snapshot.of(module)
    handle.remove()
    assert not torch.equal(outputs(module), before)
    snapshot.restore(module)
    assert torch.equal(outputs(module), before)


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters_go(register: str) -> None:
    """A mask on a gradient would hold in every trial that follows."""
    module = small()
    snapshot = Snapshot.of(module)
    rung: list[int] = []
    getattr(module.first.weight, register)(lambda tensor: rung.append(1))
    module(INPUTS).sum().backward()
    assert rung
    snapshot.restore(module)
    rung.clear()
    module(INPUTS).sum().backward()
    assert not rung
    assert module.first.weight.grad is not None


def test_hidden_states_are_captured_again_after_their_hooks_went() -> None:
    """Transformers installs its hooks once and notes it: the note has to go with them."""
    module, batch = tiny_llama(), random_tokens(3).batch(slice(None))
    snapshot = Snapshot.of(module)
    for _ in range(2):
        states = module(input_ids=batch.input_ids, output_hidden_states=True).hidden_states
        assert states is not None
        assert len(states) == 3
        snapshot.restore(module)
        assert not [hook for part in module.modules() for hook in part._forward_hooks]
    assert hidden_states(module, batch, ("model.layers.0",))["model.layers.0"].shape[-1] == 16


def test_a_tied_parameter_edited_through_its_data() -> None:
    module = tiny_llama(tie_word_embeddings=True)
    before, snapshot = weights_of(module), Snapshot.of(module)
    module.lm_head.weight.data = torch.zeros_like(module.lm_head.weight)
    assert not module.model.embed_tokens.weight.any()
    snapshot.restore(module)
    assert same_bits(weights_of(module), before)
    assert module.lm_head.weight is module.model.embed_tokens.weight


# What is refused, with what it is.


def another_activation(module: Small) -> None:
    module.act = nn.Identity()


def another_of_the_same_class(module: Small) -> None:
    module.act = nn.GELU(approximate="tanh")


def an_activation_more(module: Small) -> None:
    module.extra = nn.Identity()


def no_dropout(module: Small) -> None:
    del module.drop


def another_class(module: Small) -> None:
    module.act.__class__ = nn.ReLU


def one_layer_for_two(module: Small) -> None:
    module.second = module.first


def one_memory_for_two(module: Small) -> None:
    module.second.weight.data = module.first.weight.data


def one_entry_for_all(module: Small) -> None:
    module.first.weight.data = torch.zeros(1, 1).expand(4, 4)


def narrower(module: Small) -> None:
    module.first.weight.data = torch.zeros(2, 4)


def of_half_precision(module: Small) -> None:
    module.first.bias.data = torch.zeros(4, dtype=torch.float16)


REFUSED: list[tuple[Callable[[Small], None], str]] = [
    (another_activation, "structure: act is another Identity"),
    (another_of_the_same_class, "structure: act is another GELU"),
    (an_activation_more, "structure: extra is new"),
    (no_dropout, "structure: drop is gone"),
    (another_class, "structure: act is another ReLU"),
    (one_layer_for_two, "structure: second.bias is gone, second.weight is gone"),
    (one_memory_for_two, "structure: first.weight shares its memory, second.weight shares its memory"),
    (one_entry_for_all, "structure: first.weight takes no values"),
    (narrower, r"structure: first.weight is float32 \[2, 4\] on cpu"),
    (of_half_precision, r"structure: first.bias is float16 \[4\] on cpu"),
]


@pytest.mark.parametrize(("change", "says"), REFUSED)
def test_what_cannot_be_put_back_safely_is_refused(change: Callable[[Small], None], says: str) -> None:
    module = small()
    snapshot = Snapshot.of(module)
    change(module)
    with pytest.raises(StructureChanged, match=says):
        snapshot.restore(module)


def test_views_of_one_memory_that_overlap_are_refused() -> None:
    """They begin at different places, so only the check at the end sees it."""
    module = small()
    with torch.no_grad():
        module.second.weight.fill_(0.7)
    snapshot = Snapshot.of(module)
    memory = torch.zeros(20)
    module.first.weight.data, module.second.weight.data = memory[:16].view(4, 4), memory[4:].view(4, 4)
    with pytest.raises(StructureChanged, match=r"differ from the snapshot in first\.weight: "):
        snapshot.restore(module)


def test_memory_that_was_shared_before_is_none_of_the_attacks() -> None:
    module = small()
    module.second.weight.data = module.first.weight.data
    snapshot = Snapshot.of(module)
    with torch.no_grad():
        module.first.weight.add_(1)
    snapshot.restore(module)
    assert torch.equal(module.second.weight, torch.full((4, 4), 0.1))


def test_no_more_than_a_few_changes_are_named() -> None:
    module = small()
    snapshot = Snapshot.of(module)
    for number in range(9):
        module.register_buffer(f"extra{number}", torch.zeros(1))
    with pytest.raises(StructureChanged) as caught:
        snapshot.restore(module)
    assert str(caught.value).count("is new") == 4
