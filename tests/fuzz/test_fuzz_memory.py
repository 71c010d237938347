"""What a whole checkpoint takes in memory while it is opened: three times its size at most, and the fuzzer's constant.

The memory of mutants is held against the same bound. Three times is what weights in half precision take: the file,
mapped, and twice its size in float32. The constant is what opening takes whatever is opened, and what a file may claim
before its size speaks against it: modules imported on first use take up to 20 MiB, a header of tensors that hold
nothing 50 MiB (`untrusted.DENSE`), an archive of empty entries 40 MiB (`identify.MAX_TABLE`), a pickle of many objects
20 MiB (`pickles.MIN_OBJECTS`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fuzz_case import CONSTANT, SIZES
from fuzz_client import ENVIRONMENT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux does"),
]

MEASURE = """
import gc, sys
from pathlib import Path
import torch, peft
from fuzz_case import reset_peak, resident
from redteam.checkpoints.inspect import inspect_checkpoint
from redteam.checkpoints.load import open_target
from redteam.errors import InputError
torch.set_num_threads(1)
base, *paths = [Path(argument) for argument in sys.argv[1:]]
for path in paths:
    for call in (inspect_checkpoint, lambda path: open_target(path, base=base)):
        gc.collect()
        reset_peak()
        before = resident()
        try:
            call(path)
        except InputError as error:
            print(error, file=sys.stderr)
        print(resident("VmHWM") - before)
"""
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 8}


@pytest.fixture(autouse=True)
def _removed(tmp_path: Path) -> Iterator[None]:
    """The folders of earlier runs are kept, but not with files of this size."""
    yield
    shutil.rmtree(tmp_path)


def grown(*paths: Path, base: Path = Path("nowhere")) -> tuple[list[int], list[int], str]:
    """Bytes by which the memory of a new process grows when it inspects each, and when it opens it; what it says."""
    command = [sys.executable, "-c", MEASURE, str(base), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    numbers = [int(line) for line in done.stdout.split()]
    return numbers[::2], numbers[1::2], done.stderr


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def write(folder: Path, form: str, dtype: torch.dtype) -> Path:
    from fuzzed_formats import tiny, tiny_tokenizer

    from redteam.checkpoints.save import save_checkpoint

    module, tokenizer = tiny(**LARGE).to(dtype), tiny_tokenizer()
    if form in ("m.pt", "m.safetensors", "m"):
        save_checkpoint(folder / form, module, tokenizer)
        return folder / form
    place = folder / "m"
    module.config.save_pretrained(place)
    tokenizer.save_pretrained(place)
    if form == "shards":
        module.save_pretrained(place, max_shard_size="20MB")
        return place
    file = place / ("pytorch_model.bin" if form == "bin" else "m.pth")
    torch.save(module.state_dict(), file, _use_new_zipfile_serialization=form == "bin")
    return place if form == "bin" else file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["single", "half"])
@pytest.mark.parametrize("form", ["m.pt", "m.safetensors", "m", "shards", "bin", "legacy"])
def test_a_whole_checkpoint(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write(tmp_path, form, dtype)
    (inspecting,), (opening,), said = grown(path)
    size = size_of(path)
    assert said == ""
    assert size > 30 * 2**20
    assert opening > size / 2  # or nothing was measured
    assert opening <= SIZES * size + CONSTANT
    assert inspecting <= (SIZES * size if form == "legacy" else 0) + CONSTANT  # the others need no weight for that


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_a_whole_gguf_file(kind: str, tmp_path: Path) -> None:
    """Four bytes a weight however few they take in the file, which is mapped beside them."""
    from fuzzed_formats import tiny
    from gguf_files import VOCABULARY, byte_tokenizer, write_gguf

    path, module = tmp_path / "m.gguf", tiny(**LARGE, vocab_size=VOCABULARY)
    write_gguf(path, module, byte_tokenizer(), kind)
    weights = 4 * sum(parameter.numel() for parameter in module.parameters())
    (inspecting,), (opening,), said = grown(path)
    assert said == ""
    assert weights > 50 * 2**20
    assert weights < opening <= weights + size_of(path) + CONSTANT
    assert inspecting <= CONSTANT


def test_an_adapter_on_its_base(tmp_path: Path) -> None:
    from fuzzed_formats import tiny
    from peft import LoraConfig, get_peft_model

    base = write(tmp_path, "m.safetensors", torch.float32)
    adapted = get_peft_model(tiny(**LARGE), LoraConfig(r=512, target_modules=["q_proj", "up_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    (inspecting,), (opening,), said = grown(tmp_path / "adapter", base=base)
    assert said == ""
    assert opening <= SIZES * (size_of(base) + size_of(tmp_path / "adapter")) + CONSTANT
    assert inspecting <= CONSTANT


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda content: content[: len(content) // 2],
    "all but a byte": lambda content: content[:-1],
    "without a byte of its beginning": lambda content: content[:60] + content[61:],
    "twice": lambda content: content + content,
}


@pytest.mark.parametrize("form", ["m.pt", "m.safetensors", "bin", "legacy"])
def test_damaged_ones(form: str, tmp_path: Path) -> None:
    whole, paths = write(tmp_path / "whole", form, torch.float32), []
    for name, damage in DAMAGE.items():
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        path = tmp_path / name / whole.relative_to(tmp_path / "whole")
        file = path / "pytorch_model.bin" if path.is_dir() else path
        file.write_bytes(damage(file.read_bytes()))
        paths.append(path)
    inspecting, opening, _ = grown(*paths)
    for name, path, growths in zip(DAMAGE, paths, zip(inspecting, opening, strict=True), strict=True):
        assert max(growths) <= SIZES * size_of(path) + CONSTANT, name
