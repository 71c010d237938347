"""Checkpoints: from bytes on disk to the model under attack, and back.

A checkpoint is identified by its content, checked before anything in it is executed or allocated, and identified for
the record by the digest of its weights.
"""

from redteam.checkpoints.digest import weights_digest
from redteam.checkpoints.load import open_target
from redteam.checkpoints.manifest import manifest_path, open_manifest, write_manifest
from redteam.checkpoints.save import save_checkpoint

__all__ = [
    "manifest_path",
    "open_manifest",
    "open_target",
    "save_checkpoint",
    "weights_digest",
    "write_manifest",
]
