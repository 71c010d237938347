"""Hooks by name run in order and always go away."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from redteam.engine.hooks import hooked


def hooks_on(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


@pytest.mark.parametrize("before", [False, True])
def test_they_run_in_the_order_of_their_names_and_go_away(before: bool) -> None:
    module, ran = two_layers(), []
    hooks = {name: lambda *given, name=name: ran.append((name, len(given))) for name in ("1", "0", "")}
    with hooked(module, hooks, before=before):
        assert hooks_on(module) == 3
        module(torch.zeros(1, 2))
    seen = 2 if before else 3  # module and inputs; and the output
    assert ran == [(name, seen) for name in (("", "0", "1") if before else ("0", "1", ""))]
    assert hooks_on(module) == 0


def test_what_a_hook_returns_takes_the_place_of_the_output() -> None:
    module = two_layers()
    with hooked(module, {"1": lambda _part, _given, output: output * 0}):
        assert not module(torch.ones(1, 2)).any()
    assert module(torch.ones(1, 2)).any()


def test_they_go_away_when_the_body_raises() -> None:
    module = two_layers()
    with pytest.raises(ValueError, match="no matter"), hooked(module, {"0": lambda *_: None}):
        raise ValueError("no matter")
    assert hooks_on(module) == 0


def test_an_unknown_name_leaves_no_hook_behind() -> None:
    module = two_layers()
    with pytest.raises(AttributeError), hooked(module, {"0": lambda *_: None, "5": lambda *_: None}):
        pass
    assert hooks_on(module) == 0
