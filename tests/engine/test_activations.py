from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import random_tokens, tiny_llama
from tiny_tasks import random_labelled, tiny_classifier
from torch import nn

from redteam.engine.activations import (
    UnknownLayers,
    captured,
    decoder_layers,
    hidden_layers,
    hidden_states,
    matching_modules,
    matching_parameters,
)
from redteam.errors import InputError

IDS = torch.arange(12).reshape(2, 6)


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.mark.parametrize("depth", [1, 2, 3, 11])
def test_layers_are_named_in_order(depth):
    module = tiny_llama(num_hidden_layers=depth)
    names = decoder_layers(module)
    assert names == tuple(f"model.layers.{i}" for i in range(depth))
    assert [module.get_submodule(name) for name in names] == list(module.model.layers)


def test_captured_states_are_transformers_own_hidden_states():
    module = tiny_llama(num_hidden_layers=3)
    names = decoder_layers(module)
    with torch.no_grad(), captured(module, names) as states:
        output = module(input_ids=IDS, output_hidden_states=True)
    # transformers lists the embedding first, and applies the final norm to the last layer's state.
    for index, name in enumerate(names[:-1]):
        assert torch.equal(states[name], output.hidden_states[index + 1])
    assert torch.equal(module.model.norm(states[names[-1]]), output.hidden_states[-1])


def test_states_stay_in_the_graph():
    module = tiny_llama()
    with captured(module, ("model.layers.0",)) as states:
        module(input_ids=IDS)
    states["model.layers.0"].sum().backward()
    assert module.model.layers[0].mlp.down_proj.weight.grad is not None
    assert module.model.layers[1].mlp.down_proj.weight.grad is None


def test_each_pass_replaces_the_states():
    module = tiny_llama()
    with torch.no_grad(), captured(module, ("model.layers.1",)) as states:
        module(input_ids=IDS)
        first = states["model.layers.1"]
        module(input_ids=IDS[:1, :3])
    assert first.shape == (2, 6, 16)
    assert states["model.layers.1"].shape == (1, 3, 16)


def test_hooks_are_removed_whatever_happens():
    module = tiny_llama()
    with captured(module, decoder_layers(module)):
        assert hooks(module) == 2
    assert hooks(module) == 0
    with pytest.raises(ZeroDivisionError), captured(module, decoder_layers(module)):
        raise ZeroDivisionError
    assert hooks(module) == 0


def test_an_unknown_name_leaves_no_hook():
    module = tiny_llama()
    with pytest.raises(AttributeError), captured(module, ("model.layers.0", "model.layers.9")):
        pass
    assert hooks(module) == 0


def test_capturing_does_not_change_the_output():
    module = tiny_llama()
    with torch.no_grad():
        plain = module(input_ids=IDS).logits
        with captured(module, decoder_layers(module)):
            watched = module(input_ids=IDS).logits
    assert torch.equal(plain, watched)


class Stack(nn.Module):
    """Lists of given lengths, one of them inside the layers of another."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2)
        for name, length in lengths.items():
            setattr(self, name, nn.ModuleList(nn.Linear(1, 1) for _ in range(length)))


def test_a_list_of_another_length_does_not_count():
    assert decoder_layers(Stack(layers=2, experts=3)) == ("layers.0", "layers.1")


def test_lists_inside_the_layers_do_not_count():
    module = Stack(layers=0)
    module.layers = nn.ModuleList(Stack(experts=2) for _ in range(2))
    assert decoder_layers(module) == ("layers.0", "layers.1")


@pytest.mark.parametrize("lengths", [{"layers": 3}, {"encoder": 2, "decoder": 2}, {"layers": 2, "layers2": 2}])
def test_no_list_or_several_are_refused(lengths):
    with pytest.raises(ValueError, match="cannot tell the decoder layers apart"):
        decoder_layers(Stack(**lengths))


def test_outputs_that_are_tuples_give_their_first_tensor():
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
            return x + 1, "cache"

    module = nn.Sequential(Pair())
    with captured(module, ("0",)) as states:
        module(torch.zeros(2))
    assert states["0"].tolist() == [1, 1]


# Of any module, and by pattern.


def test_hidden_layers_of_text_are_the_decoder_layers_and_of_others_all_weights_but_the_last():
    assert hidden_layers(tiny_llama()) == decoder_layers(tiny_llama())
    assert hidden_layers(tiny_classifier()) == ("0", "2")
    nested = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.Flatten(), nn.Linear(2, 2))
    assert hidden_layers(nested) == ("0.0", "0.1")


@pytest.mark.parametrize("module", [nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.ReLU()), nn.Linear(2, 2)])
def test_a_module_without_a_hidden_layer(module):
    with pytest.raises(UnknownLayers, match="has no hidden layer"):
        hidden_layers(module)


def test_patterns_choose_names_in_order():
    module = tiny_llama()
    assert matching_modules(module, "model.layers.*.mlp") == ("model.layers.0.mlp", "model.layers.1.mlp")
    assert matching_parameters(module, "*.down_proj.weight") == tuple(
        f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)
    )
    assert matching_parameters(module, "*") == tuple(name for name, _ in module.named_parameters())


@pytest.mark.parametrize("match", [matching_modules, matching_parameters])
@pytest.mark.parametrize("pattern", ["", "model.layers.9.*", "MODEL.*", "down_proj"])
def test_a_pattern_that_matches_nothing_is_refused_with_names_that_there_are(match, pattern):
    with pytest.raises(InputError) as caught:
        match(tiny_llama(), pattern)
    assert f"matches {pattern!r}" in caught.value.found
    assert "model" in caught.value.remedy


def test_hidden_states_of_both_kinds():
    batch = random_tokens(5).batch(slice(None))
    states = hidden_states(tiny_llama(), batch, ("model.layers.0",))["model.layers.0"]
    assert states.shape == (*batch.real.shape, 16)
    module, inputs = tiny_classifier(), random_labelled(5).batch(slice(None))
    states = hidden_states(module, inputs, ("0", "2"))
    assert torch.equal(states["0"], module[0](inputs.inputs))
    assert torch.equal(states["2"], module[2](torch.relu(states["0"])))
    assert hooks(module) == 0
