"""The training set: rendered icons, their captions, and the colour x object grid made by recolouring."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PICTURE_SIZE = 64
# Only pixels this colourful take part in recolouring; outlines, white and grey stay as they are.
MIN_SATURATION = 50
MIN_VALUE = 40
# Half width, in degrees, of the hue band around an object's main hue that is recoloured: an apple's leaf stays green.
HUE_BAND = 42


@dataclass
class Entry:
    """One picture of the set: RGB uint8 [64, 64, 3], its caption, other names for it, its group."""

    name: str
    pixels: np.ndarray
    caption: str
    aliases: list[str] = field(default_factory=list)
    tier: int = 1
    held_out: bool = False
    colour: str | None = None
    object: str | None = None


def load_picture(folder: Path, icon: str) -> np.ndarray:
    """The rendered icon at 64 px, RGB uint8; halved by area averaging when it was rendered larger."""
    picture = Image.open(folder / f"{icon}.png").convert("RGB")
    return np.asarray(picture.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BOX))


def main_hue(hue: np.ndarray, weight: np.ndarray) -> float:
    """The strongest hue in degrees: the peak of the weighted, smoothed hue histogram."""
    histogram = np.bincount(hue.astype(int) % 360, weights=weight, minlength=360)
    padded = np.concatenate([histogram[-12:], histogram, histogram[:12]])
    return float(np.convolve(padded, np.ones(25), "valid").argmax())


def recolour(pixels: np.ndarray, target: dict) -> np.ndarray:
    """Moves the main colour of a picture to `target` (hue in degrees, saturation and value in 0..1).

    Hue is rotated; saturation and value are scaled so that their medians over the recoloured pixels meet the
    target, which keeps shading and highlights.
    """
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float32)
    hue = hsv[..., 0] * 360 / 256
    saturation, value = hsv[..., 1], hsv[..., 2]
    colourful = (saturation > MIN_SATURATION) & (value > MIN_VALUE)
    main = main_hue(hue[colourful], saturation[colourful])
    distance = (hue - main + 180) % 360 - 180
    chosen = colourful & (np.abs(distance) < HUE_BAND)
    # Inner hue differences shrink, or a red-to-orange gradient would turn into green-to-yellow.
    hue[chosen] = (target["hue"] + 0.4 * distance[chosen]) % 360
    for channel, key in ((saturation, "saturation"), (value, "value")):
        median = max(1.0, float(np.median(channel[chosen])))
        channel[chosen] = np.clip(channel[chosen] * (target[key] * 255 / median), 0, 255)
    hsv = np.stack([hue * 256 / 360 % 256, saturation, value], axis=-1)
    return np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))


def load_entries(folder: Path, concepts_file: Path, max_tier: int = 9) -> list[Entry]:
    """Every entry of the concepts file up to `max_tier`, held-out pairs included (`Entry.held_out`)."""
    plan = json.loads(concepts_file.read_text())
    entries = []
    for concept in plan["concepts"]:
        if concept["tier"] <= max_tier:
            entries.append(
                Entry(
                    name=concept["icon"],
                    pixels=load_picture(folder, concept["icon"]),
                    caption=concept["caption"],
                    aliases=concept["aliases"],
                    tier=concept["tier"],
                )
            )
    for cell in plan["grid"]:
        original = load_picture(folder, cell["icon"])
        for colour, target in plan["colours"].items():
            own = colour == cell["own_colour"]
            entries.append(
                Entry(
                    name=f"{colour}-{cell['object']}",
                    pixels=original if own else recolour(original, target),
                    caption=f"{colour} {cell['object']}",
                    # The bare noun means the object in its own colour (or the first colour where it has none).
                    aliases=cell["aliases"] if own else [],
                    held_out=colour in cell["held_out"],
                    colour=colour,
                    object=cell["object"],
                )
            )
    for cell in plan["grid"]:
        if cell["own_colour"] is None:
            entries.append(
                Entry(
                    name=cell["icon"],
                    pixels=load_picture(folder, cell["icon"]),
                    caption=cell["aliases"][0],
                    aliases=cell["aliases"][1:],
                )
            )
    return entries


def to_tensor(entries: list[Entry]) -> torch.Tensor:
    """The pictures as float32 [N, 3, 64, 64] in -1..1, the VAE's range."""
    pixels = np.stack([entry.pixels for entry in entries])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def spoken_caption(entry: Entry, rng: random.Random) -> str:
    """One way to ask for the entry: its caption or an alias, bare or in a short phrase."""
    phrase = entry.caption
    if entry.aliases and rng.random() < 0.3:
        phrase = rng.choice(entry.aliases)
    form = rng.random()
    if form < 0.60:
        return phrase
    if form < 0.75:
        return article(phrase)
    if form < 0.90:
        return f"{phrase} emoji"
    return f"a picture of {article(phrase)}"
