"""OpenAI's Python client against the worker."""

import asyncio
import base64
import io
import threading
import time
import urllib.request
import warnings

import openai
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from checks import (CLOSED, MODEL, SLOW, TOKEN, URL, api, check, decoded, equal, keep, main, native, png, refused, same,
                    wait_for)

client = OpenAI(base_url=URL + "/v1", api_key="none")
FAST = {"seed": 7, "steps": 8}


def source():
    """A picture to work on, and the bytes of its file."""
    image = decoded(client.images.generate(prompt="red apple", extra_body={"seed": 1, "steps": 20}).data[0].b64_json)
    return image, png(image)


def masked(size, box):
    """A mask that is transparent within a box."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    return png(mask)


@check
def models():
    """openai-python: models.list, models.retrieve, an unknown model"""
    listed = client.models.list().data
    assert MODEL in [m.id for m in listed], listed
    assert all(m.object == "model" and isinstance(m.created, int) and m.owned_by for m in listed)
    equal(client.models.retrieve(MODEL).id, MODEL)
    error = refused(openai.NotFoundError, lambda: client.models.retrieve("no/such"))
    equal(error.code, "model_not_found")


@check
def generate():
    """openai-python: images.generate gives the picture of the same job of our own"""
    answer = client.images.generate(prompt="red apple", extra_body={"seed": 1, "steps": 20})
    image = decoded(answer.data[0].b64_json)
    keep(image, "openai-generate")
    equal((answer.size, answer.output_format, len(answer.data)), ("64x64", "png", 1))
    assert abs(answer.created - time.time()) < 60
    assert same(image, native({"prompt": "red apple", "seed": 1, "steps": 20})[0])
    assert answer._request_id


@check
def sizes():
    """openai-python: every kind of size; what is none is refused by name"""
    for size, expected in [("auto", (64, 64)), ("64x64", (64, 64)), ("128x64", (128, 64)), ("64x128", (64, 128)),
                           ("256x256", (256, 256))]:
        answer = client.images.generate(prompt="panda", size=size, extra_body={"steps": 2})
        equal(decoded(answer.data[0].b64_json).size, expected)
        equal(answer.size, "%dx%d" % expected)
    for size in ["64 by 64", "65x64", "8x8", "99999x64", "x"]:
        error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="panda", size=size))
        equal((error.param, error.type), ("size", "invalid_request_error"))


@check
def several():
    """openai-python: n pictures with consecutive seeds"""
    three = client.images.generate(prompt="panda", n=3, extra_body=FAST).data
    equal([d.seed for d in three], [7, 8, 9])
    one = client.images.generate(prompt="panda", extra_body=FAST | {"seed": 8}).data[0]
    assert same(decoded(three[1].b64_json), decoded(one.b64_json))


@check
def formats():
    """openai-python: png, jpeg and webp, smaller with more compression"""
    sizes = {}
    for form in ["png", "jpeg", "webp"]:
        for compression in [0, 50, 100]:
            answer = client.images.generate(prompt="panda", output_format=form, output_compression=compression,
                                            extra_body=FAST | {"metadata": False})
            data = base64.b64decode(answer.data[0].b64_json)
            equal((Image.open(io.BytesIO(data)).format.lower(), answer.output_format), (form, form))
            sizes[form, compression] = len(data)
    assert sizes["jpeg", 0] < sizes["jpeg", 50] < sizes["jpeg", 100], sizes
    assert sizes["webp", 0] < sizes["webp", 50] < sizes["webp", 100], sizes
    for bad in [101, -1]:
        error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="x", output_compression=bad))
        equal(error.param, "output_compression")
    error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="x", output_format="gif"))
    equal(error.param, "output_format")


@check
def links():
    """openai-python: response_format=url, and the models whose default it is"""
    for arguments, link in [({"response_format": "url"}, True), ({"model": "dall-e-3"}, True),
                            ({"model": "dall-e-3", "response_format": "b64_json"}, False),
                            ({"model": "gpt-image-2"}, False), ({"model": MODEL}, False), ({}, False)]:
        data = client.images.generate(prompt="panda", extra_body=FAST, **arguments).data[0]
        equal((data.url is not None, data.b64_json is not None), (link, not link))
        if link:
            with urllib.request.urlopen(data.url) as answer:
                equal(answer.headers["content-type"], "image/png")
                equal(Image.open(io.BytesIO(answer.read())).size, (64, 64))


@check
def words():
    """openai-python: quality, style, moderation, background, user are taken; transparent is refused"""
    answer = client.images.generate(prompt="panda", quality="high", style="vivid", moderation="low", background="auto",
                                    user="somebody", extra_body=FAST)
    equal((answer.quality, answer.background), ("high", "opaque"))
    error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="x", background="transparent"))
    equal((error.param, error.code), ("background", "unsupported"))


@check
def extensions():
    """openai-python: our own fields at top level; unknown ones are refused by name"""
    body = {"negative_prompt": "green", "sampler": "euler_a", "schedule": "karras", "guidance_scale": 4, "steps": 8,
            "seed": 3}
    image = decoded(client.images.generate(prompt="panda", extra_body=body).data[0].b64_json)
    assert same(image, native(body | {"prompt": "panda"})[0])
    for text in ["Sampler: Euler a", "Schedule type: Karras", "CFG scale: 4", "Seed: 3", "Negative prompt: green"]:
        assert text in image.info["parameters"], image.info
    for field, value in [("nonsense", 1), ("steps", 0), ("sampler", "eulr"), ("guidance_scale", "much")]:
        error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="x", extra_body={field: value}))
        equal(error.param, field)


@check
def streaming():
    """openai-python: stream=True with and without partial_images"""
    plain = decoded(client.images.generate(prompt="panda", extra_body=FAST).data[0].b64_json)
    for partials in [0, 1, 3]:
        events = list(client.images.generate(prompt="panda", stream=True, partial_images=partials, extra_body=FAST))
        equal([e.type for e in events],
              ["image_generation.partial_image"] * partials + ["image_generation.completed"])
        equal([e.partial_image_index for e in events[:-1]], list(range(partials)))
        for event in events:
            assert decoded(event.b64_json).size[0] >= 8 and event.size == "64x64" and event.created_at
        assert same(decoded(events[-1].b64_json), plain)
        equal(events[-1].usage.total_tokens, 0)
    error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="x", stream=True, partial_images=4))
    equal(error.param, "partial_images")


@check
def edit():
    """openai-python: images.edit of one picture, of a list of one, and of JSON with a data URL"""
    image, data = source()
    answer = client.images.edit(image=data, prompt="green apple", extra_body=FAST)
    result = decoded(answer.data[0].b64_json)
    keep(result, "openai-edit")
    assert result.size == image.size and not same(result, image)
    listed = client.images.edit(image=[data], prompt="green apple", extra_body=FAST)
    assert same(decoded(listed.data[0].b64_json), result)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    body = {"prompt": "green apple", "images": [{"image_url": url}]} | FAST
    sent = client.post("/images/edits", body=body, cast_to=openai.types.ImagesResponse)
    assert same(decoded(sent.data[0].b64_json), result)
    # Nothing redone: the picture comes back as it was.
    same_again = client.images.edit(image=data, prompt="x", extra_body={"strength": 0})
    assert same(decoded(same_again.data[0].b64_json), image)


@check
def edit_mask():
    """openai-python: a mask's transparent part is painted, every other pixel stays"""
    image, data = source()
    box = (0, 0, 32, 64)
    answer = client.images.edit(image=data, mask=masked(image.size, box), prompt="panda", extra_body=FAST)
    result = decoded(answer.data[0].b64_json)
    keep(result, "openai-edit-mask")
    assert same(result.crop((32, 0, 64, 64)), image.crop((32, 0, 64, 64))), "the opaque part was painted"
    assert not same(result.crop(box), image.crop(box)), "the transparent part was kept"
    opaque = png(Image.new("RGB", image.size))
    error = refused(openai.BadRequestError, lambda: client.images.edit(image=data, mask=opaque, prompt="x"))
    equal(error.param, "mask")


@check
def edit_refusals():
    """openai-python: several pictures, none, broken ones and file ids are refused by name"""
    _, data = source()
    error = refused(openai.BadRequestError, lambda: client.images.edit(image=[data, data], prompt="x"))
    equal((error.param, error.code), ("image", "unsupported"))
    error = refused(openai.BadRequestError, lambda: client.images.edit(image=b"no picture", prompt="x"))
    equal((error.param, error.code), ("image", "invalid_image"))

    def post(body):
        return client.post("/images/edits", body=body, cast_to=openai.types.ImagesResponse)

    for body in [{"prompt": "x"}, {"prompt": "x", "images": [{"file_id": "file-1"}]}, {"prompt": "x", "images": [3]},
                 {"prompt": "x", "images": [{"image_url": "https://example.com/a.png"}]}]:
        error = refused(openai.BadRequestError, lambda: post(body))
        assert error.param in ("image", "images"), (body, error)


@check
def edit_streaming():
    """openai-python: images.edit with stream=True"""
    _, data = source()
    events = list(client.images.edit(image=data, prompt="panda", stream=True, partial_images=2, extra_body=FAST))
    equal([e.type for e in events], ["image_edit.partial_image"] * 2 + ["image_edit.completed"])


@check
def variation():
    """openai-python: images.create_variation"""
    warnings.simplefilter("ignore", DeprecationWarning)
    image, data = source()
    answer = client.images.create_variation(image=data, n=2, response_format="b64_json")
    first, second = [decoded(d.b64_json) for d in answer.data]
    keep(first, "openai-variation")
    assert first.size == image.size and not same(first, second) and not same(first, image)
    assert client.images.create_variation(image=data).data[0].url


@check
def bad_requests():
    """openai-python: BadRequestError and NotFoundError with param, code and type"""
    for arguments, param in [({"n": 0}, "n"), ({"n": 11}, "n"), ({"quality": "best"}, "quality"),
                             ({"response_format": "file"}, "response_format")]:
        error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="x", **arguments))
        equal((error.param, error.type, error.code), (param, "invalid_request_error", "invalid_request"))
        assert param in error.message and error.request_id
    refused(openai.BadRequestError, lambda: client.post("/images/generations", body={}, cast_to=object))
    error = refused(openai.NotFoundError, lambda: client.images.generate(prompt="x", model="nothing-here"))
    equal((error.param, error.code), ("model", "model_not_found"))


@check
def authentication():
    """openai-python: AuthenticationError without the right key"""
    error = refused(openai.AuthenticationError,
                    lambda: OpenAI(base_url=CLOSED + "/v1", api_key="wrong").images.generate(prompt="x"))
    equal((error.type, error.code), ("authentication_error", "unauthorized"))
    refused(openai.AuthenticationError, lambda: OpenAI(base_url=CLOSED + "/v1", api_key="wrong").models.list())
    good = OpenAI(base_url=CLOSED + "/v1", api_key=TOKEN)
    assert good.models.list().data
    assert good.images.generate(prompt="x", extra_body={"steps": 1}).data[0].b64_json


def busy(steps):
    """Lets the slow worker run one job and have another wait, so that its queue is full."""
    first = api("/v1/jobs", {"prompt": "x", "steps": steps}, url=SLOW)["job_id"]
    wait_for(lambda: api(f"/v1/jobs/{first}", url=SLOW)["status"] == "running")
    second = api("/v1/jobs", {"prompt": "x", "steps": 1}, url=SLOW)["job_id"]
    return [first, second]


def idle():
    """Waits until the slow worker has nothing to do."""
    for status in ["queued", "running"]:
        for job in api(f"/v1/jobs?status={status}", url=SLOW)["data"]:
            api(f"/v1/jobs/{job['job_id']}", method="DELETE", url=SLOW)
    wait_for(lambda: not any(api(f"/v1/jobs?status={s}", url=SLOW)["data"] for s in ["queued", "running"]))


@check
def rate_limit():
    """openai-python: a full queue is RateLimitError with Retry-After; the client's own retries get through"""
    idle()
    busy(60)
    once = OpenAI(base_url=SLOW + "/v1", api_key="none", max_retries=0)
    error = refused(openai.RateLimitError, lambda: once.images.generate(prompt="x", extra_body={"steps": 1}))
    equal((error.code, error.type), ("queue_full", "rate_limit_error"))
    assert 1 <= int(error.response.headers["retry-after"]) <= 300
    patient = OpenAI(base_url=SLOW + "/v1", api_key="none", max_retries=5)
    assert patient.images.generate(prompt="x", extra_body={"steps": 1}).data[0].b64_json


@check
def timeouts():
    """openai-python: a client that stops waiting takes its job along; with a key the job stays and is found again"""
    idle()
    hasty = OpenAI(base_url=SLOW + "/v1", api_key="none", max_retries=0, timeout=0.3)
    refused(openai.APITimeoutError, lambda: hasty.images.generate(prompt="x", extra_body={"steps": 100}))
    newest = api("/v1/jobs", url=SLOW)["data"][0]["job_id"]
    wait_for(lambda: api(f"/v1/jobs/{newest}", url=SLOW)["status"] == "cancelled")
    key = {"Idempotency-Key": f"again-{time.time()}"}
    body = {"steps": 20, "seed": 11}
    refused(openai.APITimeoutError, lambda: hasty.images.generate(prompt="x", extra_body=body, extra_headers=key))
    before = len(api("/v1/jobs", url=SLOW)["data"])
    patient = OpenAI(base_url=SLOW + "/v1", api_key="none")
    assert patient.images.generate(prompt="x", extra_body=body, extra_headers=key).data[0].b64_json
    equal(len(api("/v1/jobs", url=SLOW)["data"]), before)


@check
def cancelled():
    """openai-python: a job cancelled elsewhere is ConflictError, and the client does not send it again"""
    idle()
    before = len(api("/v1/jobs", url=SLOW)["data"])
    outcome = []

    def work():
        slow = OpenAI(base_url=SLOW + "/v1", api_key="none")
        outcome.append(refused(openai.ConflictError, lambda: slow.images.generate(prompt="x", extra_body={"steps": 100})))

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: api("/v1/jobs?status=running", url=SLOW)["data"])
    job = api("/v1/jobs?status=running", url=SLOW)["data"][0]["job_id"]
    api(f"/v1/jobs/{job}/cancel", {}, url=SLOW)
    thread.join()
    equal(outcome[0].code, "cancelled")
    equal(len(api("/v1/jobs", url=SLOW)["data"]), before + 1)


@check
def failing_stream():
    """openai-python: a stream whose job is stopped ends with APIError"""
    idle()
    slow = OpenAI(base_url=SLOW + "/v1", api_key="none")
    stream = slow.images.generate(prompt="x", stream=True, partial_images=3, extra_body={"steps": 100})
    next(iter(stream))
    job = api("/v1/jobs?status=running", url=SLOW)["data"][0]["job_id"]
    api(f"/v1/jobs/{job}/cancel", {}, url=SLOW)
    error = refused(openai.APIError, lambda: list(stream))
    assert "cancelled" in error.message, error


@check
def asynchronous():
    """openai-python: AsyncOpenAI, several at a time, and a stream"""

    async def work():
        async with AsyncOpenAI(base_url=URL + "/v1", api_key="none") as several_at_once:
            calls = [several_at_once.images.generate(prompt="panda", extra_body=FAST | {"seed": s}) for s in (7, 8, 9)]
            answers = await asyncio.gather(*calls)
            equal([a.data[0].seed for a in answers], [7, 8, 9])
            stream = await several_at_once.images.generate(prompt="panda", stream=True, partial_images=1, extra_body=FAST)
            equal([e.type async for e in stream], ["image_generation.partial_image", "image_generation.completed"])

    asyncio.run(work())


main()
