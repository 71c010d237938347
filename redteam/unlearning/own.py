"""Unlearning on the user's own module and data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from redteam.engine.batches import Examples, LabelledSet, TokenSet, ordered_batches
from redteam.engine.training import Progress, Training, silent
from redteam.errors import InputError
from redteam.unlearning.apply import Unlearned, apply_method
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.fitting import refuse_unfit
from redteam.unlearning.options import create_method
from redteam.unlearning.stages import FollowUp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What stands for a data set: one of ours, texts with a tokenizer, or inputs with their labels.
Data = Examples | Sequence[str] | tuple[Tensor, Tensor]
FORMS = "Give texts, or a pair of inputs and labels"


def unlearn(
    method: str,
    model: nn.Module,
    *,
    forget: Data,
    retain: Data,
    tokenizer: PreTrainedTokenizerBase | None = None,
    training: Training | None = None,
    then: FollowUp | Literal["retain"] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    **options: Any,
) -> Unlearned:
    """Applies an unlearning method to a model: any causal language model of transformers, any classifier.

    Args:
        method: a name of `redteam list methods`.
        model: stays bit for bit as it is.
        forget: what to remove. Texts (with `tokenizer`; the loss covers all of a text but its first token), a pair
            of inputs [samples, ...] and labels int64 [samples], or a `TokenSet` or `LabelledSet`.
        retain: what must stay, in the same form.
        tokenizer: for texts.
        training: how the model was trained; for methods that act throughout training.
        then: fine-tuning on the retain set after the method: "retain" for that with its defaults.
        seed: of the method.
        progress: hears how far it has come.
        options: of the method, see `redteam show METHOD`.

    Returns:
        The unlearned model, in evaluation mode, with what it cost.

    Raises:
        InputError: an unknown method or option, an empty set, sets that overlap or are of different kinds, a method
            that does not fit the model, one that diverged or changed nothing, data that the model cannot read, or
            weights of low precision.
    """
    made = create_method(method, options)
    sets = {name: _examples(name, data, tokenizer) for name, data in (("forget", forget), ("retain", retain))}
    _refuse_overlap(sets["forget"], sets["retain"])
    if training is not None and _identities(training.forget) != _identities(sets["forget"]):
        raise InputError("`training.labelled` does not mark the forget set", "Mark exactly its examples there")
    was_training = [part.training for part in model.modules()]
    model.eval()
    try:
        for name, data in sets.items():
            refuse_unfit(name, model, data)
        task = UnlearningTask(
            original=model,
            forget=sets["forget"],
            retain=sets["retain"],
            known=partial(share_right, data=sets["forget"]),
            training=training,
            seed=seed,
            progress=progress,
        )
        return apply_method(made, task, then=FollowUp() if then == "retain" else then)
    finally:
        for part, mode in zip(model.modules(), was_training, strict=True):
            part.training = mode


@torch.no_grad()
def share_right(module: nn.Module, data: Examples) -> float:
    """Returns the share of labels that a module predicts: what it still knows, where no scorer is given."""
    right = total = 0
    for batch in ordered_batches(data, 256):
        said = batch.predictions(module)
        right += int((said.logits.argmax(dim=-1) == said.labels).sum())
        total += len(said.labels)
    return right / max(1, total)


def _examples(name: str, data: Data, tokenizer: PreTrainedTokenizerBase | None) -> Examples:
    if isinstance(data, TokenSet | LabelledSet):
        examples: Examples = data
    elif isinstance(data, Sequence) and not isinstance(data, str):
        pair = [part for part in data if isinstance(part, Tensor)]
        examples = _labelled(name, *pair) if len(pair) == len(data) == 2 else _texts(name, data, tokenizer)
    else:
        raise InputError(f"the {name} set is a {type(data).__name__}", FORMS)
    if len(examples) == 0:
        raise InputError(f"the {name} set is empty", "Give at least one example")
    return examples


def _labelled(name: str, inputs: Tensor, labels: Tensor) -> LabelledSet:
    if len(inputs) != len(labels) or labels.dtype != torch.int64:
        raise InputError(
            f"the {name} set has {len(inputs)} inputs and {len(labels)} labels of {labels.dtype}",
            "Give as many int64 labels as inputs",
        )
    return LabelledSet(inputs, labels)


def _texts(name: str, given: Sequence[Any], tokenizer: PreTrainedTokenizerBase | None) -> TokenSet:
    texts = [text for text in given if isinstance(text, str)]
    other = next((type(text).__name__ for text in given if not isinstance(text, str)), None)
    if other is not None:
        raise InputError(f"the {name} set holds a {other}", FORMS)
    if not texts:
        raise InputError(f"the {name} set is empty", "Give at least one example")
    if tokenizer is None:
        raise InputError(f"the {name} set is text, and there is no tokenizer", "Give the model's tokenizer")
    tokens = [list(ids) for ids in tokenizer(texts)["input_ids"]]
    short = next((text for text, ids in zip(texts, tokens, strict=True) if len(ids) < 2), None)
    if short is not None:
        raise InputError(f"the {name} set has a text of fewer than two tokens: {short[:40]!r}", "Leave it out")
    pad = tokenizer.pad_token_id
    return TokenSet.from_sequences(tokens, [1] * len(tokens), int(pad) if pad is not None else 0)


def _refuse_overlap(forget: Examples, retain: Examples) -> None:
    if type(forget) is not type(retain):
        raise InputError("the forget and the retain set are of different kinds", "Give both in the same form")
    shared = _identities(forget) & _identities(retain)
    if shared:
        raise InputError(
            f"{len(shared)} examples are in both the forget and the retain set", "Remove them from one of the two"
        )


def _identities(data: Examples) -> set[tuple[Any, ...]]:
    if isinstance(data, LabelledSet):
        return {(row.reshape(-1).view(torch.uint8).numpy().tobytes(),) for row in data.inputs.contiguous()}
    rows = zip(data.input_ids.tolist(), data.lengths.tolist(), strict=True)
    return {tuple(ids[:length]) for ids, length in rows}
