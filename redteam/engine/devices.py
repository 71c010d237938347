"""Where a model runs: on the processor, on an accelerator, or spread over several of one kind."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

import torch
from torch import nn

from redteam.errors import InputError

CPU = torch.device("cpu")
WORKING = 1e9  # bytes for what is computed: a batch that needs more is taken in parts, see `engine/accumulation.py`
# What a container may use, and what it uses, by the two versions of Linux's control groups.
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
SCATTERED = 1.1  # times what is needed: memory comes in pieces, and some are left over


def device_of(module: nn.Module) -> torch.device:
    """Returns where a module takes its inputs: where its first parameter is; the processor if it has none."""
    first = next(module.parameters(), None)
    return CPU if first is None else first.device


def find_device(name: str | None) -> torch.device:
    """Returns the device of a name ("cpu", "cuda", "cuda:1", "mps"); of no name the accelerator, if there is one.

    An accelerator without a number stands for all of its kind.

    Raises:
        InputError: this machine has no such device.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or CPU
    found = CPU if accelerator is None else accelerator
    count = torch.accelerator.device_count()
    here = ["cpu"] if accelerator is None else ["cpu", found.type, *(f"{found.type}:{n}" for n in range(count))]
    if name not in here:
        raise InputError(f"this machine has no device {name[:60]!r}", f"Give --device {' or '.join(here)}")
    return torch.device(name)


@contextmanager
def full_precision() -> Iterator[None]:
    """While open, accelerators compute in float32 what is float32: an attack in less precision is a weaker attack.

    By default they round what convolutions multiply to ten bits (TF32). Convolutions are also computed in one order.
    """
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(was)


def room_for(module: nn.Module, *, trained: bool) -> float:
    """Returns the bytes that a module needs where it runs.

    To be trained, four times its weights: they, their gradients and AdamW's two moments; and three times the largest
    array beside. Where the embeddings are also the output head, as in most small language models, the gradients of
    both, and their sum with that of the part of the batch before, are there at once.

    Args:
        module: in float32.
        trained: whether it is attacked, or only run.
    """
    sizes = [parameter.numel() * parameter.element_size() for parameter in module.parameters()]
    needed = 4 * sum(sizes) + 3 * max(sizes, default=0) if trained else sum(sizes)
    return SCATTERED * needed + WORKING


def placed(
    module: nn.Module, device: torch.device, *, trained: bool = True, free: Mapping[int, float] | None = None
) -> nn.Module:
    """Moves a module, in place, to where it has room: to a device, or over several if it needs more than one.

    Args:
        module: in float32, in the processor's memory.
        device: of `find_device`.
        trained: as of `room_for`.
        free: bytes of memory that each accelerator has left; by default what it says.

    Raises:
        InputError: there is too little memory.
    """
    if device.type == "cpu":
        return module
    indices = range(torch.accelerator.device_count()) if device.index is None else (device.index,)
    if free is None:
        _collect(device)  # models that were read before
        free = {index: _free(index) for index in indices}
    needed = room_for(module, trained=trained)
    roomy = max(free, key=lambda index: free[index])
    if needed <= free[roomy]:
        return module.to(torch.device(device.type, roomy))
    if len(free) == 1 or needed > sum(free.values()):
        what = "attacked" if trained else "read"
        raise InputError(
            f"to be {what} in float32 the model needs {_gigabytes(needed)}; {device.type} has"
            f" {_gigabytes(sum(free.values()))} free",
            "Give --device cpu, or a machine with more accelerators",
        )
    places = division(module, free, trained=trained)
    return spread(module, {name: torch.device(device.type, index) for name, index in places.items()})


def division(module: nn.Module, free: Mapping[int, float], *, trained: bool = True) -> dict[str, int]:
    """Returns which accelerator each part of a model goes to, whole layers one after the other.

    Args:
        module: what transformers must not divide of it is left whole.
        free: bytes of memory that each accelerator has left.
        trained: as of `room_for`.

    Raises:
        InputError: there is too little memory for a part.
    """
    from accelerate import infer_auto_device_map

    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    times = (room_for(module, trained=trained) - WORKING) / weights
    room: dict[int | str, int | str] = {index: int(max(0, size - WORKING) / times) for index, size in free.items()}
    whole = list(getattr(module, "_no_split_modules", None) or [])
    places = infer_auto_device_map(module, max_memory={**room, "cpu": 0}, no_split_module_classes=whole)
    elsewhere = [name for name, place in places.items() if place not in room]
    if elsewhere:
        raise InputError(
            f"the model cannot be divided among {len(room)} devices: there is no room left for {elsewhere[0] or 'it'}",
            "Give --device cpu, or a machine with larger accelerators",
        )
    return {name: int(place) for name, place in places.items()}


def spread(module: nn.Module, places: Mapping[str, torch.device]) -> nn.Module:
    """Puts each part of a module where it is said to go, in place; states are handed on from one device to the next."""
    from accelerate import dispatch_model

    left = getattr(module, "_skip_keys_device_placement", None)  # caches, which find their way themselves
    moved: nn.Module = dispatch_model(module, dict(places), skip_keys=left)
    return moved


def has_room(device: torch.device, needed: float) -> bool:
    """Returns whether so many bytes are left where models run.

    What was let go is collected only if they are not: that takes a quarter of a second, whatever the models' size.
    """
    if memory_left(device) >= needed:
        return True
    _collect(device)
    return memory_left(device) >= needed


def _collect(device: torch.device) -> None:
    """Returns what was let go to where it can be had from, as far as a device can."""
    gc.collect()
    if device.type != "cpu":
        with suppress(RuntimeError):
            torch.accelerator.empty_cache()


def memory_left(device: torch.device) -> float:
    """Returns the bytes that are left where models run, of all accelerators of a kind; 0 where nobody knows.

    Of the processor's memory it is what Linux says can be had without writing anything to disk, and no more than the
    control group of a container leaves.
    """
    if device.type != "cpu":
        indices = range(torch.accelerator.device_count()) if device.index is None else (device.index,)
        free = sum(map(_free, indices))
        return 0.0 if free == inf else free
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0.0
    return min([available, *map(_left_in_group, GROUPS)])


def _left_in_group(files: tuple[str, str]) -> float:
    """Returns the bytes that a control group leaves; infinity where there is none, or it sets no limit."""
    try:
        most, used = (float(Path(file).read_text(encoding="ascii")) for file in files)
    except (OSError, ValueError):  # "max" is no number
        return inf
    return most - used


def _free(index: int) -> float:
    """Returns the bytes that an accelerator has left; infinity where its kind does not say."""
    try:
        return float(torch.accelerator.get_memory_info(index)[0])
    except RuntimeError:
        return inf


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
