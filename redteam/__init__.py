"""How easily does an unlearned capability come back? See `redteam --help`, the README and ARCHITECTURE.md.

The public names are resolved on first use, so that `import redteam` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redteam.checkpoints.load import open_target
    from redteam.errors import InputError
    from redteam.suite.attack import attack
    from redteam.testbeds.build import build_target
    from redteam.unlearning.own import unlearn

__version__ = "0.1.0"
__all__ = ["InputError", "attack", "build_target", "open_target", "unlearn"]

_HOMES = {
    "InputError": "redteam.errors",
    "attack": "redteam.suite.attack",
    "build_target": "redteam.testbeds.build",
    "open_target": "redteam.checkpoints.load",
    "unlearn": "redteam.unlearning.own",
}


def __getattr__(name: str) -> Any:
    """Resolves a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'redteam' has no attribute {name!r}")
