"""Goldens of infotexts: what A1111 reads out of a text, by the regular expression and rules of its `infotext_utils.py`."""

import json
import random
import re

from common import GOLDENS, save_json

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

# As the program writes them, with what other programs and people make of them.
TEXTS = [
    "",
    " \n ",
    "just a prompt",
    "two\nlines",
    "a cat, (hat:1.2)\nNegative prompt: ugly\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768",
    "a: b, c: d",
    "a: b, c: d, e: f",
    "aa: b, cc: d, ee: f",
    "Negative prompt: only\nSteps: 20, Sampler: Euler, Seed: 1",
    "x\nNegative prompt:\nSteps: 20, Sampler: Euler, Seed: 1",
    "x\nNegative prompt: a\nNegative prompt: b\nmore\nSteps: 20, Sampler: Euler, Seed: 1",
    "\n\nx\n\n y \n\nSteps: 20, Sampler: Euler, Seed: 1",
    "x\r\nNegative prompt: y\r\nSteps: 20, Sampler: Euler, Seed: 1\r\n",
    'x\nSteps: 20, Sampler: DPM++ 2M SDE Heun Karras, Seed: 1, Lora hashes: "style: 0123, other: 4567", Version: v1.10.1',
    'x\nSteps: 20, Seed: 1, Hires upscale: 2, Hires steps: 10, Hires upscaler: Latent (bicubic antialiased), Hires prompt: "a, b\\nc"',
    "x\nSteps: 20, Seed: 1, Variation seed: 5, Variation seed strength: 0.1, Seed resize from: 512x512, Mask blur: 4",
    'x\nSteps: 20, Seed: 1, Inpaint area: Only masked, Masked area padding: 32, TI hashes: "bad: 1234", Emphasis: No norm',
    "x\nSteps: 20, Seed: 1, ControlNet 0: \"Module: canny, Model: control [d14c016b], Weight: 1.0\", Pad conds: True",
    'x\nSteps: 20, Seed: 1, Bad: "open, Next: 2',
    'x\nSteps: 20, Seed: 1, Tail: "a" b, Next: 2',
    'x\nSteps: 20, Seed: 1, Empty: , Next: 2',
    'x\nSteps: 20, Seed: 1, Quotes: "", Next: 2',
    'x\nSteps: 20, Seed: 1, One: ", Next: 2',
    'x\nSteps: 20, Seed: 1, Escapes: "\\\\ \\" \\n \\t é", Next: 2',
    'x\nSteps: 20, Seed: 1, Broken: "\\x", Next: 2',
    "x\nSteps: 20, Seed: 1, Key: a:b, Next/one: 2, So-so: 3, _under: 4, 5 digits: 6",
    "x\nSteps: 20, Seed: 1, Seed: 2, Model: first, Model: second",
    "x\nSteps: 20, Seed: 1, Größe: 3, 日本語: 4, naïve key: 5",
    "x\nSteps: 20, Seed: 1, Clip skip : 2, Trailing: 3,",
    "Steps: 20, Sampler: Euler, Seed: 1\nnot the last line",
    "a Steps: 20, b: 3, cc dd: 4",
    "x\nsteps 20 sampler: Euler, no colon, Seed: 1, Size: 64x64",
]

PIECES = ["Steps", "Size", "a", "B ", " ", ",", ", ", ":", ": ", '"', "\\", "\n", "é", "-", "/", "12", "_", "Negative prompt:", "(", "日"]


def quote(value):
    """As A1111 writes a value."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",\n:") else value


def unquote(value):
    if len(value) == 0 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def read(text):
    """Prompt, negative prompt and pairs of a text."""
    prompt, negative, in_negative = "", "", False
    *lines, last = text.strip().split("\n")
    if len(PAIR.findall(last)) < 3:
        lines.append(last)
        last = ""
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            in_negative, line = True, line[16:].strip()
        if in_negative:
            negative += ("" if negative == "" else "\n") + line
        else:
            prompt += ("" if prompt == "" else "\n") + line
    # Empty values make A1111 print an error and go on.
    pairs = {key: unquote(value) for key, value in PAIR.findall(last) if value}
    return dict(text=text, prompt=prompt, negative=negative, pairs=pairs)


def written(chance):
    """A text as A1111 writes it, of values that try to break it."""
    word = lambda n: "".join(chance.choice(PIECES[:-3] + ["x"]) for _ in range(chance.randrange(n)))  # noqa: E731
    keys = ["Model", "Lora hashes", "Hires prompt", "Mask blur", "User", "ControlNet 0", "Version"]
    pairs = ", ".join(f"{key}: {quote(word(9).strip())}" for key in keys)
    return f"{word(12)}\nNegative prompt: {word(8)}\nSteps: 20, Seed: 1, {pairs}"


def write():
    """Makes `goldens/infotexts.json`."""
    chance = random.Random(1111)
    noise = ["".join(chance.choice(PIECES) for _ in range(chance.randrange(40))) for _ in range(150)]
    tails = [f"x\nSteps: 1, Seed: 2, Size: 8x8, {text}".replace("\n\n", "\n") for text in noise[:75]]
    texts = TEXTS + noise + tails + [written(chance) for _ in range(100)]
    save_json(GOLDENS / "infotexts.json", {"texts": [read(text) for text in texts]}, indent=None)
