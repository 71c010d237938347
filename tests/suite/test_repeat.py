"""A model that says something else when it is asked again, and one that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_classifiers import tiny_classifier_target, tiny_mlp, tiny_points, trained_mlp
from tiny_models import tiny_capability, tiny_target
from torch import Tensor, nn

from redteam.setting import open_setting
from redteam.suite.repeat import share_unsteady
from redteam.target import Target


class Dropping(nn.Module):
    """Drops out units in evaluation too, as a model does whose author called `functional.dropout` plainly."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = trained_mlp(tiny_points(), forget=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(torch.nn.functional.dropout(inputs, 0.5, training=True))


def classifier(module: nn.Module) -> Target:
    return replace(tiny_classifier_target(), module=module)


def normalised() -> nn.Module:
    """A classifier that normalises each batch by its own statistics."""
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(6, track_running_stats=False), trained_mlp(tiny_points(), forget=True)
    )


@pytest.mark.parametrize("target", [tiny_target, tiny_classifier_target], ids=["language", "classifier"])
def test_what_depends_on_the_item_alone_is_steady(target) -> None:
    capability = tiny_capability() if target is tiny_target else tiny_points()
    assert share_unsteady(open_setting(target(), capability)) == 0.0


def test_chance_shows() -> None:
    torch.manual_seed(0)
    assert share_unsteady(open_setting(classifier(Dropping()), tiny_points())) > 0.9


def test_the_company_in_a_batch_shows() -> None:
    assert share_unsteady(open_setting(classifier(normalised()), tiny_points())) > 0.9


def test_dropout_that_goes_on_in_a_language_model_shows() -> None:
    torch.manual_seed(0)
    target = tiny_target()
    head = target.module.get_output_embeddings()
    head.register_forward_pre_hook(lambda _module, given: (torch.nn.functional.dropout(given[0], 0.5, training=True),))
    assert share_unsteady(open_setting(target, tiny_capability())) > 0.9


def test_what_is_finite_by_luck_is_not_steady() -> None:
    class Rare(nn.Module):
        """Fails in small batches."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_mlp()

        def forward(self, inputs: Tensor) -> Tensor:
            logits = self.inner(inputs)
            return logits * torch.nan if len(inputs) < 10 else logits

    assert share_unsteady(open_setting(classifier(Rare()), tiny_points())) == 1.0
