"""A list of checks for a script: each prints one line, and the exit code says whether all passed."""

import base64
import io
import json
import os
import sys
import time
import traceback
import urllib.request

from PIL import Image, ImageChops

# The worker on the bundled model.
URL = os.environ["SD_URL"]
# One without weights whose steps take 50 ms, with one place in its queue.
SLOW = os.environ["SD_SLOW_URL"]
# One that asks for the token.
CLOSED = os.environ["SD_CLOSED_URL"]
TOKEN = os.environ["SD_TOKEN"]
# Where pictures go, for looking at them.
PICTURES = os.environ["SD_PICTURES"]
MODEL = "emoji-sd"

_checks = []


def check(function):
    """Adds a check. Its docstring is what it says."""
    _checks.append(function)
    return function


def main():
    """Runs the checks whose names contain one of the arguments, or all."""
    wanted = sys.argv[1:]
    failed = 0
    for function in _checks:
        if wanted and not any(w in function.__name__ for w in wanted):
            continue
        since = time.monotonic()
        try:
            function()
            outcome = "ok  "
        except Exception:
            traceback.print_exc()
            outcome = "FAIL"
            failed += 1
        print(f"{outcome} {function.__doc__}  ({time.monotonic() - since:.1f} s)", flush=True)
    sys.exit(1 if failed else 0)


def equal(found, expected):
    """Says both where they differ."""
    assert found == expected, f"found {found!r}, expected {expected!r}"


def refused(kind, call):
    """The exception of a call that must fail."""
    try:
        result = call()
    except kind as error:
        return error
    raise AssertionError(f"was not refused: {str(result)[:200]}")


def api(path, body=None, method=None, url=URL):
    """Our own interface, to compare with."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def native(body, url=URL):
    """The first picture of a job of our own, and its last event."""
    job = api("/v1/jobs", body, url=url)
    with urllib.request.urlopen(url + job["sse_url"]) as stream:
        events = [json.loads(line[6:]) for line in stream if line.startswith(b"data: {")]
    assert events[-1]["event"] == "complete", events[-1]
    return decoded(events[-1]["image_base64"]), events[-1]


def decoded(text):
    """A picture from base64."""
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def same(a, b):
    """Whether two pictures agree in every pixel."""
    return a.size == b.size and ImageChops.difference(a.convert("RGB"), b.convert("RGB")).getbbox() is None


def keep(image, name):
    """Puts a picture where people can look at it."""
    image.save(os.path.join(PICTURES, name + ".png"))


def png(image):
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def wait_for(condition, seconds=10):
    """Waits until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
