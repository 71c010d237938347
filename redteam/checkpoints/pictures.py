"""Image classifiers of transformers as the plain modules that everything here takes: images in, logits out.

They are told by their config, and built like language models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from redteam.checkpoints.untrusted import read_json
from redteam.errors import InputError

# Whose configs say all that is built, in numbers; others name backbones, or code of other packages.
KINDS = ("beit", "convnext", "convnextv2", "deit", "dinov2", "regnet", "resnet", "swin", "vit")
PROCESSOR = "preprocessor_config.json"


class ImageClassifier(nn.Module):
    """Normalises images as the model's processor would, and returns logits.

    Args:
        model: of transformers; takes `pixel_values` [n, channels, height, width] and returns an output with `logits`.
        mean: of each channel, for images in [0, 1]; None for no normalisation.
        std: likewise.
    """

    def __init__(
        self, model: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.description = {"name": str(getattr(getattr(model, "config", None), "model_type", "images"))}
        # Not among the weights: an attack that scales or rounds those must not move them.
        self.register_buffer("mean", _channels(mean), persistent=False)
        self.register_buffer("std", _channels(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, float32 [n, classes], of images [n, channels, height, width] in [0, 1]."""
        if isinstance(self.mean, Tensor) and isinstance(self.std, Tensor):
            images = (images - self.mean) / self.std
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def _channels(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(list(values), dtype=torch.float32)[:, None, None]


def refuse_other_pictures(data: Mapping[str, Any], where: str, tensors: int) -> None:
    """Refuses configs of kinds that are not known to be harmless, and of more layers than there are tensors.

    Raises:
        InputError: it is one of these.
    """
    kind = data.get("model_type")
    if kind not in KINDS:
        raise InputError(
            f"{where} is of an image classifier of model_type {str(kind)[:40]!r}",
            f"These are opened: {', '.join(KINDS)}; for others give a function that builds it, --arch FILE.py:FUNCTION",
        )
    depths = data.get("depths", data.get("num_hidden_layers", 0))
    listed = depths if isinstance(depths, list) else [depths]
    if not all(type(depth) is int and depth >= 0 for depth in listed) or sum(listed) > tensors:
        raise InputError(
            f"{where} describes {str(depths)[:40]} layers, but there are {tensors} tensors",
            "Give the config.json that belongs to these weights",
        )


def normalisation(folder: Path) -> tuple[list[float] | None, list[float] | None]:
    """Returns mean and standard deviation of each channel, as the image processor beside a config says.

    Raises:
        InputError: it says something that makes no sense.
    """
    file = folder / PROCESSOR
    if not file.is_file():
        return None, None
    data = read_json(file)
    if data.get("do_normalize") is False or not {"image_mean", "image_std"} <= data.keys():
        return None, None
    mean, std = data["image_mean"], data["image_std"]
    if not (_numbers(mean) and _numbers(std) and len(mean) == len(std) and all(value > 0 for value in std)):
        raise InputError(f"{file} has a mean or a standard deviation that makes no sense", "Correct it, or remove it")
    return [float(value) for value in mean], [float(value) for value in std]


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and 1 <= len(values) <= 64
        and all(type(value) in (int, float) and abs(value) < 1e6 for value in values)  # neither infinite nor NaN
    )
