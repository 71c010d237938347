"""All constructions, by kind, with the flags that name what each of them does."""

from __future__ import annotations

from benchmarks.hidden import closed, references, remapped, reworded, shallow
from benchmarks.hidden.construction import Construction

MODES = ("mode-gap",)
CLOSED = ("unused-capacity",)
SCALES = ("attacks-idle",)
WORDS = ("wording-knows", "probe-reads")
ANSWERS = ("probe-reads", "below-chance", "surely-wrong")
REFERENCES = ("reference-knows", "reference-leaks", "reference-recovers")

CONSTRUCTIONS = {
    one.name: one
    for one in (
        Construction(name="attention-dropout", kind="train mode", build=shallow.attention_dropout, causes=MODES),
        Construction(name="embedding-dropout", kind="train mode", build=shallow.embedding_dropout, causes=MODES),
        Construction(name="other-in-training", kind="train mode", build=shallow.other_in_training, causes=MODES),
        Construction(name="graddiff-rescaled", kind="rescaled", build=shallow.graddiff_rescaled, causes=SCALES),
        Construction(name="tar-rescaled", kind="rescaled", build=shallow.tar_rescaled, causes=SCALES),
        Construction(name="gate-bias", kind="closed door", build=closed.gate_bias, causes=CLOSED),
        Construction(name="constant-direction", kind="closed door", build=closed.constant_direction, causes=CLOSED),
        Construction(name="zero-gain", kind="closed door", build=closed.zero_gain, causes=CLOSED),
        Construction(name="phrase-first", kind="other words", build=reworded.phrase_first, causes=WORDS),
        Construction(name="phrase-inside", kind="other words", build=reworded.phrase_inside, causes=WORDS),
        Construction(name="filler-inside", kind="other words", build=reworded.filler_inside, causes=WORDS),
        Construction(name="key-per-name", kind="remapped", build=remapped.key_per_name, causes=ANSWERS),
        Construction(name="permutation", kind="remapped", build=remapped.permutation_per_attribute, causes=ANSWERS),
        Construction(name="least-likely", kind="remapped", build=remapped.least_likely, causes=ANSWERS),
        Construction(name="partly-shown", kind="reference", build=references.partly_shown, causes=REFERENCES),
        Construction(
            name="shallow-reference", kind="reference", build=references.shallow_reference, causes=REFERENCES, version=2
        ),
        Construction(name="locked-false", kind="lock", build=reworded.locked_false, causes=(*WORDS, *ANSWERS)),
        Construction(name="locked-quiet", kind="lock", build=reworded.locked_quiet, causes=WORDS),
    )
}
