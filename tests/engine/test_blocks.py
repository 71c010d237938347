from __future__ import annotations

import copy

import pytest
import torch
from tiny_blocks import outputs, tiny_gpt2, tiny_neox
from tiny_models import same_bits, tiny_llama, weights_of
from tiny_tasks import tiny_classifier
from torch import nn
from transformers import AutoModelForCausalLM

from redteam.engine.blocks import ablate, attention_blocks, expand, last_units, mlp_blocks, zero_units
from redteam.engine.routing import silenced
from redteam.engine.seeding import seeded
from redteam.errors import InputError

MODELS = {"llama": tiny_llama, "neox": tiny_neox, "gpt2": tiny_gpt2, "perceptron": tiny_classifier}
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


@every_model
def test_expanding_and_ablating_gives_the_model_back_bit_for_bit(build) -> None:
    module, before = build(), weights_of(build())
    wide = expand(module, mlp_blocks(module), 5, seeded(0))
    assert wide == mlp_blocks(module)
    assert not torch.allclose(outputs(module), outputs(build()))  # the new units say something
    assert ablate(module, wide, 5) == mlp_blocks(module) == mlp_blocks(build())
    assert same_bits(weights_of(module), before)
    assert torch.equal(outputs(module), outputs(build()))


@every_model
@pytest.mark.parametrize("count", [1, 7])
def test_cutting_units_off_equals_zeroing_and_silencing_them(build, count) -> None:
    cut, zeroed, whole = build(), build(), build()
    blocks = mlp_blocks(whole)
    ablate(cut, blocks, count)
    zero_units(zeroed, blocks, count)
    with silenced(whole, blocks, count):
        silent = outputs(whole)
    assert torch.allclose(outputs(cut), outputs(zeroed), atol=1e-5)
    assert torch.allclose(outputs(cut), silent, atol=1e-5)
    assert not torch.allclose(outputs(cut), outputs(whole), atol=1e-3)


@pytest.mark.parametrize("build", [tiny_llama, tiny_neox, tiny_gpt2])
@pytest.mark.parametrize("extra", [-6, 6])
def test_the_config_says_the_width_so_that_the_model_loads(build, extra, tmp_path) -> None:
    module = build()
    blocks = mlp_blocks(module)
    if extra > 0:
        expand(module, blocks, extra, seeded(0))
    else:
        ablate(module, blocks, -extra)
    module.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert {block.width for block in mlp_blocks(loaded)} == {24 + extra}
    assert torch.equal(outputs(loaded), outputs(module))


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_attention_heads_can_be_added_silenced_and_cut_off(heads) -> None:
    module = tiny_llama(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    before, said = weights_of(module), outputs(module)
    wide = expand(module, attention_blocks(module), 1, seeded(0))
    assert [block.width for block in wide] == [3, 3]
    assert not torch.allclose(outputs(module), said)
    with silenced(module, wide, 1):
        assert torch.allclose(outputs(module), said, atol=1e-5)
    ablate(module, wide, 1)
    assert same_bits(weights_of(module), before)
    assert torch.equal(outputs(module), said)


def test_the_last_units_are_rows_of_what_feeds_them_and_columns_of_what_reads_them() -> None:
    module = tiny_classifier()
    entries = last_units(module, mlp_blocks(module), 3)
    sums = {name: int(marked.sum()) for name, marked in entries.items()}
    # Layers 6 -> 12 -> 8 -> 4. Layer "2" reads three units in columns and feeds three in rows: 12*8 - 9*5 entries.
    assert sums == {"0.weight": 3 * 6, "0.bias": 3, "2.weight": 12 * 8 - 9 * 5, "2.bias": 3, "4.weight": 3 * 4}
    assert entries["0.weight"][-3:].all()
    assert entries["4.weight"][:, -3:].all()


def test_gpt2_stores_its_weights_the_other_way_round() -> None:
    module = tiny_gpt2()
    entries = last_units(module, mlp_blocks(module, "*.0.mlp"), 2)
    assert entries["transformer.h.0.mlp.c_fc.weight"][:, -2:].all()
    assert int(entries["transformer.h.0.mlp.c_fc.weight"].sum()) == 2 * 16
    assert entries["transformer.h.0.mlp.c_proj.weight"][-2:].all()
    assert "transformer.h.0.mlp.c_proj.bias" not in entries


def test_names_that_do_not_fit_are_said() -> None:
    with pytest.raises(InputError, match="no MLP block matches"):
        mlp_blocks(tiny_llama(), "*.9.mlp")
    with pytest.raises(InputError, match="no MLP block was found"):
        mlp_blocks(nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="cannot be cut off"):
        ablate(tiny_classifier(), mlp_blocks(tiny_classifier()), 8)


def test_frozen_weights_stay_frozen() -> None:
    module = copy.deepcopy(tiny_classifier())
    module[0].requires_grad_(False)
    ablate(module, mlp_blocks(module), 1)
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == {"0.weight", "0.bias"}
