"""What is asked for with documents, and without: the attack on them is tried, or left out with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_models import tiny_capability, tiny_llama, word_tokenizer

from redteam.capabilities.items import Capability
from redteam.checkpoints.live import live_model
from redteam.config.request import RunRequest, checked
from redteam.errors import InputError
from redteam.suite.inputs import Inputs, resolve_one

LEFT_OUT = "it needs documents, and the capability names no corpus"
NONE = replace(tiny_capability(), corpus=())


def asked(capability: Capability, *attacks: str) -> Inputs:
    target = live_model(tiny_llama(), word_tokenizer(), "target")
    request: RunRequest = checked({"target": target, "capability": capability, "attacks": attacks, "budget": 3})
    return resolve_one(request)


def test_without_documents_it_does_not_fit() -> None:
    inputs = asked(NONE, "corpus", "retrain")
    assert inputs.skipped == {"corpus": LEFT_OUT}
    assert list(inputs.attacks) == ["retrain"]
    with pytest.raises(InputError, match=LEFT_OUT):
        asked(NONE, "corpus")


def test_with_documents_it_is_tried_and_they_are_part_of_the_plan() -> None:
    inputs = asked(tiny_capability(), "corpus", "retrain")
    assert not inputs.skipped
    assert list(inputs.attacks) == ["corpus", "retrain"]
    plans = {asked(capability, "retrain").plan.fingerprint for capability in (tiny_capability(), NONE)}
    assert len(plans) == 2


def test_documents_given_from_python_may_not_state_held_out_items_either() -> None:
    item = tiny_capability().certify[0]
    telling = replace(tiny_capability(), corpus=("w9", f"W9.\n\n{item.prompt}, {item.completion}."))
    with pytest.raises(InputError, match=r"\(document 2:[13]\)"):
        asked(telling, "retrain")
