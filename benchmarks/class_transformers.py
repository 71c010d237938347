"""Small transformers for the benchmark of classifiers: a ViT of images, and a BERT of passages of Wikipedia."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from redteam.checkpoints.texts import TextClassifier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARTICLES, PASSAGES, WORDS = 8, 420, 24  # the longest articles, passages of each, words of a passage
PAD, OTHER, START = "<pad>", "<other>", "<s>"
VOCABULARY = 1500  # the commonest words, and what is none
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


class Patches(nn.Module):
    """A vision transformer of transformers as a plain module, on images of 8 x 8 in patches of 2 x 2."""

    def __init__(self, classes: int) -> None:
        from transformers import ViTConfig, ViTForImageClassification

        super().__init__()
        config = ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=classes, **SIZES)
        self.model = ViTForImageClassification(config)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, classes] of images [n, 1, 8, 8]."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def article_reader() -> TextClassifier:
    """Returns a BERT that says which article a passage is from; its weights are drawn."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=WORDS + 1, num_labels=ARTICLES, pad_token_id=0, **SIZES
    )
    return TextClassifier(BertForSequenceClassification(config), padding=0)


def passages() -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Returns passages of the longest articles of WikiText-2, and of which article each is, int64 [passages]."""
    articles = sorted(_articles(Path(os.environ["REDTEAM_DATA"]) / "wikitext2"), key=len, reverse=True)[:ARTICLES]
    found = [
        (" ".join(words[start : start + WORDS]), label)
        for label, words in enumerate(articles)
        for start in range(0, min(len(words) - WORDS, PASSAGES * WORDS), WORDS)
    ]
    return tuple(text for text, _ in found), np.array([label for _, label in found])


def word_tokenizer(texts: tuple[str, ...]) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of whole words, with a mark before each text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(unk_token=OTHER))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(vocab_size=VOCABULARY, special_tokens=[PAD, OTHER, START], show_progress=False)
    words.train_from_iterator(texts, trainer)
    words.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, words.token_to_id(START))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=PAD, unk_token=OTHER, model_max_length=WORDS + 1)


def _articles(folder: Path) -> Iterator[list[str]]:
    """Yields the words of each article, in lower case."""
    for name in ("valid", "test"):
        text = (folder / f"{name}.txt").read_text(encoding="utf-8")
        for article in re.split(r"(?m)^ = [^=].*[^=] = *$", text)[1:]:
            yield article.lower().split()
