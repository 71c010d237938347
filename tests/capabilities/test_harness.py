"""Tasks of lm-evaluation-harness: items that its own code makes, and scores that its own evaluation gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny_harness import DOCS, items_of, write_docs, write_task
from tiny_models import merging_tokenizer, tiny_llama, word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from redteam.capabilities.items import Item
from redteam.capabilities.scorers.choices import encode_choices
from redteam.capabilities.scorers.contract import item_scores

LETTERS = "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nAnswer:"
# Everything that an item's texts may be made of: each is a task, and is said as the harness's own tasks say it.
TASKS: dict[str, dict[str, Any]] = {
    "letters": {"doc_to_text": LETTERS, "doc_to_choice": ["A", "B"], "description": "Questions about nature.\n\n"},
    "texts": {"doc_to_text": "Question: {{question}}\nAnswer:"},
    "named": {"doc_to_text": "question", "doc_to_target": "right"},
    "ends_in_a_space": {"doc_to_text": "{{question.strip()}} Answer: "},
    "ends_in_spaces": {"doc_to_text": "{{question.strip()}} Answer:  ", "target_delimiter": ""},
    "no_delimiter": {
        "doc_to_text": "{{question.strip()}}\nAnswer:",
        "target_delimiter": "",
        "doc_to_choice": "{{[' ' + choices[0], ' ' + choices[1]]}}",
    },
    "prefix": {"doc_to_text": "{{question.strip()}}", "gen_prefix": "So, in a word,"},
    "mutual": {"doc_to_text": "Question: {{question}}\nAnswer:", "metric_list": [{"metric": "acc_mutual_info"}]},
}
# The end of a context that is no space is the harness's to score; of ours it is the prompt's.
SHIFTED: dict[str, dict[str, Any]] = {"ends_in_a_line": {"doc_to_text": "Question: {{question.strip()}}\nAnswer:\n"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of tasks, their data local JSON lines."""
    place = tmp_path_factory.mktemp("tasks")
    write_docs(place)
    for name, config in {**TASKS, **SHIFTED}.items():
        write_task(place, name, config)
    return place


def trained_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Byte pairs over bytes, as GPT-2's are, or over words that begin with their space, as Llama's are."""
    bytewise = kind == "bytes"
    made = Tokenizer(models.BPE(unk_token=None if bytewise else "<unk>"))
    made.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False)
        if bytewise
        else pre_tokenizers.Metaspace(prepend_scheme="first")
    )
    made.decoder = decoders.ByteLevel() if bytewise else decoders.Metaspace(prepend_scheme="first")
    alphabet = pre_tokenizers.ByteLevel.alphabet() if bytewise else []
    learn = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    texts = [f"{doc['question']} Answer: {choice}\n\nSo, in a word," for doc in DOCS for choice in doc["choices"]]
    made.train_from_iterator([*texts, "A. B. C. Questions about nature."], learn)
    if not bytewise:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def model_for(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    return tiny_llama(vocab_size=max(len(tokenizer), 32), max_position_embeddings=256)


def harness_says(folder: Path, name: str, module: torch.nn.Module, tokenizer: Any) -> list[dict[str, Any]]:
    """The samples of the harness's own evaluation, one for each doc."""
    found = simple_evaluate(
        model=HFLM(pretrained=module, tokenizer=tokenizer, device="cpu", batch_size=4),
        tasks=[name],
        num_fewshot=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    return sorted(found["samples"][name], key=lambda sample: sample["doc_id"])


def likelihoods(sample: dict[str, Any], count: int) -> list[float]:
    return [float(answer[0]) for (answer,) in sample["resps"][:count]]


def redteam_says(items: Sequence[Item], module: torch.nn.Module, tokenizer: Any) -> tuple[torch.Tensor, Any]:
    encoded = encode_choices(tokenizer, items)
    return encoded.table(module), item_scores(module, encoded)


@pytest.mark.parametrize("kind", ["bytes", "words"])
@pytest.mark.parametrize("name", TASKS)
def test_likelihoods_and_scores_are_those_of_the_harness(folder: Path, name: str, kind: str) -> None:
    tokenizer = trained_tokenizer(kind)
    module, items = model_for(tokenizer), items_of(folder, name)
    samples = harness_says(folder, name, module, tokenizer)
    assert len(items) == len(samples) == len(DOCS)
    table, scores = redteam_says(items, module, tokenizer)
    for row, (item, sample) in enumerate(zip(items, samples, strict=True)):
        wanted = likelihoods(sample, len(item.choices))
        assert table[row, : len(wanted)].tolist() == pytest.approx(wanted, abs=1e-4)
        asked = [context + continuation for context, continuation in sample["arguments"][: len(wanted)]]
        assert [f"{item.prompt} {choice}" for choice in item.choices] == asked
        if "acc" in sample:
            assert scores[row] == sample["acc"]
    assert 0 < np.mean(scores) < 1


def test_the_end_of_a_line_is_scored_with_the_choice_by_the_harness_alone(folder: Path) -> None:
    """It is the same for all choices of an item, so that they compare alike."""
    tokenizer = trained_tokenizer("bytes")
    module, items = model_for(tokenizer), items_of(folder, "ends_in_a_line")
    assert {item.prompt[-8:] for item in items} == {"Answer:\n"}
    table, scores = redteam_says(items, module, tokenizer)
    for row, sample in enumerate(harness_says(folder, "ends_in_a_line", module, tokenizer)):
        count = len(items[row].choices)
        shift = torch.tensor(likelihoods(sample, count)) - table[row, :count]
        assert shift.tolist() == pytest.approx([shift[0].item()] * count, abs=1e-4)
        assert shift[0] < -0.1
        assert scores[row] == sample["acc"]


def test_a_token_across_the_boundary_is_scored_by_redteam_alone() -> None:
    """The harness counts the tokens of the context; redteam looks for where they differ from those of the whole."""
    tokenizer, module = merging_tokenizer(), tiny_llama()
    harness = HFLM(pretrained=module, tokenizer=tokenizer, device="cpu", prefix_token_id=9)
    names = tokenizer.convert_ids_to_tokens
    assert [names(part) for part in harness._encode_pair("ab", " d")] == [["a", "b"], ["d"]]
    assert [names(part) for part in harness._encode_pair("ab", " c")] == [["a", "b"], []]
    encoded = encode_choices(tokenizer, [Item(id="0", group="0", prompt="ab", choices=("d", "a"), answer=0)])
    scored = [tokens[labels >= 0] for tokens, labels in zip(encoded.rows.input_ids, encoded.rows.labels, strict=True)]
    assert [names(tokens.tolist()) for tokens in scored] == [["b ", "d"], ["b ", "a"]]


def test_a_token_that_closes_every_text_is_left_out_by_redteam_alone() -> None:
    """The harness takes it for the first of the continuation's, which is then not scored at all."""
    tokenizer, module = word_tokenizer("$A </s>"), tiny_llama()
    harness = HFLM(pretrained=module, tokenizer=tokenizer, device="cpu")
    _, scored = harness._encode_pair("w1 w2", " w3")
    assert tokenizer.convert_ids_to_tokens(scored) == ["</s>"]
    encoded = encode_choices(tokenizer, [Item(id="0", group="0", prompt="w1 w2", choices=("w3", "w4"), answer=0)])
    assert encoded.single is not None
    assert encoded.single.tolist() == [tokenizer.convert_tokens_to_ids(["w3", "w4"])]


def test_choices_that_repeat_and_tie(folder: Path, tmp_path: Path) -> None:
    """Of two equal choices the harness takes the first; redteam counts them as one."""
    docs = [
        {"question": f"Is it {n}?", "choices": ["no", "no"] + ["it is iron"] * (n % 3), "answer": 1} for n in range(9)
    ]
    kept = [doc for doc in docs if len(doc["choices"]) > 2]
    write_docs(tmp_path, kept)
    write_task(tmp_path, "again", {})
    tokenizer = trained_tokenizer("bytes")
    module, items = model_for(tokenizer), items_of(tmp_path, "again")
    assert {item.choices for item in items} == {("no", "it is iron")}
    _, scores = redteam_says(items, module, tokenizer)
    assert scores.tolist() == [1.0] * len(kept)  # a shorter text is likelier by far
    assert [sample["acc"] for sample in harness_says(tmp_path, "again", module, tokenizer)] == [0.0] * len(kept)


FOUR = {"question": "What is it, {n}?", "choices": ["a", "b {n}", "c", "d"], "answer": 2}
BUILT_IN = {
    "wmdp/wmdp_bio.yaml": FOUR,
    "mmlu/default/mmlu_college_biology.yaml": FOUR,
    "hellaswag/hellaswag.yaml": {
        **{"ind": 1, "activity_label": "Cooking {n}", "ctx_a": "A man [title] cooks.", "ctx_b": "he then"},
        **{"endings": ["eats {n}.", "sings.", "sleeps.", "leaves."], "label": "1"},
    },
    "arc/arc_easy.yaml": {
        **{"question": "What is it, {n}?", "answerKey": "B"},
        **{"choices": {"text": ["a", "b", "c {n}"], "label": ["A", "B", "C"]}},
    },
}


def filled(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {name: filled(part, number) for name, part in value.items()}
    if isinstance(value, list):
        return [filled(part, number) for part in value]
    return value.replace("{n}", str(number)) if isinstance(value, str) else value


@pytest.mark.parametrize("path", BUILT_IN)
def test_tasks_of_the_harness_itself(tmp_path: Path, path: str) -> None:
    """Its own YAML and functions as they are installed, but for where the docs come from."""
    docs = [filled(BUILT_IN[path], number) for number in range(6)]
    write_docs(tmp_path, docs)
    data = {split: str(tmp_path / "docs.jsonl") for split in ("train", "validation", "test", "dev")}
    config = {
        "include": str(Path(lm_eval.tasks.__file__).parent / path),
        "task": "local",
        "tag": [],
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data, "cache_dir": str(tmp_path / "cache")},
    }
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(config))
    tokenizer = trained_tokenizer("bytes")
    module, items = model_for(tokenizer), items_of(tmp_path, "local")
    table, scores = redteam_says(items, module, tokenizer)
    samples = harness_says(tmp_path, "local", module, tokenizer)
    assert len(items) == len(samples) == 6
    for row, (item, sample) in enumerate(zip(items, samples, strict=True)):
        wanted = likelihoods(sample, len(item.choices))
        assert table[row, : len(wanted)].tolist() == pytest.approx(wanted, abs=1e-4)
        assert scores[row] == sample["acc"]
