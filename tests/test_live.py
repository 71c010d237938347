"""Models that are in memory already: attacked like files, and left exactly as they were."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from tiny_classifiers import tiny_mlp, tiny_points
from tiny_models import same_bits, tiny_llama, weights_of, word_tokenizer
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import redteam
from redteam.capabilities.files import load_capability
from redteam.checkpoints.live import live_model
from redteam.checkpoints.load import open_target
from redteam.engine.batches import LabelledBatch
from redteam.errors import InputError
from redteam.evidence.results import Results
from redteam.suite.memo import Memo
from redteam.target import Target

QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"


@pytest.fixture(scope="module")
def trio(untrained: Path) -> dict[str, Target]:
    names = {"target": "model.pt", "original": "model.original.pt", "reference": "model.reference.pt"}
    return {role: open_target(untrained.with_name(name)) for role, name in names.items()}


def attacked(trio: dict[str, Target], out: Path, **changes: Any) -> Results:
    given = {
        "original": trio["original"].module,
        "reference": trio["reference"].module,
        "tokenizer": trio["target"].tokenizer,
    }
    how = {"budget": 2, "attacks": [QUICK], "probes": ["means"], "out": out}
    return redteam.attack(trio["target"].module, **{**given, **how, **changes})


def test_a_module_is_attacked_like_its_file(untrained: Path, trio: dict[str, Target], tmp_path: Path) -> None:
    rules = untrained.with_name("capability.toml")
    files = redteam.attack(untrained, budget=2, attacks=[QUICK], probes=["means"], out=tmp_path / "files")
    for number, capability in enumerate((rules, load_capability(rules))):
        live = attacked(trio, tmp_path / str(number), capability=capability)
        assert live.capabilities == files.capabilities
        assert (live.target.name, live.exit_code) == ("target", files.exit_code)


def test_the_module_is_returned_exactly_as_it_was_given(
    untrained: Path, trio: dict[str, Target], tmp_path: Path
) -> None:
    target = deepcopy(trio["target"].module).to(torch.bfloat16).train()
    frozen = next(target.parameters())
    frozen.requires_grad_(False)
    before, parameters = weights_of(target), list(map(id, target.parameters()))
    live = {**trio, "target": Target(name="t", sha256="", module=target, tokenizer=None, stored_dtype="bfloat16")}
    found = attacked(
        live, tmp_path / "run", tokenizer=trio["original"].tokenizer, capability=untrained.with_name("capability.toml")
    )
    assert found.capabilities[0].budget.failed == 0
    assert same_bits(weights_of(target), before)
    assert list(map(id, target.parameters())) == parameters
    assert all(part.training for part in target.modules())
    assert [p.requires_grad for p in target.parameters()] == [p is not frozen for p in target.parameters()]
    assert {p.dtype for p in target.parameters()} == {torch.bfloat16}
    assert all(p.grad is None for p in target.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in target.modules())
    assert '"stored_dtype": "bfloat16"' in (tmp_path / "run" / "events.jsonl").read_text().replace('":"', '": "')


def test_the_same_module_finds_the_same_run_and_another_another(
    untrained: Path, trio: dict[str, Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rules = untrained.with_name("capability.toml").resolve()
    changed = deepcopy(trio["target"].module)
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1
    other = {**trio, "target": Target(name="t", sha256="", module=changed, tokenizer=None, stored_dtype="float32")}
    for models in (trio, trio, other):
        attacked(models, None, capability=rules, tokenizer=trio["target"].tokenizer)  # type: ignore[arg-type]
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 2


def test_another_chat_template_is_another_model(trio: dict[str, Target]) -> None:
    described = []
    for template in (None, "{{ messages[0].content }}", "{{ messages[0].content }}!", {"default": "a", "tools": "b"}):
        tokenizer = deepcopy(trio["target"].tokenizer)
        assert tokenizer is not None
        tokenizer.chat_template = template
        described += [live_model(trio["target"].module, tokenizer, "target").description for _ in range(2)]
    assert len(set(described)) == 4


def test_tied_weights_stay_tied_in_the_copy() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(inputs))

    opened = live_model(Tied().half(), None, "target").open()
    assert opened.module.second.weight is opened.module.first.weight
    assert opened.module.first.weight.dtype == torch.float32


def test_a_classifier_has_no_tokenizer() -> None:
    module = tiny_mlp()
    opened = live_model(module, None, "target").open()
    assert opened.tokenizer is None
    assert same_bits(weights_of(opened.module), weights_of(module))
    assert opened.module is not module
    assert opened.info.kind == "classifier"


def test_an_image_classifier_of_transformers_has_no_tokenizer_either() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=3)
    module = ViTForImageClassification(config).eval()
    opened = live_model(module, None, "target").open()
    images = torch.rand(4, 1, 8, 8)
    assert (opened.info.kind, opened.tokenizer) == ("classifier", None)
    said = LabelledBatch(images, torch.zeros(4, dtype=torch.long)).logits(opened.module)
    assert torch.equal(said, module(pixel_values=images).logits)


def test_what_accelerate_has_spread_is_copied_whole_and_stays_as_it_is() -> None:
    """As `device_map="auto"` leaves a model: in a copy, accelerate's methods are still those of the model itself."""
    plain = tiny_llama()
    module = dispatch_model(deepcopy(plain).bfloat16(), {"": torch.device("cpu")}, force_hooks=True)
    before, ids = weights_of(module), torch.tensor([[1, 2, 3]])
    opened = live_model(module, word_tokenizer(), "target").open()
    inside = set(map(id, module.modules()))
    assert not inside & set(map(id, opened.module.modules()))
    with torch.no_grad():
        for parameter in opened.module.parameters():
            assert parameter.dtype == torch.float32
            parameter.zero_()
        assert opened.module(ids).logits.abs().max() == 0  # its own weights, not those of the module
        assert module(ids).logits.abs().max() > 0
    assert same_bits(weights_of(module), before)
    assert opened.module.to(torch.float64) is opened.module


def test_opening_leaves_the_random_generator() -> None:
    state = torch.get_rng_state()
    live_model(tiny_mlp(), None, "target").open()
    assert torch.equal(torch.get_rng_state(), state)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_module_that_changes_under_attack_ends_the_run() -> None:
    module = tiny_mlp()
    live = live_model(module, None, "reference")
    with torch.no_grad():
        next(module.parameters()).add_(1)
    assert "the reference was changed while it was attacked" in refusal(live.open)


class Guarded(nn.Module):
    """Answers nothing while a flag is set that no tensor shows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.closed = inner, True

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        said = self.inner(inputs)
        return said * 0 if self.closed else said


def test_a_run_is_not_that_of_a_module_that_answers_otherwise(tmp_path: Path) -> None:
    """Its weights are the same, and so is what is printed of it. Neither the run nor what is remembered is its own."""
    points, memo = tiny_points(), Memo()
    models = {role: tiny_mlp(seed) for seed, role in enumerate(("original", "reference"))}
    target = Guarded(tiny_mlp(2)).eval()
    how: dict[str, Any] = {"capability": points, "budget": 2, "attacks": [QUICK], "probes": ["means"], "memo": memo}
    closed = redteam.attack(target, out=tmp_path / "run", **models, **how)
    assert redteam.attack(target, out=tmp_path / "run", **models, **how) == closed
    target.closed = False
    told = refusal(lambda: redteam.attack(target, out=tmp_path / "run", **models, **how))
    assert "the target answers" in told
    assert "it is another model" in told
    there = redteam.attack(target, out=tmp_path / "other", **models, **how)
    alone = redteam.attack(target, out=tmp_path / "alone", **models, **how | {"memo": None})
    assert there == alone
    assert there.capabilities[0].scores["target"].before != closed.capabilities[0].scores["target"].before


def test_a_run_does_not_go_on_with_a_module_that_answers_otherwise(tmp_path: Path) -> None:
    models = {role: tiny_mlp(seed) for seed, role in enumerate(("original", "reference"))}
    target = Guarded(tiny_mlp(2)).eval()
    how: dict[str, Any] = {"capability": tiny_points(), "budget": 2, "attacks": [QUICK], "probes": ["means"]}
    out = tmp_path / "run"
    redteam.attack(target, out=out, **models, **how)
    log = out / "events.jsonl"
    log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()[:-1]))  # as if it had been killed
    target.closed = False
    assert "it is another model" in refusal(lambda: redteam.attack(target, out=out, **models, **how))


def test_a_reference_with_the_weights_of_the_target_in_another_form(tmp_path: Path) -> None:
    """Other bytes, the same weights."""
    target = tiny_mlp(0)
    models = {"original": tiny_mlp(1), "reference": deepcopy(target).double()}
    how: dict[str, Any] = {"capability": tiny_points(), "budget": 2, "attacks": [QUICK], "probes": ["means"]}
    told = refusal(lambda: redteam.attack(target, out=tmp_path / "run", **models, **how))
    assert "the reference has the weights of the target. Give a model that never had the capability" in told


class Broken(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.held = (number for number in range(3))


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Flatten(), "has no weights"),
        (nn.Linear(2, 2, device="meta"), "without memory: weight"),
        (nn.Linear(2, 2).to(torch.float8_e4m3fn), "that are float8_e4m3fn: weight"),
    ],
)
def test_what_cannot_be_attacked_is_refused(module: nn.Module, says: str) -> None:
    assert says in refusal(lambda: live_model(module, None, "target"))


def test_a_module_that_cannot_be_copied() -> None:
    assert "cannot be copied" in refusal(live_model(Broken(), None, "target").open)


def test_weights_that_are_not_finite() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.bias[0] = torch.nan
    assert "NaN or infinite weights: bias" in refusal(lambda: live_model(module, None, "target"))


def test_a_language_model_needs_its_tokenizer(trio: dict[str, Target], tmp_path: Path) -> None:
    assert "without its tokenizer" in refusal(lambda: attacked(trio, tmp_path, tokenizer=None))


def test_what_was_removed_must_be_said(trio: dict[str, Target], tmp_path: Path) -> None:
    assert "what was removed from target is not known" in refusal(lambda: attacked(trio, tmp_path / "run"))


def test_a_reference_that_is_the_target(untrained: Path, trio: dict[str, Target], tmp_path: Path) -> None:
    rules = untrained.with_name("capability.toml")
    same = deepcopy(trio["target"].module)
    message = refusal(lambda: attacked(trio, tmp_path / "run", capability=rules, reference=same))
    assert "the reference is the target" in message
