"""Small pictures as other programs write them, made with Pillow, and what it reads in them: `fixtures/images/`.

What Pillow cannot write (16 bits a colour) is put together chunk by chunk.
"""

import base64
import io
import json
import struct
import zlib

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from common import FIXTURES, save_json

FOLDER = FIXTURES / "images"
TEXT = "a cat, (hat:1.2)\nNegative prompt: ugly\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 24x16"
UNICODE = TEXT.replace("cat", "猫 é 😀")
WORKFLOW = {"prompt": {"3": {"class_type": "KSampler"}}, "workflow": {"nodes": [], "title": "é"}}


def picture(mode="RGB"):
    """A smooth pattern without symmetry, 24 × 16."""
    image = Image.new("RGBA", (24, 16))
    image.putdata([(10 * x, 15 * y, 200 - 5 * x, 255 - 8 * y) for y in range(16) for x in range(24)])
    return image.convert(mode)


def png(depth, colour, rows):
    """A PNG of rows of samples."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), depth, colour, 0, 0, 0)
    data = b"".join(b"\0" + struct.pack(f">{len(row)}H", *row) for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def texts(pairs, zipped=False):
    info = PngInfo()
    for key, text in pairs.items():
        info.add_text(key, text, zip=zipped)
    return info


def user_comment(text):
    """EXIF as A1111 writes it through piexif: big endian UTF-16."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif


def comfy_exif():
    exif = Image.Exif()
    for tag, key in ((0x010F, "workflow"), (0x0110, "prompt")):
        exif[tag] = f"{key}:{json.dumps(WORKFLOW[key])}"
    return exif


def write():
    """Makes the folder: files by name, and `expected.json`."""
    files, expected = {}, {}

    def keep(name, data, image=None, parameters=None, others=None):
        """`image`: what the file shows, upright and with 8 bits; None for those that must be refused."""
        files[name] = data
        if image is not None:
            image = image.convert("RGBA" if "A" in image.mode else "RGB")
            pixels = base64.b64encode(image.tobytes()).decode()
            expected[name] = dict(width=image.width, height=image.height, mode=image.mode, pixels=pixels)
        else:
            expected[name] = dict(refused=True)
        expected[name].update(parameters=parameters, texts=others or {})

    def opened(data):
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    palette = picture().quantize(12)
    transparent = saved(palette, "PNG", transparency=bytes([0, 128, 255]))
    keep("palette_trns.png", transparent, opened(transparent).convert("RGBA"))
    for name, colour, mode in (("rgb16.png", 2, "RGB"), ("rgba16.png", 6, "RGBA"), ("grey16.png", 0, "L"), ("grey_alpha16.png", 4, "LA")):
        image = picture(mode)
        length = 24 * len(image.getbands())
        samples = [value * 256 + 77 for value in image.tobytes()]
        rows = [samples[at : at + length] for at in range(0, len(samples), length)]
        keep(name, png(16, colour, rows), image.convert("RGBA" if "A" in mode else "RGB"))
    one_bit = saved(picture("1"), "PNG")
    keep("one_bit.png", one_bit, opened(one_bit))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(picture(), "JPEG", quality=95, subsampling=0, exif=exif)
        keep(f"exif{orientation}.jpg", data, opened(data))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, name, options in (("PNG", "exif6.png", {}), ("WEBP", "exif6.webp", dict(lossless=True))):
        data = saved(picture(), kind, exif=exif, **options)
        keep(name, data, opened(data))
    progressive = saved(picture(), "JPEG", quality=90, progressive=True)
    keep("progressive.jpg", progressive, opened(progressive))
    grey = saved(picture("L"), "JPEG", quality=95)
    keep("grey.jpg", grey, opened(grey))

    for name, text, zipped in (("a1111.png", TEXT, False), ("a1111_itxt.png", UNICODE, False), ("a1111_ztxt.png", TEXT, True)):
        keep(name, saved(picture(), "PNG", pnginfo=texts({"parameters": text}, zipped)), picture(), text)
    jpeg = saved(picture(), "JPEG", quality=95, exif=user_comment(UNICODE))
    keep("a1111.jpg", jpeg, opened(jpeg), UNICODE)
    keep("a1111.webp", saved(picture(), "WEBP", lossless=True, exif=user_comment(UNICODE)), picture(), UNICODE)
    graphs = {key: json.dumps(value) for key, value in WORKFLOW.items()}
    keep("comfy.png", saved(picture(), "PNG", pnginfo=texts(graphs)), picture(), others=graphs)
    keep("comfy.webp", saved(picture(), "WEBP", lossless=True, exif=comfy_exif()), picture(), others=graphs)

    frames = dict(save_all=True, append_images=[picture().transpose(Image.Transpose.ROTATE_180)], duration=100)
    keep("cmyk.jpg", saved(picture("CMYK"), "JPEG", quality=80))
    keep("animated.png", saved(picture(), "PNG", **frames))
    keep("animated.webp", saved(picture(), "WEBP", **frames))
    keep("a.gif", saved(picture(), "GIF"))
    keep("a.tiff", saved(picture(), "TIFF"))
    keep("a.bmp", saved(picture("L"), "BMP"))

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (FOLDER / name).write_bytes(data)
    save_json(FOLDER / "expected.json", expected)
