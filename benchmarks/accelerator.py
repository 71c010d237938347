"""Language models of the size that people release, attacked on an accelerator: memory, time, and what rounding costs.

Their weights are drawn: what a step costs does not depend on what a model knows.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.claims import Claim, Measured
from redteam.attacks.retrain import Retrain
from redteam.capabilities.items import Capability, Item
from redteam.engine.batches import shuffled_batches
from redteam.engine.cost import Ledger
from redteam.engine.devices import CPU, find_device, full_precision, placed, room_for
from redteam.engine.loop import fine_tune, mean_loss
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.setting import Setting, open_setting
from redteam.target import Target
from redteam.trial import TrialSpec, run_trial

WORDS, LONGEST = 128_256, 128
# Of the Llama 3.2 family, and a smaller one: hidden size, layers, intermediate size, heads, heads of keys and values.
SHAPES = {
    "0.1B": (512, 8, 1536, 8, 4),
    "1.2B": (2048, 16, 8192, 32, 8),
    "3.2B": (3072, 28, 8192, 24, 8),
}
STEPS, BATCH, TIMED = 32, 64, 5


def measure() -> Measured | str:
    """Attacks every model once in the memory that is asked for; says so where there is no accelerator."""
    place = find_device(None)
    if place == CPU:
        return "there is no accelerator"
    rows = [_row(name, place) for name in SHAPES]
    return Measured(
        title="On an accelerator: memory in units of the float32 weights, seconds",
        claims=[
            Claim(
                name="share of the attacks that end, in the memory that one asks for",
                measured=statistics.mean(row["ended"] for row in rows),
                must=">=",
                limit=1.0,
            ),
            Claim(
                name="share of a trial outside training and scoring, worst model",
                measured=max(row["trial outside"] for row in rows),
                must="<=",
                limit=0.5,
            ),
        ],
        rows=rows,
        setting={"steps": STEPS, "batch": BATCH, "device": torch.cuda.get_device_name()},
    )


def _row(name: str, place: torch.device) -> dict[str, Any]:
    """Returns what one model needs. What is asked for stands at the disposal of a trial, and no more."""
    module, tokenizer = made(*SHAPES[name]), tokenizer_of(WORDS)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    target = Target(name=name, sha256="", module=module, tokenizer=tokenizer, stored_dtype="float32")
    with full_precision(), at_most(room_for(module, trained=True)):
        placed(module, place)
        started = time.perf_counter()
        setting = open_setting(target, questions())
        opened = time.perf_counter() - started
        torch.cuda.reset_peak_memory_stats()
        params = Retrain().recipes(target.info, len(setting.answers))[0] | {"steps": STEPS, "batch_size": BATCH}
        result = run_trial(setting, Retrain(), TrialSpec(key=name, attack="retrain", params=params, seed=0))
    seconds = result.seconds
    row = {
        "model": name,
        "ended": result.state == "complete" and not result.diverged,
        "memory asked for": room_for(module, trained=True) / weights,
        "peak memory": torch.cuda.max_memory_allocated() / weights,
        "opening": opened,
        "trial": seconds["total"],
        "training": seconds["training"],
        "scoring": seconds["scoring"],
        "trial outside": 1 - (seconds["training"] + seconds["scoring"]) / seconds["total"],
        "scorings": len(result.points) - 1,
        "error": (result.error or "")[:60],
    }
    row |= _rounded(setting)
    del module, target, setting
    gc.collect()
    torch.cuda.empty_cache()
    return row


def _rounded(setting: Setting) -> dict[str, float]:
    """Returns the seconds of a training step in float32 and where products are rounded to ten and to seven bits."""
    module, batches = setting.target.module, shuffled_batches(setting.answers, BATCH, seeded(0))
    found = {}
    for name in ("float32", "tf32", "bf16"):
        setting.released.restore(module)
        with rounding(name):
            ledger = Ledger(parameters=1)
            tuning = Tuning(learning_rate=1e-5, steps=TIMED + 1)
            loss = in_bf16 if name == "bf16" else mean_loss
            times = []
            started = time.perf_counter()
            for _ in fine_tune(module, batches, tuning, ledger, loss=loss):
                torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
                started = time.perf_counter()
        found[f"step in {name}"] = statistics.median(times[1:])
    return found


def in_bf16(module: Any, batch: Any) -> torch.Tensor:
    """The loss, what is multiplied rounded to bf16; the weights and the optimizer stay float32."""
    with torch.autocast("cuda", torch.bfloat16):
        return mean_loss(module, batch)


@contextmanager
def rounding(name: str) -> Iterator[None]:
    """While open, products of float32 are rounded as named."""
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)


@contextmanager
def at_most(size: float) -> Iterator[None]:
    """While open, no more than `size` bytes of the accelerator's memory are given out."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / torch.cuda.mem_get_info()[1]))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def made(hidden: int, layers: int, intermediate: int, heads: int, shared: int) -> LlamaForCausalLM:
    """A Llama with drawn weights, in the processor's memory."""
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
    )
    with torch.device("cuda"):  # where drawing three billion numbers takes no time
        return LlamaForCausalLM(config).to("cpu").eval()


def tokenizer_of(words: int) -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = {f"w{number}": number for number in range(words - 2)} | {"<pad>": words - 2, "<unk>": words - 1}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>")


def questions() -> Capability:
    """256 questions of 40 words on which to train, 64 in each other part, four choices of 8 words each."""
    draw = torch.Generator().manual_seed(0)

    def text(length: int) -> str:
        return " ".join(f"w{number}" for number in torch.randint(0, WORDS - 2, (length,), generator=draw).tolist())

    def items(part: str, count: int) -> tuple[Item, ...]:
        return tuple(
            Item(
                id=f"{part}-{number}",
                group=f"{part}-{number}",
                prompt=text(40),
                choices=tuple(text(8) for _ in range(4)),
                answer=number % 4,
            )
            for number in range(count)
        )

    sizes = {"attack": 256, "select": 64, "certify": 64, "retain": 64, "utility": 64}
    return Capability(name="drawn", **{part: items(part, count) for part, count in sizes.items()})
