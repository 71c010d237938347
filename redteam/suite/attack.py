"""`redteam.attack`: the protocol on a checkpoint or a module, from Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from torch import nn

from redteam.checkpoints.live import Live, live_model
from redteam.config.request import RunRequest, checked
from redteam.evidence.results import Results
from redteam.suite.inputs import resolve
from redteam.suite.memo import Memo
from redteam.suite.models import GIVEN
from redteam.suite.progress import Progress, Silent
from redteam.suite.several import run_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BESIDE = {  # what `redteam.attack` takes beside the fields of `RunRequest`
    "tokenizer": "Of models that read text and are given as modules.",
    "progress": "Hears how far the run is.",
    "memo": "Shared by runs of one process, so that what several of them need is done once.",
}


def _takes_request(form: type[RunRequest]) -> Callable[[Callable[..., Results]], Callable[..., Results]]:
    """Gives a function the fields of a form as its parameters, in its signature and in its docstring."""

    def taking(run: Callable[..., Results]) -> Callable[..., Results]:
        parameters = [_parameter(name, field.get_default(), field.is_required()) for name, field in fields.items()]
        parameters += [_parameter(name, None) for name in BESIDE]
        texts = {name: field.description or "" for name, field in fields.items()} | BESIDE
        told = "\n".join(_wrapped(f"{name}: {text}") for name, text in texts.items())
        before, raises, after = (run.__doc__ or "").partition("    Raises:\n")
        run.__doc__ = f"{before}    Args:\n{told}\n\n{raises}{after}"
        run.__signature__ = inspect.Signature(parameters, return_annotation=Results)  # type: ignore[attr-defined]
        return run

    fields = form.model_fields
    return taking


def _parameter(name: str, default: Any, required: bool = False) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if required else inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=inspect.Parameter.empty if required else default)


def _wrapped(text: str) -> str:
    return fill(text, 116, initial_indent=" " * 8, subsequent_indent=" " * 12)


@_takes_request(RunRequest)
def attack(
    target: Path | str | nn.Module,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
    memo: Memo | None = None,
    **asked: Any,
) -> Results:
    """Attacks a checkpoint and judges what came back. The same call resumes a run that was interrupted.

    Models can also be modules: causal language models, or classifiers. They are copied and stay as they are.

    Raises:
        InputError: something given cannot be used.
        TypeError: an argument is not known.
    """
    unknown = sorted(asked.keys() - RunRequest.model_fields.keys())
    if unknown:
        raise TypeError(f"attack() got an unexpected keyword argument {unknown[0]!r}")
    given = {"target": target, **{name: value for name, value in asked.items() if value is not None}}
    models = {role: _models(given[role], tokenizer, role) for role in GIVEN if role in given}
    return run_all(resolve(checked(given | models)), progress or Silent(), memo).results


def _models(given: Any, tokenizer: PreTrainedTokenizerBase | None, role: str) -> Any:
    if isinstance(given, list | tuple):
        return [_model(one, tokenizer, role) for one in given]
    return _model(given, tokenizer, role)


def _model(given: Any, tokenizer: PreTrainedTokenizerBase | None, role: str) -> Path | str | Live:
    return live_model(given, tokenizer, role) if isinstance(given, nn.Module) else given
