"""Small GGUF files that would be large in memory, or take for ever; what they say is what a file may say."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mutate_gguf import Pair, Tensor, text, written

Files = dict[str, bytes]
WIDTH = 2
NAN = b"\0\0\xc0\x7f"  # so that what is read to its end is refused all the same


def gguf_bombs() -> dict[str, Files]:
    """Returns files by what they are."""
    words = [f"w{number}".encode() for number in range(66_000)]
    long = [f"{number:04}".encode() * 250 for number in range(2000)]
    longer = [*long, *(f"{number:04}".encode() * 200 for number in range(2000, 4000))]
    longest = [b"%d" % number + b"a" * 1_000_000 for number in range(8)]
    listed = [_array(f"general.list{number}", 0, 20, bytes(20)) for number in range(1400)]
    made: dict[str, bytes] = {
        "many tokens": _model(1, _words(words)),
        "many special tokens": _model(1, _words(words[:19_000], kind=3)),
        "more special tokens": _model(1, _words(words, kind=4)),
        "many tokens without merges": _model(1, _words(words, model=b"llama")),
        "long tokens without merges": _model(1, _words(long, model=b"llama")),
        "more long tokens without merges": _model(1, _words(longer, model=b"llama")),
        "the longest tokens without merges": _model(1, _words(longest, model=b"llama")),
        "many merges": _model(1, _words(words[:10_000], merges=150_000)),
        "a long template": _model(1, [*_words(words[:300]), ("tokenizer.chat_template", b"{{x}}" * 4_000_000)]),
        "many layers": _model(200, _words(words[:300])),
        "more layers": _model(1, _words(words[:300]), layers=200, more=4900),
        "a thousand layers": _model(1, _words(words[:300]), layers=1000, more=2000),
        "many keys": _model(1, [*_words(words[:300]), *listed]),
        "a long name": _model(1, [*_words(words[:300]), ("general.name", b"x" * 30_000_000)]),
        "too many values": _model(1, [*_words(words[:300]), _array("tokenizer.x", 8, 2_000_000, bytes(16_000_000))]),
        "values that are not there": _model(1, [_array("tokenizer.x", 8, 2**62, b"")]),
    }
    return {f"gguf: {title}": {"m.gguf": content} for title, content in made.items()}


Said = tuple[str, bytes] | Pair


def _array(key: str, kind: int, count: int, content: bytes) -> Pair:
    return key.encode(), 9, struct.pack("<IQ", kind, count) + content


def _words(tokens: Sequence[bytes], model: bytes = b"gpt2", kind: int = 1, merges: int = 0) -> list[Said]:
    count = len(tokens)
    return [
        ("tokenizer.ggml.model", model),
        _array("tokenizer.ggml.tokens", 8, count, b"".join(map(text, tokens))),
        _array("tokenizer.ggml.token_type", 5, count, struct.pack("<i", kind) * count),
        *([_array("tokenizer.ggml.scores", 6, count, bytes(4 * count))] if model == b"llama" else []),
        *([_array("tokenizer.ggml.merges", 8, merges, text(b"w 1") * merges)] if model == b"gpt2" else []),
    ]


def _model(blocks: int, said: Sequence[Said], layers: int | None = None, more: int = 0) -> bytes:
    """Returns a Llama of the narrowest kind."""
    vocabulary = next((_count(pair) for pair in said if pair[0] == b"tokenizer.ggml.tokens"), 4)
    sizes = {"context_length": 8, "embedding_length": WIDTH, "block_count": layers or blocks, "feed_forward_length": 2}
    sizes |= {"attention.head_count": 1, "attention.head_count_kv": 1, "rope.dimension_count": WIDTH}
    pairs: list[Said] = [("general.architecture", b"llama")]
    pairs += [(f"llama.{key}".encode(), 4, struct.pack("<I", number)) for key, number in sizes.items()]
    pairs += [(b"llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)), *said]
    shapes = {"token_embd": (WIDTH, vocabulary), "output": (WIDTH, vocabulary), "output_norm": (WIDTH,)}
    for block in range(blocks):
        shapes |= {f"blk.{block}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{block}.{name}": (WIDTH, 2) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{block}.{name}": (WIDTH, 2) for name in ("ffn_up", "ffn_gate", "ffn_down")}
    shapes |= {f"x{number}": (1,) for number in range(more)}
    table, parts, place = list[Tensor](), list[bytes](), 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        table.append(Tensor(f"{name}.weight".encode(), shape, 0, place, len(shape)))
        parts.append((NAN * (size // 4)).ljust(-(-size // 32) * 32, b"\0"))
        place += len(parts[-1])
    whole = [pair if len(pair) == 3 else (pair[0].encode(), 8, text(pair[1])) for pair in pairs]
    return written(whole, table, b"".join(parts), (3, len(table), len(whole)))


def _count(pair: Said) -> int:
    return int(struct.unpack_from("<IQ", pair[2])[1]) if len(pair) == 3 else 0
