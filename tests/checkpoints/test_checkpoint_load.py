from __future__ import annotations

import json
import math
import os
import shutil
import socket
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, GPT2LMHeadModel

from redteam.checkpoints.contents import dominant_dtype
from redteam.checkpoints.digest import description_digest, weights_digest
from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint

FORMS = ["m.pt", "m.safetensors", "m"]


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_logits_that_were_saved(saved, module, logits, form):
    target = open_target(saved(form))
    assert torch.equal(logits(target.module), logits(module))
    assert not target.module.training
    assert target.tokenizer("w3 w5 nothing")["input_ids"] == [3, 5, 30]
    assert target.stored_dtype == "float32"
    assert target.name == form
    assert target.info.parameters == sum(p.numel() for p in module.parameters())
    assert all(p.requires_grad and p.is_contiguous() for p in target.module.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_loading_leaves_the_random_state_alone(saved, form):
    path = saved(form)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    open_target(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("form", FORMS)
def test_weights_do_not_change_with_the_file(saved, logits, form):
    path = saved(form)
    target = open_target(path)
    before = logits(target.module)
    file = path / "model.safetensors" if path.is_dir() else path
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert torch.equal(logits(target.module), before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_and_recorded(tmp_path, make, tokenizer, logits, form, dtype):
    half = make(seed=1).to(dtype)
    save_checkpoint(tmp_path / form, half, tokenizer)
    target = open_target(tmp_path / form)
    assert target.stored_dtype == str(dtype).removeprefix("torch.")
    assert {p.dtype for p in target.module.parameters()} == {torch.float32}
    wide = make()  # not half.float(): that would keep rotary frequencies rounded to half precision
    wide.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    assert torch.equal(logits(target.module), logits(wide))


@pytest.mark.parametrize("form", FORMS)
def test_tied_embeddings(tmp_path, make, tokenizer, logits, form):
    tied = make(tie_word_embeddings=True)
    save_checkpoint(tmp_path / form, tied, tokenizer)
    module = open_target(tmp_path / form).module
    assert torch.equal(logits(module), logits(tied))
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_a_state_dict_with_both_names_of_a_tied_weight(described, make, logits):
    tied = make(tie_word_embeddings=True)
    change_config(described, tie_word_embeddings=True)
    torch.save(tied.state_dict(), described / "w.pt")
    module = open_target(described / "w.pt").module
    assert torch.equal(logits(module), logits(tied))
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_sharded_directory(tmp_path, module, tokenizer, logits):
    module.save_pretrained(tmp_path / "m", max_shard_size="5KB")
    tokenizer.save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    assert torch.equal(logits(open_target(tmp_path / "m").module), logits(module))


def test_a_directory_of_links_as_in_the_hub_cache(saved, tmp_path, module, logits):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in saved("m").iterdir():
        (snapshot / file.name).symlink_to(file)
    assert torch.equal(logits(open_target(snapshot).module), logits(module))


def test_a_directory_loads_as_transformers_loads_it(saved, logits):
    path = saved("m")
    theirs = AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()
    assert torch.equal(logits(open_target(path).module), logits(theirs))


def test_another_architecture(tmp_path, tokenizer, logits):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    module = GPT2LMHeadModel(config).eval()
    for form in FORMS:
        save_checkpoint(tmp_path / form, module, tokenizer)
        assert torch.equal(logits(open_target(tmp_path / form).module), logits(module))


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_state_dicts_as_trainers_write_them(described, module, logits, key, prefix):
    state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, described / "w.pt")
    assert torch.equal(logits(open_target(described / "w.pt").module), logits(module))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_config_given_as_directory_or_file(tmp_path, described, module, logits, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(module.state_dict(), path)
    else:
        save_file(module.state_dict(), path)
    for config in (described, described / "config.json"):
        assert torch.equal(logits(open_target(path, config=config).module), logits(module))


def test_no_config(tmp_path, module, refusal):
    torch.save(module.state_dict(), tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "no config.json beside it" in message
    assert "--config" in message
    assert "there is no config" in refusal(tmp_path / "w.pt", config=tmp_path / "nowhere")


def test_no_tokenizer(saved, refusal):
    folder = saved("m")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert "there is no tokenizer in" in refusal(folder)


def test_broken_tokenizer(saved, refusal):
    folder = saved("m")
    (folder / "tokenizer.json").write_text('{"model": 3}')
    assert "the tokenizer in" in refusal(folder)


def test_digest_mismatch(saved, refusal):
    path = saved("m.pt")
    digest = weights_digest(path)
    assert open_target(path, expect_sha256=digest).sha256 == digest
    message = refusal(path, expect_sha256="0" * 64)
    assert f"has digest {digest[:12]}…, the manifest says 000000000000…" in message
    assert "was changed after the manifest was written" in message
    assert "Build it again" in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(tmp_path, module, tokenizer, refusal, form, value):
    with torch.no_grad():
        module.model.layers[0].mlp.up_proj.weight[3, 2] = value
        module.model.norm.weight[0] = value
    save_checkpoint(tmp_path / form, module, tokenizer)
    message = refusal(tmp_path / form)
    assert "model.layers.0.mlp.up_proj.weight is the first, 2 of 21 tensors" in message


def write_state(folder, state, form):
    if form == "w.pt":
        torch.save(state, folder / form)
        return folder / form
    name = "model.safetensors" if form == "m" else form
    save_file(state, folder / name, metadata={"format": "pt"})
    return folder if form == "m" else folder / name


@pytest.mark.parametrize("form", ["w.pt", "w.safetensors", "m"])
def test_every_difference_from_the_config_is_named(described, module, refusal, form):
    state = dict(module.state_dict())
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"):
        del state[f"model.layers.1.{name}.weight"]
    state["lm_head.weight"] = torch.ones(32, 8)
    state["adapter.weight"] = torch.ones(2)
    message = refusal(write_state(described, state, form))
    assert "missing: model.layers.1.mlp.up_proj.weight, model.layers.1.self_attn.k_proj.weight (+1 more)" in message
    assert "unexpected: adapter.weight" in message
    assert "shape of lm_head.weight: file (32, 8), wanted (32, 16)" in message


@pytest.mark.parametrize("form", ["w.pt", "w.safetensors", "m"])
def test_one_missing_weight_is_enough(described, module, refusal, form):
    state = dict(module.state_dict())
    del state["model.norm.weight"]
    message = refusal(write_state(described, state, form))
    assert "missing: model.norm.weight." in message


def test_a_config_of_another_size(saved, refusal):
    folder = saved("m")
    change_config(folder, intermediate_size=40)
    message = refusal(folder)
    assert "shape of model.layers.0.mlp.down_proj.weight: file (16, 24), wanted (16, 40)" in message
    assert "(+4 more)" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
        ({"rope_parameters": {"auto_map": {"x": "y"}}}, "auto_map"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"transformers_weights": "other.safetensors"}, "other weight files"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"model_type": "nonesuch"}, "'nonesuch', which transformers does not know"),
        ({"model_type": None}, "which transformers does not know"),
        ({"model_type": ["llama"]}, "which transformers does not know"),
        ({"hidden_size": -16}, "not positive"),
        ({"hidden_size": "many"}, "no usable config"),
        ({"hidden_act": "nonesuch"}, "no causal language model can be built"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers"),
        ({"intermediate_size": 10**9}, "parameters, but"),
        ({"vocab_size": 10**12}, "parameters, but"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("form", ["m.safetensors", "m"])
def test_configs_that_are_refused(saved, refusal, form, change, words):
    path = saved(form)
    change_config(path if path.is_dir() else path.parent, **change)
    assert words in refusal(path)


def test_a_config_of_no_causal_language_model(tmp_path, described, module, refusal):
    torch.save(module.state_dict(), described / "w.pt")
    config = {**BertConfig(num_hidden_layers=1, hidden_size=16).to_dict(), "model_type": "albert"}
    (described / "config.json").write_text(json.dumps(config))
    assert "no causal language model" in refusal(described / "w.pt")


def test_kernels_named_in_a_config_are_ignored(saved, module, logits):
    folder = saved("m")
    change_config(folder, attn_implementation="someone/kernel", _attn_implementation="someone/kernel")
    assert torch.equal(logits(open_target(folder).module), logits(module))


@pytest.mark.parametrize("text", ["{", "[1]", "\x00", "[" * 100_000])
def test_unreadable_config(saved, refusal, text):
    folder = saved("m")
    (folder / "config.json").write_text(text)
    assert "JSON" in refusal(folder)


def test_a_tokenizer_with_code_of_its_own(saved, refusal):
    folder = saved("m")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    message = refusal(folder)
    assert "tokenizer_config.json asks for code" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(3), "one tensor"),
        ([torch.ones(3)], "holds a list"),
        ({"epoch": 3, "loss": 0.5}, "no state dict (its keys: epoch, loss)"),
        ({}, "no state dict (its keys: nothing)"),
        ({"w": torch.ones(3, dtype=torch.int64)}, "no floating-point weights"),
        ({"w": torch.ones(3), "c": torch.ones(3, dtype=torch.complex64)}, "stored as complex64"),
    ],
)
def test_archives_without_weights(described, refusal, content, words):
    torch.save(content, described / "w.pt")
    assert words in refusal(described / "w.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "redteam-checkpoint-9"}, "Upgrade redteam"),
        ({"config": "{"}, "no readable config"),
        ({"config": "[]"}, "malformed config or tokenizer"),
        ({"config": 3}, "no readable config"),
        ({"config": '{"model_type": "llama", "auto_map": {"x": "y"}}'}, "auto_map"),
        ({"tokenizer": {"../evil.json": "x"}}, "malformed config or tokenizer"),
        ({"tokenizer": {"/tmp/evil.json": "x"}}, "malformed config or tokenizer"),
        ({"tokenizer": {"tokenizer.json": b"x"}}, "malformed config or tokenizer"),
        ({"tokenizer": None}, "malformed config or tokenizer"),
        ({"tokenizer": {}}, "there is no tokenizer in"),
        ({"tokenizer": {"tokenizer.json": "{"}}, "cannot be loaded"),
    ],
    ids=repr,
)
def test_our_own_form_is_not_trusted_either(saved, tmp_path, refusal, change, words):
    path = saved("m.pt")
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    message = refusal(path)
    assert words in message
    assert "/tmp/redteam-" not in message


def test_a_self_contained_file_needs_nothing_beside_it(saved, tmp_path, module, logits):
    path = shutil.copy(saved("m.pt"), tmp_path / "alone")
    target = open_target(path)
    assert torch.equal(logits(target.module), logits(module))
    assert target.tokenizer.decode([1, 2]) == "w1 w2"


def test_nothing_is_printed(saved, described, module, refusal, capfd):
    for form in FORMS:
        open_target(saved(form))
    torch.save({"model.norm.weight": torch.ones(3), "\x1b[31m": torch.ones(3)}, described / "w.pt")
    refusal(described / "w.pt")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_dominant_dtype():
    assert dominant_dtype(Counter({"float32": 3, "bfloat16": 90})) == "bfloat16"


@pytest.mark.parametrize("form", FORMS)
def test_nothing_asks_the_network(saved, form, monkeypatch):
    asked = []

    def connect(*arguments):
        asked.append(arguments)
        raise OSError("no network in this test")

    path = saved(form)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("127.0.0.1", 9))
    asked.clear()
    open_target(path)
    assert asked == []


# Found by the fuzzer.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "qwen2", "num_hidden_layers": 10**9}, "1000000000 layers"),
        ({"num_labels": 10**9}, "1000000000 labels"),
        ({"depths": [3, 10**9]}, "1000000000 depths"),
        ({"text_config": {"num_mtp_layers": 10**9}}, "1000000000 mtp_layers"),
        ({"model_type": "diffllama", "head_dim": 10**9}, "1000000000 parameters, but"),
        ({"model_type": "x" * 9000}, "transformers does not know"),
        ({"hidden_size": -(10**3000)}, "not positive"),
        ({"hidden_size": 10**3000}, "parameters, but"),
        (
            {"model_type": "gemma3", "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": 9999}},
            "more than 1240 modules",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 1e8}},
            "parameters, but",
        ),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else None,
)
def test_configs_that_would_fill_the_memory(make, tokenizer, tmp_path, refusal, change, words):
    save_checkpoint(tmp_path / "m", make(num_hidden_layers=1), tokenizer)
    change_config(tmp_path / "m", **change)
    assert words in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    "text", ['{"a":' * 200 + "1" + "}" * 200, '{"a": [' + "[]," * 2_000_000 + "1]}", '{"a": ' + "9" * 5000 + "}"]
)
def test_configs_that_are_deep_or_of_many_small_parts(saved, refusal, text):
    folder = saved("m")
    (folder / "config.json").write_text(text)
    assert "is not readable JSON" in refusal(folder)
    torch.save({**torch.load(saved("m.pt"), weights_only=True), "config": text}, folder.parent / "m.pt")
    assert "no readable config in it" in refusal(folder.parent / "m.pt")


def change_tokenizer(folder, **changes):
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_panic_of_the_tokenizer_library_is_a_refusal(saved, refusal, capfd):
    folder = saved("m")
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    change_tokenizer(folder, model={**model, "continuing_subword_prefix": "##"})
    assert "the tokenizer in" in refusal(folder)
    assert capfd.readouterr() == ("", "")


def test_what_the_tokenizer_library_prints_is_not_shown(saved, capfd):
    file = (folder := saved("m")) / "tokenizer_config.json"
    added = {"added_tokens_decoder": {"1": {"content": "w1", "\x1b[31m": True}}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **added}))
    open_target(folder)
    assert capfd.readouterr() == ("", "")
    os.write(1, b"and afterwards it is")
    assert capfd.readouterr().out == "and afterwards it is"


def test_a_table_of_characters_that_says_it_is_large(saved, refusal):
    folder = saved("m")
    change_tokenizer(folder, normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="})
    assert "its table of characters is cut off" in refusal(folder)


def test_our_own_form_holds_text_that_can_be_written(saved, refusal):
    path = saved("m.pt")
    held = torch.load(path, weights_only=True)
    torch.save({**held, "tokenizer": {**held["tokenizer"], "added.json": "\ud800"}}, path)
    assert "malformed config or tokenizer" in refusal(path)
    torch.save({**held, "format": "redteam-checkpoint-" + "9" * 10_000}, path)
    assert "Upgrade redteam" in refusal(path)


def test_weights_that_are_converted_need_no_copy(tmp_path, make, tokenizer, logits, monkeypatch):
    monkeypatch.setattr("redteam.checkpoints.build._own_memory", lambda module: pytest.fail("copied"))
    save_checkpoint(tmp_path / "m", make().to(torch.bfloat16), tokenizer)
    target = open_target(tmp_path / "m")
    before = logits(target.module)
    file = tmp_path / "m" / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert torch.equal(logits(target.module), before)


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_another_chat_template_is_another_model(described, name):
    """The weights are asked something else; of a directory as of a config that is given with weights."""
    path = described / "model.safetensors"
    seen = {description_digest(path), description_digest(path, described / "config.json")}
    for template in ('{"chat_template": "a"}', '{"chat_template": "b"}'):
        (described / name).write_text(template)
        seen |= {description_digest(path), description_digest(path, described / "config.json")}
    assert len(seen) == 3


def test_the_chat_template_that_transformers_saves_is_in_a_file_that_counts(described, tokenizer):
    before = description_digest(described / "model.safetensors")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(described)
    assert (described / "chat_template.jinja").is_file()
    assert "chat_template" not in (described / "tokenizer_config.json").read_text()
    assert description_digest(described / "model.safetensors") != before
