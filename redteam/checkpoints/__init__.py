"""Checkpoints: from bytes on disk to the model under attack, and back.

A checkpoint is identified by its content, checked before anything in it is executed or allocated, and identified for
the record by the digest of its weights.
"""
