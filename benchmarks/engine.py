"""The training loop against a bare PyTorch loop that takes the same steps, and what a trial costs beside them."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from benchmarks.claims import Claim, Measured
from redteam.attacks.retrain import Retrain
from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability
from redteam.engine.batches import IGNORED, TokenSet, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.setting import open_setting
from redteam.target import Target
from redteam.testbeds.facts import Facts
from redteam.testbeds.scratch import Recipe, llama_training
from redteam.trial import TrialSpec, run_trial

STEPS, BATCH, RATE, REPEATS = 60, 64, 3e-4, 11


def measure() -> Measured:
    """Times both loops in turn, and every recipe of the retraining attack as a trial."""
    world = Facts()
    capability, tokenizer = world.capability(0), world.tokenizer()
    data = encode_answers(tokenizer, capability.retain)
    shape = Recipe(hidden_size=128, layers=2, steps=1, batch_size=8, learning_rate=1e-3)
    module = llama_training(data, tokenizer, shape).fit(data, seed=0)
    ours, bare = zip(*((_ours(module, data), _bare(module, data)) for _ in range(REPEATS)), strict=True)
    target = Target(name="facts", sha256="", module=module, tokenizer=tokenizer, stored_dtype="float32")
    shares = _overheads(target, capability)
    return Measured(
        title="The engine: seconds, and shares of a trial",
        claims=[
            Claim(
                name="speed of the shared loop over a bare PyTorch loop",
                measured=statistics.median(b / o for o, b in zip(ours, bare, strict=True)),
                must=">=",
                limit=0.95,
            ),
            Claim(
                name="share of a trial outside training and scoring, worst recipe",
                measured=max(shares),
                must="<=",
                limit=0.05,
            ),
        ],
        rows=[{"shared loop": statistics.median(ours), "bare loop": statistics.median(bare), "trial shares": shares}],
        setting={"steps": STEPS, "batch": BATCH, "repeats": REPEATS, "threads": torch.get_num_threads()},
    )


def _ours(module: nn.Module, data: TokenSet) -> float:
    tuning = Tuning(learning_rate=RATE, schedule="cosine", steps=STEPS, clip=1.0)
    started = time.perf_counter()
    train(module, shuffled_batches(data, BATCH, seeded(0)), tuning)
    return time.perf_counter() - started


def _bare(module: nn.Module, data: TokenSet) -> float:
    """Does the same, as one would write it by hand."""
    started = time.perf_counter()
    module.train()
    order = torch.randperm(len(data), generator=seeded(0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    losses, batches = [], len(order) // BATCH
    for step in range(STEPS):
        rows = order[step % batches * BATCH :][:BATCH]
        length = int(data.lengths[rows].max())
        ids, labels = data.input_ids[rows, :length], data.labels[rows, :length]
        mask = (torch.arange(length) < data.lengths[rows][:, None]).long()
        logits = module(input_ids=ids, attention_mask=None if bool(mask.all()) else mask, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    module.eval()
    return time.perf_counter() - started


def _overheads(target: Target, capability: Capability) -> list[float]:
    """Returns for each recipe the median share of its trial that is neither training nor scoring."""
    setting, attack = open_setting(target, capability), Retrain()
    shares = []
    for number, params in enumerate(attack.recipes(target.info, len(setting.answers))):
        spec = TrialSpec(key=f"bench/{number}", attack=attack.name, params=params, seed=number)
        seconds = [run_trial(setting, attack, spec).seconds for _ in range(3)]
        shares.append(statistics.median((s["total"] - s["training"] - s["scoring"]) / s["total"] for s in seconds))
    return shares
