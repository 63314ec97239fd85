"""Builds the model's tokenizer: CLIP's byte pair encoding cut to its first merges.

    python build_tokenizer.py OUT_FOLDER [--merges 7678]

The merges come from the file that open_clip ships (`bpe_simple_vocab_16e6.txt.gz`, MIT, OpenAI). 7,678 merges give a
vocabulary of 512 + 7678 + 2 = 8192 ids, enough for common English words and an eighth of CLIP's embedding table.
"""

import argparse
import gzip
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
CONTEXT = 77
# CLIP's word pattern.
WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order of ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in printable]
    hidden = [byte for byte in range(256) if byte not in printable]
    return symbols + [chr(256 + i) for i in range(len(hidden))]


def read_merges(count: int) -> list[tuple[str, str]]:
    import open_clip

    source = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(source.read_bytes()).decode().split("\n")
    return [tuple(line.split()) for line in lines[1 : count + 1]]


def build(merges: list[tuple[str, str]]) -> tuple[dict[str, int], Tokenizer]:
    symbols = byte_symbols()
    pieces = symbols + [s + "</w>" for s in symbols] + ["".join(merge) for merge in merges] + [BOS, EOS]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        raise SystemExit("the merges make the same piece twice")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=EOS,
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOS, vocabulary[EOS]), (BOS, vocabulary[BOS]), trim_offsets=False, add_prefix_space=False
    )
    return vocabulary, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--merges", type=int, default=7678)
    options = parser.parse_args()
    merges = read_merges(options.merges)
    vocabulary, tokenizer = build(merges)

    options.out.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    settings = {
        "add_prefix_space": False,
        **special,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": CONTEXT,
        "tokenizer_class": "CLIPTokenizer",
    }
    merge_lines = "\n".join(" ".join(merge) for merge in merges)
    (options.out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (options.out / "merges.txt").write_text(f"#version: 0.2\n{merge_lines}\n", encoding="utf-8")
    (options.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (options.out / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    tokenizer.save(str(options.out / "tokenizer.json"))
    print(f"{len(vocabulary)} ids in {options.out}")


if __name__ == "__main__":
    main()
