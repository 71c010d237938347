"""A model from a function of the user's own: `train.py:make_model`. It is code that they chose to run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from redteam.checkpoints.architecture import refuse_misfit
from redteam.checkpoints.build import Weights
from redteam.checkpoints.contents import named_as
from redteam.errors import InputError, one_line
from redteam.registry import object_in_file

COUNTER = ".num_batches_tracked"
REMEDY = "Let it take nothing and return a torch.nn.Module with the weights' names"


def build_from(place: str, weights: Weights) -> nn.Module:
    """Calls the function and puts the weights into the module that it returns.

    Args:
        place: `path/to/file.py:function`; the function takes nothing and returns a classifier: a module that takes
            inputs [n, ...] and returns logits [n, classes].
        weights: checked, not yet in a module.

    Returns:
        The module in evaluation mode with float32 weights on the CPU.

    Raises:
        InputError: there is no such function, it fails or returns something else, or the weights are not the module's.
    """
    try:
        module = object_in_file(place, "function")()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # anybody's code
        raise InputError(f"{place} fails ({one_line(f'{type(error).__name__}: {error}')[:200]})", REMEDY) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{place} returns a {type(module).__name__}", REMEDY)
    module = module.to(device="cpu", dtype=torch.float32)
    wanted = module.state_dict()
    source = named_as(wanted.keys(), weights.tensors_by_name())
    # Batch normalisation counts its batches since torch 0.4.1, for averages without momentum; older files do not.
    uncounted = {name: torch.zeros_like(wanted[name]) for name in wanted if name.endswith(COUNTER)}
    source = {**uncounted, **source}
    refuse_misfit(module, source, weights, wanted_by=place)
    module.load_state_dict(dict(source))
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module.eval()


def factory_file(place: str) -> Path:
    """Returns the file of `path/to/file.py:function`.

    Raises:
        InputError: it is not written like that, or there is no such file.
    """
    path, _, function = place.rpartition(":")
    if not path.endswith(".py") or not function.isidentifier():
        raise InputError(f"--arch {place} names no function in a file", "Write it as path/to/file.py:function")
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}", "Check the path given to --arch")
    return Path(path)
