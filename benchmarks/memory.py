"""Memory over a run: resident set after each of thirty trials."""

from __future__ import annotations

import statistics

import psutil
import torch

from benchmarks.claims import Claim, Measured
from redteam.attacks.retrain import Retrain
from redteam.setting import open_setting
from redteam.target import Target
from redteam.testbeds.facts import Facts
from redteam.trial import TrialSpec, run_trial

TRIALS, WARM_UP = 30, 5


def measure() -> Measured:
    """Runs thirty trials in this process and compares the last five with the first five after a warm-up."""
    world = Facts()
    capability = world.capability(0)
    training, about = world.training(capability)
    forgotten = {item.group for item in capability.forget}
    module = training.fit(training.data.take(torch.tensor([group not in forgotten for group in about])), seed=0)
    target = Target(name="facts", sha256="", module=module, tokenizer=world.tokenizer(), stored_dtype="float32")
    setting, attack = open_setting(target, capability), Retrain()
    recipes = attack.recipes(target.info, len(setting.answers))
    process, resident = psutil.Process(), []
    for number in range(TRIALS + WARM_UP):
        params = recipes[number % len(recipes)]
        run_trial(setting, attack, TrialSpec(key=f"bench/{number}", attack=attack.name, params=params, seed=number))
        resident.append(process.memory_info().rss / 2**20)
    first, last = statistics.median(resident[WARM_UP : WARM_UP + 5]), statistics.median(resident[-5:])
    return Measured(
        title="Memory: resident MiB over trials",
        claims=[Claim(name="growth over 30 trials", measured=last / first - 1, must="<=", limit=0.02)],
        rows=[{"after the first trials": first, "after the last": last, "peak": max(resident)}],
        setting={"trials": TRIALS},
    )
