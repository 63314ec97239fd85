"""CLIP byte-pair tokenizers: the tiny one of the fixtures, and the compact full one the host ships.

The merges are OpenAI's CLIP BPE (MIT), read from the open_clip_torch wheel.
"""

import gzip
import json
from pathlib import Path

import open_clip

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
# 512 byte symbols (with and without </w>) + merges + two specials.
TINY_MERGES = 510
FULL_MERGES = 49152 - 256 - 2
SPECIAL = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS}


def clip_merges(count):
    """The first `count` merges of the CLIP BPE, as 'left right' lines."""
    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    # Line 0 is a version comment; the file holds far more merges than CLIP uses.
    return gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 1 + count]


def byte_symbols():
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's vocabulary order."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + n) for n in range(len(rest))]


def vocabulary(merges):
    """Token to id: bytes, bytes at the end of a word, merges, start, end."""
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m.split()) for m in merges] + [BOS, EOS]
    assert len(set(tokens)) == len(tokens)
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(folder, merges=None, pad=EOS, split_pad=False):
    """Writes a tokenizer folder as published models have it: vocab.json, merges.txt and two configs.

    `pad` is what special_tokens_map.json names (OpenCLIP models pad with "!", id 0). With `split_pad`
    tokenizer_config.json still names the end token, as Stable Diffusion 2.x is published:
    the special tokens map wins.
    """
    merges = clip_merges(TINY_MERGES) if merges is None else merges
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges), ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    config = {
        **SPECIAL,
        "pad_token": EOS if split_pad else pad,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps({**SPECIAL, "pad_token": pad}, indent=2) + "\n")
