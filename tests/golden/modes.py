"""Draws a sheet with every mode of the worker from the bundled model: python tests/golden/modes.py --worker PROGRAM.

Nothing is compared here: the sheet (`docs/modes.png`) is for a person to look at. Each row is one mode: what went in on
the left, what came out beside it.
"""

import argparse
import base64
import io
import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
ZOOM, GAP, LABEL = 2, 8, 200


class Worker:
    """A worker on a free port."""

    def __init__(self, program):
        models = f"{ROOT / 'models'}:{ROOT / 'tests' / 'fixtures' / 'models'}"
        command = [program, "serve", "--port", "0", "--models-dir", models, "--log", "warn"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stdout if "http://" in line)
        self.url = line[line.index("http://") :].split()[0].rstrip("/")

    def events(self, body):
        """All events of a job."""
        request = urllib.request.Request(
            self.url + "/v1/jobs", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        for _ in range(200):
            try:
                job = json.load(urllib.request.urlopen(request))
                break
            except urllib.error.HTTPError as error:
                # The model is being loaded.
                if error.code != 503:
                    raise SystemExit(error.read().decode()) from error
                time.sleep(0.1)
        lines = urllib.request.urlopen(self.url + job["sse_url"])
        return job, [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]

    def draw(self, body):
        """The pictures of a job."""
        job, events = self.events(body)
        assert events[-1]["event"] == "complete", events[-1]
        urls = [image["url"] for image in events[-1]["images"]]
        return [Image.open(io.BytesIO(urllib.request.urlopen(self.url + url).read())).convert("RGB") for url in urls]

    def previews(self, body):
        """The previews of a job, at the size of its picture."""
        _, events = self.events(body)
        found = [e["image_base64"] for e in events if e["event"] == "preview"]
        pictures = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in found]
        return [p.resize((64, 64), Image.Resampling.BOX) for p in pictures]


def text_of(picture):
    """A picture as base64 of a PNG."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def rows(worker):
    """Label and pictures of each row."""
    draw = worker.draw
    apple = draw(dict(prompt="red apple", seed=1))[0]
    panda = draw(dict(prompt="panda", seed=7))[0]
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    spot = Image.new("L", (64, 64))
    spot.paste(255, (20, 26, 44, 44))
    yield "text", draw(dict(prompt="rocket", seed=3, n=4))
    body = dict(prompt="rocket", seed=3, steps=20, preview_every=4)
    yield "previews, every 4 steps", [*worker.previews(body), *draw(body)]
    yield "variations 0.1, 0.3, 0.6", [
        panda,
        *(draw(dict(prompt="panda", seed=7, variation_seed=5, variation_strength=s))[0] for s in (0.1, 0.3, 0.6)),
    ]
    yield "picture, strength 0 0.4 0.7 1", [
        apple,
        *(draw(dict(prompt="green apple", init_image=text_of(apple), strength=s, seed=2))[0] for s in (0, 0.4, 0.7, 1)),
    ]
    wide = apple.resize((96, 64))
    modes = ("stretch", "crop", "fill", "latent")
    yield "resize: stretch crop fill latent", [
        wide,
        *(
            draw(dict(prompt="red apple", init_image=text_of(wide), strength=0.4, width=64, height=64, resize_mode=m))[0]
            for m in modes
        ),
    ]
    masked = dict(prompt="panda", init_image=text_of(apple), mask_image=text_of(half), seed=3)
    fills = ("original", "fill", "latent_noise", "latent_nothing")
    yield "inpaint: 4 fills at 0.9", [
        apple,
        half.convert("RGB"),
        *(draw(dict(masked, inpaint_fill=f, strength=0.9))[0] for f in fills),
    ]
    small = dict(prompt="panda", init_image=text_of(panda), mask_image=text_of(spot), seed=3)
    yield "inpaint: whole, blurred, only masked", [
        panda,
        spot.convert("RGB"),
        draw(small)[0],
        draw(dict(small, mask_blur=4))[0],
        draw(dict(small, only_masked=True, only_masked_padding=8))[0],
    ]
    grow = dict(prompt="red apple", init_image=text_of(apple), seed=3)
    yield "outpaint", [
        apple,
        draw(dict(grow, extend=dict(left=16, right=16)))[0],
        draw(dict(grow, extend=dict(top=11, bottom=6, left=5)))[0],
        draw(dict(grow, extend=dict(left=24), strength=0.6))[0],
    ]
    yield "second pass: latent, lanczos, network", [
        apple,
        *(
            draw(dict(prompt="red apple", seed=1, hires=dict(scale=1.5, upscaler=u, strength=0.5)))[0]
            for u in ("latent", "lanczos", "body-x2")
        ),
    ]
    yield "seed kept in another size", [
        panda,
        draw(dict(prompt="panda", seed=7, width=96, height=64))[0],
        draw(dict(prompt="panda", seed=7, width=96, height=64, seed_resize_from_w=64, seed_resize_from_h=64))[0],
    ]
    yield "upscale: nearest, lanczos, random network", [
        apple,
        *(
            draw(dict(operation="image_upscale", init_image=text_of(apple), upscaler=u, scale=2))[0]
            for u in ("nearest", "lanczos", "body-x2")
        ),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", default=str(ROOT / "target" / "release" / "sd-worker"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "modes.png")
    args = parser.parse_args()
    worker = Worker(args.worker)
    try:
        drawn = list(rows(worker))
    finally:
        worker.process.terminate()
        worker.process.wait()
    width = LABEL + max(sum(p.width * ZOOM + GAP for p in pictures) for _, pictures in drawn)
    height = sum(max(p.height for p in pictures) * ZOOM + GAP for _, pictures in drawn)
    sheet = Image.new("RGB", (width, height), (128, 128, 128))
    pen, y = ImageDraw.Draw(sheet), 0
    for label, pictures in drawn:
        pen.text((GAP, y + GAP), label, fill=(255, 255, 255))
        x = LABEL
        for picture in pictures:
            sheet.paste(picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST), (x, y))
            x += picture.width * ZOOM + GAP
        y += max(p.height for p in pictures) * ZOOM + GAP
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(args.out, optimize=True)
    print(args.out, args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
