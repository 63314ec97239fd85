"""Goldens of prompts: emphasis, scheduling, chunks, and token ids of the tiny and the full CLIP tokenizer.

Also writes the compact CLIP vocabulary that the host ships for checkpoints without a tokenizer.
"""

import gzip
import tempfile
from pathlib import Path

import transformers

import a1111
from common import GOLDENS, ROOT, save_json
from tokenizer import BOS, EOS, FULL_MERGES, TINY_MERGES, clip_merges, write_tokenizer

EMPHASIS = [
    *a1111.KNOWN_EMPHASIS,
    "",
    " ",
    "()",
    "[]",
    "((",
    "))",
    "a)b]c",
    "(a:1.2)",
    "(a: 1.2 )",
    "(a:+1.5)",
    "(a:-0.5)",
    "(a:.7)",
    "(a:2)",
    "(a:0)",
    "[a:1.2]",
    "(a:b)",
    "(a:b:1.3)",
    "a:1.3)",
    "(a:1.3",
    "((a:1.3)",
    "((a:1.3))",
    "(((a)))",
    "[[a]]",
    "([a])",
    "[(a)]",
    "(a [b) c]",
    "(a, [b], c:1.4), d",
    "\\(a\\)",
    "(\\(a\\):1.2)",
    "\\\\(a)",
    "a\\",
    "a \\b c",
    "\\[a\\]:1.2)",
    "a BREAK b",
    "a\nBREAK\nb",
    "aBREAK b",
    "BREAK",
    "BREAK a BREAK",
    "a BREAK BREAK b",
    "(a) BREAK [b]",
    "a, (b:1.1), (c:1.1), d",
    "1girl, (masterpiece:1.2), best quality, [lowres], :d, ^_^",
    "<lora:style:0.8> a (castle:1.25)",
    "(красное яблоко:1.3) und grüne Äpfel",
    "a (🍎:1.5) and [🌈]",
    "(a (b (c (d (e (f:1.1))))))",
    "(a:1.1)(b:1.1)",
    "photo of a (cat:1.3), in the [style of (van gogh:0.8)]",
    "a: b: c",
    "(:1.5)",
    "(a :1.5)",
    "line one\n(line two:1.2)\r\nline three",
    "tab\t(tab\t:1.2)",
    "[a|b]",
    "(half open [both",
    "x" * 300 + " (y:1.2)",
]

SCHEDULES = [
    *((p, 10) for p in a1111.KNOWN_SCHEDULES),
    ("a [b::3] c", 10),
    ("a [b::0.5] c", 20),
    ("[a:b:0]", 10),
    ("[a:b:0.0]", 10),
    ("[a:b:1.0]", 10),
    ("[a:b:1]", 10),
    ("[a:b:25]", 10),
    ("[a:b:0.33]", 20),
    ("[a:b:0.99]", 7),
    ("[a:b]", 10),
    ("[a]", 10),
    ("[a|b|c] d", 7),
    ("[a|b] [c:d:3]", 5),
    ("[[a|b]:c:2]", 5),
    ("[a|[b:c:2]]", 5),
    ("([a:b:0.5]:1.3)", 10),
    ("[(a:1.2):(b:0.8):0.5]", 10),
    ("\\[a:b:0.5\\]", 10),
    ("[a:b:0.5] \\(c\\)", 10),
    ("a [b:c:.25] d [e:f:0.75] g", 20),
    ("[a:b:0.5", 10),
    ("a:b:0.5]", 10),
    ("[red:blue:0.5] apple, [cat|dog]", 4),
    ("[a:b:-1]", 10),
    ("[ a : b : 0.5 ]", 10),
    ("[a::]", 10),
    ("[|a]b", 4),
]

TEXTS = [
    "",
    "a",
    "a photo of a cat",
    "A Photo Of A CAT",
    "  spaces   and\ttabs\nand newlines  ",
    "red apple, green apple; blue-ish apple!",
    "it's we're I'll they've he'd can't I'm",
    "IT'S WE'RE",
    "1girl 2boys 100 3.14 1,000,000",
    "2024-05-01",
    "!!!",
    "a!b",
    "...",
    "a...b",
    "@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "snake_case_word CamelCase kebab-case",
    "naïve café déjà vu",
    "cafe\u0301",
    "Größe straße ẞ",
    "İstanbul ıŞĞ",
    "привет мир",
    "γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "你好,世界",
    "こんにちは世界 カタカナ",
    "안녕하세요",
    "🍎",
    "🍎🍏🍐",
    "👨‍👩‍👧‍👦 family",
    "🏳️‍🌈 flag 🇩🇪",
    "a🍎b",
    "½ ² ³ ① Ⅳ",
    "ﬁne ligature",
    "ＦＵＬＬ ｗｉｄｔｈ",
    "zero\u200bwidth\u200djoiner",
    "no\u00a0break space",
    "\u3000ideographic space",
    "soft\u00adhyphen",
    "\u202eright to left\u202c",
    "combining a\u0308\u0301\u0327",
    "control\u0007bell",
    "nul\u0000byte",
    "private \ue000 use",
    "𝕞𝕒𝕥𝕙 𝔣𝔯𝔞𝔨𝔱𝔲𝔯",
    "\U0010ffff",
    "<|startoftext|>",
    "<|endoftext|> after",
    "a <|endoftext|> b",
    "<|STARTOFTEXT|>",
    "embedding:style",
    "<lora:name:0.8>",
    "https://example.org/a?b=c&d=%20",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "word " * 80,
    "a, " * 60,
    "x" * 400,
    "masterpiece, best quality, ultra-detailed, 8k, trending on artstation, by greg rutkowski and alphonse mucha",
    "ªº µ ſ",
    "ǅ ǆ Ǆ",
    "e\u0301\u0301 \u1e9b\u0323",
]

LONG = "a red apple, a green car, a tiny blue house on the hill with a fence and many trees, "
CHUNKS = [
    "",
    "a red apple",
    "a (red:1.3) apple, [small] house",
    "apple BREAK house",
    "BREAK",
    "apple BREAK",
    LONG * 3,
    "the " * 75,
    "the " * 76,
    "the " * 74 + ",",
    "the " * 75 + ",",
    "the " * 60 + ", " + "house " * 30,
    "the " * 50 + ", " + "house " * 40,
    "the " * 55 + ", " + "a " * 19 + "car car car",
    "the " * 54 + ", " + "a " * 20 + "car car car",
    "the " * 53 + ", " + "a " * 21 + "car car car",
    f"({LONG}:1.2) {LONG}",
    LONG + " BREAK " + LONG * 2,
    "a, " * 90,
]

NOTICE = """merges.txt.gz holds the byte-pair merges of OpenAI's CLIP: the first 48,894 of bpe_simple_vocab_16e6.txt, as
published with CLIP and with open_clip, one "left right" pair a line. It was taken from open_clip_torch.

The vocabulary follows from them. Its tokens, in the order of their ids, are: the 256 bytes in the order
0x21-0x7E, 0xA1-0xAC, 0xAE-0xFF, then the others rising (the first three ranges stand for themselves as
characters, the others for U+0100 and up); the same 256 with "</w>" behind them; each merge with its two halves
joined; <|startoftext|> (49406); <|endoftext|> (49407).

MIT License

Copyright (c) 2021 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def _tokenizer(merges):
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), merges=merges)
        return transformers.CLIPTokenizer.from_pretrained(folder)


def _ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def write_vocabulary():
    """Makes `host/models/assets/clip/`: the merges, from which the whole vocabulary follows."""
    folder = ROOT / "host" / "models" / "assets" / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(clip_merges(FULL_MERGES)) + "\n"
    (folder / "merges.txt.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    (folder / "NOTICE").write_text(NOTICE)


def write():
    """Makes `goldens/prompts.json`."""
    for prompt, result in a1111.KNOWN_EMPHASIS.items():
        assert a1111.emphasis(prompt) == result, prompt
    for prompt, result in a1111.KNOWN_SCHEDULES.items():
        assert a1111.schedule(prompt, 10) == result, prompt
    tiny, full = _tokenizer(clip_merges(TINY_MERGES)), _tokenizer(clip_merges(FULL_MERGES))
    assert _ids(full, "a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert full.convert_tokens_to_ids([BOS, EOS]) == [49406, 49407]

    def chunks(tokenizer, prompt):
        start, end, comma = tokenizer.convert_tokens_to_ids([BOS, EOS, ",</w>"])
        return a1111.chunks(prompt, lambda text: _ids(tokenizer, text), start, end, end, comma)

    save_json(
        GOLDENS / "prompts.json",
        {
            "emphasis": [{"prompt": p, "parts": a1111.emphasis(p)} for p in EMPHASIS],
            "schedules": [{"prompt": p, "steps": n, "until": a1111.schedule(p, n)} for p, n in SCHEDULES],
            "tokens": [{"text": t, "tiny": _ids(tiny, t), "full": _ids(full, t)} for t in TEXTS],
            "chunks": [{"prompt": p, "tiny": chunks(tiny, p), "full": chunks(full, p)} for p in CHUNKS],
        },
        indent=None,
    )
