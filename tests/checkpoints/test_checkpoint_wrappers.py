"""State dicts as trainers write them: under a key of theirs, and under names of theirs."""

from __future__ import annotations

import pytest
import torch
from tiny_classifiers import tiny_mlp

from redteam.checkpoints.contents import named_as
from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


WRAPPERS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "DataParallel": lambda state: {"state_dict": prefixed(state, "module."), "best_acc1": torch.tensor(0.9)},
    "torch.compile": lambda state: prefixed(state, "_orig_mod."),
    "compiled and distributed": lambda state: {"model_state_dict": prefixed(state, "module._orig_mod.")},
    "Lightning": lambda state: {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(state, "model."),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_k_models": {}}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 1e-3, "name": "x"},
    },
    "Lightning, named otherwise": lambda state: {"state_dict": prefixed(state, "net.backbone.")},
}
each = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@each
@pytest.mark.parametrize("legacy", [False, True])
def test_a_language_model_is_found_in_every_wrapper(wrap, legacy, module, described, tmp_path, logits):
    path = tmp_path / "m.ckpt"
    torch.save(wrap(module.state_dict()), path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(logits(open_target(path, config=described).module), logits(module))


@each
def test_so_is_a_classifier(wrap, tmp_path):
    module = tiny_mlp()
    save_checkpoint(tmp_path / "described", module)  # its config.json says what to build
    torch.save(wrap(module.state_dict()), tmp_path / "m.ckpt")
    opened = open_target(tmp_path / "m.ckpt", config=tmp_path / "described" / "config.json").module
    for name, value in module.state_dict().items():
        assert torch.equal(opened.state_dict()[name], value)


def test_names_that_fit_stay_as_they_are():
    state = {"model.layers.0.weight": torch.zeros(1)}
    assert named_as({"model.layers.0.weight"}, state) == state
    assert named_as({"layers.0.weight"}, state).keys() == {"layers.0.weight"}
    assert named_as({"other.weight"}, state) == state
    several = {"a.w": torch.zeros(1), "b.w": torch.zeros(1)}
    assert named_as({"w"}, several) is several  # which of them is meant, nobody knows


def test_weights_of_another_model_are_still_refused(module, described, tmp_path, refusal):
    state = {name.replace("q_proj", "query"): value for name, value in module.state_dict().items()}
    torch.save({"state_dict": prefixed(state, "model.")}, tmp_path / "m.ckpt")
    message = refusal(tmp_path / "m.ckpt", config=described)
    assert "missing: model.layers.0.self_attn.q_proj.weight" in message
    assert "unexpected: model.layers.0.self_attn.query.weight" in message
