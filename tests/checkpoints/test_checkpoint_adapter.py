"""Adapters as peft writes them: opened on their base they are peft's own model, and nothing in them is believed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from run_redteam import redteam
from safetensors.torch import load_file, save_file
from test_checkpoint_inspect import printed
from tiny_classifiers import tiny_mlp
from tiny_models import same_bits, tiny_capability
from transformers import GPT2Config, GPT2LMHeadModel

import redteam as package
from redteam.attacks.retrain import Retrain
from redteam.checkpoints.digest import description_digest, weights_digest
from redteam.checkpoints.identify import Kind, identify
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint
from redteam.config.request import RunRequest
from redteam.errors import InputError
from redteam.setting import open_setting
from redteam.suite.inputs import resolve_one
from redteam.trial import TrialSpec, run_trial

BASE = {"initializer_range": 0.2, "attention_bias": True}
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
KINDS = {
    "plain": {},
    "all linear": {"target_modules": "all-linear"},
    "by a pattern": {"target_modules": r".*\.(q|v)_proj"},
    "some layers": {"layers_to_transform": [1]},
    "dora": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 7},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "embeddings and head": {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embeddings and norm": {"modules_to_save": ["embed_tokens", "norm"]},
    "ranks and alphas": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"down_proj": 3},
    },
    "all biases": {"bias": "all"},
    "biases of the adapted": {"bias": "lora_only"},
    "biases of its own": {"lora_bias": True},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}


def adapted(module, moved=0.1, **settings) -> PeftModel:
    """The module with an adapter of peft, which has changed all that it may."""
    chosen = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = get_peft_model(module, LoraConfig(**chosen))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(moved * torch.randn_like(parameter))
    return model.eval()


def gpt() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


@pytest.fixture
def base(tmp_path, make, tokenizer) -> Path:
    save_checkpoint(tmp_path / "base", make(**BASE), tokenizer)
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path, make) -> Path:
    adapted(make(**BASE)).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def say(adapter, **changes):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def hold(adapter, **changes):
    """Replaces tensors by name; None takes one out."""
    file = adapter / "adapter_model.safetensors"
    state = load_file(file) | changes
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model_says_what_pefts_own_says(kind, tmp_path, make, base, logits):
    theirs, before = adapted(make(**BASE), **KINDS[kind]), weights_digest(base)
    theirs.save_pretrained(tmp_path / "adapter")
    target = open_target(tmp_path / "adapter", base=base)
    alone = make(**BASE)
    assert float((logits(theirs) - logits(alone)).abs().max()) > 1e-2  # or nothing is compared
    assert torch.allclose(logits(target.module), logits(theirs), rtol=0, atol=1e-5)
    assert target.module.state_dict().keys() == alone.state_dict().keys()
    assert type(target.module) is type(alone)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in target.module.parameters())
    assert not any(part.training for part in target.module.modules())
    assert weights_digest(base) == before


def test_what_a_target_says_of_itself(adapter, base):
    target = open_target(adapter, base=base)
    assert identify(adapter) is Kind.ADAPTER
    assert target.name == "adapter"
    assert target.sha256 == weights_digest(adapter)
    assert target.tokenizer("w3 w5 nothing")["input_ids"] == [3, 5, 30]
    assert target.info == open_target(base).info


@pytest.mark.parametrize("zipped", [True, False])
def test_adapters_that_torch_saved(zipped, adapter, base, logits):
    wanted = logits(open_target(adapter, base=base).module)
    state = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(state, adapter / "adapter_model.bin", _use_new_zipfile_serialization=zipped)
    assert torch.equal(logits(open_target(adapter, base=base).module), wanted)
    found = inspect_checkpoint(adapter)
    assert found.sha256 == weights_digest(adapter)
    assert {name: entry.shape for name, entry in found.tensors.items()} == {n: tuple(t.shape) for n, t in state.items()}


@pytest.mark.parametrize("form", ["m.pt", "m.safetensors"])
def test_every_form_of_base(form, tmp_path, make, tokenizer, adapter, base, logits):
    save_checkpoint(tmp_path / "other" / form, make(**BASE), tokenizer)
    target = open_target(adapter, base=tmp_path / "other" / form)
    assert torch.equal(logits(target.module), logits(open_target(adapter, base=base).module))


def test_the_config_given_is_that_of_the_base(tmp_path, make, adapter, base, logits):
    torch.save(make(**BASE).state_dict(), tmp_path / "weights.pt")
    target = open_target(adapter, base=tmp_path / "weights.pt", config=base)
    assert torch.equal(logits(target.module), logits(open_target(adapter, base=base).module))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("told", [True, False])
def test_layers_that_hold_their_weights_transposed(told, tmp_path, tokenizer, logits):
    module = gpt()
    save_checkpoint(tmp_path / "base", module, tokenizer)
    theirs = adapted(module, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    theirs.save_pretrained(tmp_path / "adapter")
    say(tmp_path / "adapter", fan_in_fan_out=told)
    target = open_target(tmp_path / "adapter", base=tmp_path / "base")
    assert torch.allclose(logits(target.module), logits(theirs), rtol=0, atol=1e-5)


def test_half_precision_is_widened(adapter, make, base, logits):
    state = load_file(adapter / "adapter_model.safetensors")
    hold(adapter, **{name: tensor.bfloat16() for name, tensor in state.items()})
    target = open_target(adapter, base=base)
    theirs = PeftModel.from_pretrained(make(**BASE), adapter).eval()
    assert torch.allclose(logits(target.module), logits(theirs), rtol=0, atol=1e-5)
    assert {p.dtype for p in target.module.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["saved head", "all biases", "embeddings"])
def test_an_adapter_that_has_learned_nothing_is_its_base(kind, tmp_path, make, base, logits):
    """All that it saved whole is the base's own, bit for bit."""
    adapted(make(**BASE), moved=0, **KINDS[kind]).save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(open_target(tmp_path / "adapter", base=base).module), logits(open_target(base).module))


@pytest.mark.filterwarnings("ignore")
def test_a_head_that_is_no_longer_the_embeddings(tmp_path, make, tokenizer, logits):
    tied = {**BASE, "tie_word_embeddings": True}
    save_checkpoint(tmp_path / "base", make(**tied), tokenizer)
    theirs = adapted(make(**tied), modules_to_save=["lm_head"])
    theirs.save_pretrained(tmp_path / "adapter")
    target = open_target(tmp_path / "adapter", base=tmp_path / "base")
    assert torch.allclose(logits(target.module), logits(theirs), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["embed_tokens", "lm_head"])
def test_one_matrix_that_would_have_to_be_two(part, tmp_path, make, tokenizer, refusal):
    """Where head and embeddings are one, merging into the one changes the other."""
    tied = {**BASE, "tie_word_embeddings": True}
    save_checkpoint(tmp_path / "base", make(**tied), tokenizer)
    adapted(make(**tied), target_modules=[part, "q_proj"]).save_pretrained(tmp_path / "adapter")
    assert "says something else than beside them" in refusal(tmp_path / "adapter", base=tmp_path / "base")


def test_opening_leaves_the_random_state_alone(adapter, base):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    open_target(adapter, base=base)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_do_not_change_with_the_files(adapter, base, logits):
    target = open_target(adapter, base=base)
    before = logits(target.module)
    for file in (adapter / "adapter_model.safetensors", base / "model.safetensors"):
        with file.open("r+b") as opened:
            opened.write(bytes(file.stat().st_size))
    assert torch.equal(logits(target.module), before)


def test_nothing_is_printed_and_nothing_asks_the_network(adapter, base, monkeypatch, capfd):
    asked = []
    say(adapter, base_model_name_or_path="someone/model", revision="main", rank_pattern={"nonesuch": 3})
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        open_target(adapter, base=base)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert [str(warning.message) for warning in warned] == []
    assert asked == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'"),
        ({"peft_type": ["LORA"]}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "is 'pissa'"),
        ({"init_lora_weights": "olora"}, "is 'olora'"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "sets layer_replication"),
        ({"trainable_token_indices": [1]}, "sets trainable_token_indices"),
        ({"target_parameters": ["q_proj.weight"]}, "sets target_parameters"),
        ({"nonesuch": True}, "sets nonesuch, which redteam does not know"),
        ({"n" * 10_000: 1}, "sets nnn"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern.(a+)+$"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "alpha_pattern.(a+)+$"),
        ({"rank_pattern": {"(a+)+$" * 10_000: 4}}, "rank_pattern.(a+)+$"),
        ({"rank_pattern": {"\\": 4}}, "cannot be merged"),
        ({"rank_pattern": {"q_proj": 900_000}}, "shape of"),
        ({"r": 900_000}, "shape of"),
        ({"r": 2}, "shape of"),
        ({"r": 10**12}, "r is '1000000000000'"),
        ({"r": 0}, "r is '0'"),
        ({"lora_alpha": "many"}, "lora_alpha is 'many'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is 'nan'"),
        ({"lora_alpha": 1e300}, "lora_alpha is '1e+300'"),
        ({"use_dora": True}, "missing: base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
        ({"bias": "all"}, "missing: base_model.model.model.layers.0.self_attn.k_proj.bias"),
        ({"modules_to_save": ["lm_head"]}, "missing: base_model.model.lm_head.weight"),
        ({"modules_to_save": ["model"]}, "cannot be merged"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_configs_that_are_refused(change, words, adapter, base, refusal):
    say(adapter, **change)
    assert words in refusal(adapter, base=base)


@pytest.mark.parametrize("text", ["{", "[1]", "\x00", "[" * 100_000])
def test_a_config_that_is_no_json_object(text, adapter, base, refusal):
    (adapter / "adapter_config.json").write_text(text)
    assert "JSON" in refusal(adapter, base=base)
    assert "JSON" in refusal(adapter)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({FIRST: None}, f"does not fit this base: missing: {FIRST}"),
        ({"base_model.model.model.extra.weight": torch.ones(2)}, "unexpected: base_model.model.model.extra.weight"),
        ({"base_model.model.lm_head.weight": torch.ones(32, 16)}, "unexpected: base_model.model.lm_head.weight"),
        ({FIRST.replace(".0.", ".7."): torch.ones(4, 16)}, "unexpected: base_model.model.model.layers.7"),
        ({"base_model.model.q_proj.lora_A.weight": torch.ones(4, 16)}, "unexpected: base_model.model.q_proj.lora_A"),
        ({FIRST: torch.ones(4, 8)}, f"shape of {FIRST}: file (4, 8), wanted (4, 16)"),
        ({FIRST: torch.full((4, 16), torch.nan)}, f"NaN or infinite weights: {FIRST} is the first, 1 of 8 tensors"),
        ({FIRST: torch.full((4, 16), 3e38)}, "merged into"),
        ({FIRST: torch.ones(4, 16, dtype=torch.int64)}, f"{FIRST} is stored as int64"),
        ({FIRST: torch.ones(4, 16).to(torch.float8_e4m3fn)}, f"{FIRST} is stored as float8_e4m3fn"),
    ],
    ids=[
        "missing", "extra", "a whole layer", "no such layer", "many layers by one name", "shape", "nan", "too large",
        "int", "float8",
    ],
)  # fmt: skip
def test_tensors_that_are_refused(change, words, adapter, base, refusal):
    hold(adapter, **change)
    assert words in refusal(adapter, base=base)


def test_numbers_that_cannot_be_trained(tmp_path, make, base, refusal):
    adapted(make(**BASE), modules_to_save=["norm"]).save_pretrained(tmp_path / "adapter")
    hold(tmp_path / "adapter", **{"base_model.model.model.norm.weight": torch.full((16,), 2)})
    assert "norm.weight is stored as int64" in refusal(tmp_path / "adapter", base=base)


def test_no_weights(adapter, base, refusal):
    file = adapter / "adapter_model.safetensors"
    save_file({}, file)
    assert "holds no tensors" in refusal(adapter, base=base)
    file.unlink()
    assert "no adapter_model.safetensors" in refusal(adapter, base=base)
    torch.save(torch.nn.Linear(2, 2), adapter / "adapter_model.bin")
    assert "not a state dict" in refusal(adapter, base=base)


def test_no_base(adapter, refusal):
    assert "is a PEFT adapter. Give the model it was trained on: --base PATH" in refusal(adapter)
    say(adapter, base_model_name_or_path="someone/model")
    assert "Give the model 'someone/model' it was trained on" in refusal(adapter)
    say(adapter, base_model_name_or_path="\x1b[31m\nRESISTED" * 1000)
    assert "\x1b" not in refusal(adapter)


def test_bases_of_another_kind(tmp_path, make, tokenizer, adapter, base, refusal):
    assert "is itself an adapter" in refusal(adapter, base=adapter)
    assert "there is no checkpoint" in refusal(adapter, base=tmp_path / "nowhere")
    save_checkpoint(tmp_path / "classifier.pt", tiny_mlp())
    assert "is a classifier" in refusal(adapter, base=tmp_path / "classifier.pt")
    save_checkpoint(tmp_path / "wider", make(**BASE, hidden_size=32), tokenizer)
    assert f"shape of {FIRST}: file (4, 16), wanted (4, 32)" in refusal(adapter, base=tmp_path / "wider")
    save_checkpoint(tmp_path / "flatter", make(**BASE, num_hidden_layers=1), tokenizer)
    assert "unexpected: base_model.model.model.layers.1" in refusal(adapter, base=tmp_path / "flatter")
    save_checkpoint(tmp_path / "gpt", gpt(), tokenizer)
    assert "cannot be merged into this base" in refusal(adapter, base=tmp_path / "gpt")


def test_a_function_builds_no_base(adapter, base, refusal):
    assert "--arch builds a classifier" in refusal(adapter, base=base, arch="own.py:make")


def test_another_digest(adapter, base, refusal):
    digest = weights_digest(adapter)
    assert open_target(adapter, base=base, expect_sha256=digest).sha256 == digest
    assert "was changed after the manifest was written" in refusal(adapter, base=base, expect_sha256="0" * 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"megatron_core": "megatron.evil", "megatron_config": {"hidden_size": 16}}, "sets megatron_config"),
        ({"megatron_core": "megatron.evil"}, None),
        ({"auto_mapping": {"parent_library": "megatron.evil", "base_model_class": "Evil"}}, None),
    ],
)
def test_no_module_that_a_config_names_is_imported(change, words, tmp_path, adapter, base, refusal, monkeypatch):
    (tmp_path / "megatron").mkdir()  # peft itself imports what is of that package
    (tmp_path / "megatron" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    say(adapter, **change)
    if words is None:
        open_target(adapter, base=base)
    else:
        assert words in refusal(adapter, base=base)
    assert not (tmp_path / "ran").exists()
    assert "megatron.evil" not in sys.modules


def test_digests_change_with_what_the_model_is(tmp_path, make, tokenizer, adapter, base):
    def digests() -> tuple[str, str]:
        return weights_digest(adapter), description_digest(adapter, base=base)

    seen = [digests()]
    assert digests() == seen[0]
    hold(adapter, **{FIRST: torch.ones(4, 16)})
    seen.append(digests())
    say(adapter, lora_alpha=9)
    seen.append(digests())
    save_checkpoint(base, make(seed=1, **BASE), tokenizer)
    seen.append(digests())
    weights, descriptions = zip(*seen, strict=True)
    assert [after != before for before, after in pairwise(weights)] == [True, False, False]
    assert len(set(descriptions)) == 3
    assert descriptions[0] == descriptions[1]


def test_the_digest_is_of_the_file_that_is_opened(adapter):
    """Not of other safetensors that lie beside it."""
    (adapter / "adapter_model.safetensors").rename(adapter / "other.safetensors")
    seen = set()
    for value in (0.0, 1.0):
        torch.save({FIRST: torch.full((4, 16), value)}, adapter / "adapter_model.bin")
        seen.add(weights_digest(adapter))
    assert len(seen) == 2


def test_the_base_is_given_to_adapters_alone(untrained, adapter, base, logits):
    reference = untrained.with_name("model.reference.pt")
    given = {"capability": untrained.parent / "capability.toml", "reference": reference, "budget": 1}
    inputs = resolve_one(RunRequest(target=adapter, base=base, **given))
    assert {role: model.base for role, model in inputs.models.items()} == {"target": base, "reference": None}
    wanted = logits(open_target(adapter, base=base).module)
    assert torch.equal(logits(inputs.models["target"].open().module), wanted)
    assert inputs.plan.descriptions["target"] == description_digest(adapter, base=base)
    swapped = resolve_one(RunRequest(target=reference, base=base, **given | {"reference": adapter}))
    assert {role: model.base for role, model in swapped.models.items()} == {"target": None, "reference": base}


def test_a_base_is_wanted_where_there_is_an_adapter_and_only_there(untrained, adapter, base):
    given = {"capability": untrained.parent / "capability.toml", "budget": 1}
    say(adapter, base_model_name_or_path="someone/model")
    with pytest.raises(InputError, match="'someone/model'"):
        resolve_one(RunRequest(target=adapter, **given))
    with pytest.raises(InputError, match="'someone/model'"):
        resolve_one(RunRequest(target=untrained, reference=adapter, budget=1))
    with pytest.raises(InputError, match="no model is an adapter"):
        resolve_one(RunRequest(target=untrained, base=base, budget=1))


def test_another_base_makes_another_run(tmp_path, make, tokenizer, untrained, adapter, base):
    given = {"capability": untrained.parent / "capability.toml", "budget": 1}
    save_checkpoint(tmp_path / "other", make(seed=1, **BASE), tokenizer)
    one, other = (
        resolve_one(RunRequest(target=adapter, base=place, **given)).plan for place in (base, tmp_path / "other")
    )
    assert one.target == other.target
    assert one.fingerprint != other.fingerprint


def test_from_files_to_verdict(tmp_path, untrained):
    """The model before unlearning is the base of the one after it."""
    original = untrained.with_name("model.original.pt")
    adapted(open_target(original).module).save_pretrained(tmp_path / "adapter")
    found = package.attack(
        tmp_path / "adapter",
        base=original,
        original=original,
        reference=untrained.with_name("model.reference.pt"),
        capability=untrained.parent / "capability.toml",
        attacks=["noop"],
        probes=["logit-lens"],
        budget=1,
        out=tmp_path / "run",
    )
    assert found.capabilities[0].verdict == "INCONCLUSIVE"
    plan = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert plan["target"] == weights_digest(tmp_path / "adapter")


def test_an_adapter_is_told_by_what_it_changes(adapter):
    say(adapter, base_model_name_or_path="someone/model", lora_alpha=9)
    found = inspect_checkpoint(adapter)
    assert found.form == "a PEFT adapter"
    assert found.architecture == "low-rank adapter: rank 4, alpha 9, on q_proj, v_proj"
    assert found.described_by == str(adapter / "adapter_config.json")
    assert found.sha256 == weights_digest(adapter)
    assert found.size == (adapter / "adapter_model.safetensors").stat().st_size
    assert found.elements == {"F32": sum(t.numel() for t in load_file(adapter / "adapter_model.safetensors").values())}
    assert "Give the one 'someone/model' that it was trained on: --base PATH" in [what for _, what in found.missing]
    done = redteam("inspect", adapter, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(found.as_json()))


def test_text_of_an_adapter_is_shown_as_text(adapter):
    say(adapter, base_model_name_or_path="[red]\x1b[31m\nRESISTED")
    said = printed(inspect_checkpoint(adapter))
    assert "[red]" in said
    assert "\x1b" not in said
    assert "\nRESISTED" not in said


def test_inspecting_needs_no_library_for_tensors(adapter):
    script = (
        "import sys; from pathlib import Path; from redteam.checkpoints.inspect import inspect_checkpoint;"
        "inspect_checkpoint(Path(sys.argv[1])); assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(adapter)], check=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda adapter: say(adapter, peft_type="IA3"),
        lambda adapter: say(adapter, nonesuch=1),
        lambda adapter: (adapter / "adapter_config.json").write_text("{"),
        lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b""),
        lambda adapter: (adapter / "adapter_model.safetensors").unlink(),
    ],
    ids=["kind", "key", "json", "empty", "gone"],
)
def test_what_cannot_be_opened_is_refused_in_the_same_words(spoil, adapter, base, refusal):
    spoil(adapter)
    with pytest.raises(InputError) as caught:
        inspect_checkpoint(adapter)
    assert str(caught.value) == refusal(adapter, base=base)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True])
def test_it_is_attacked_and_restored_to_the_bit(tied, tmp_path, make, tokenizer):
    """Also where the adapter took the head away from the embeddings."""
    changes = {**BASE, "tie_word_embeddings": tied}
    save_checkpoint(tmp_path / "base", make(**changes), tokenizer)
    adapted(make(**changes), modules_to_save=["lm_head"] if tied else None).save_pretrained(tmp_path / "adapter")
    setting = open_setting(open_target(tmp_path / "adapter", base=tmp_path / "base"), tiny_capability())
    before = {name: tensor.clone() for name, tensor in setting.target.module.state_dict().items()}
    params = {
        "optimizer": "adamw", "learning_rate.adamw": 1e-2, "weight_decay": 0.0, "samples": 12,
        "schedule": "constant", "steps": 6, "batch_size": 4, "loss": "answer",
    }  # fmt: skip
    result = run_trial(setting, Retrain(), TrialSpec(key="0", attack="retrain", params=params, seed=0))
    assert result.state == "complete", result.error
    assert result.losses[-1] < result.losses[0]
    assert same_bits(setting.target.module.state_dict(), before)
    merged = open_target(tmp_path / "adapter", base=tmp_path / "base").module
    assert same_bits(merged.state_dict(), before)
