"""webuiapi, a stock client of A1111's interface, against the worker."""

import asyncio
import json
import threading
import urllib.error
import urllib.parse

import webuiapi
from PIL import Image

from checks import (CLOSED, MODEL, SLOW, TOKEN, URL, api, check, decoded, equal, keep, main, native, refused, same,
                    wait_for)


def client(url=URL, **arguments):
    """A client of one of the workers."""
    address = urllib.parse.urlparse(url)
    return webuiapi.WebUIApi(host=address.hostname, port=address.port, **arguments)


web = client()
SMALL = {"width": 64, "height": 64, "steps": 8, "seed": 7}


def detail(error):
    """What a refused call says: the status and the body."""
    status, text = error.args
    body = json.loads(text)
    equal(sorted(body), ["body", "detail", "error", "errors"])
    return status, body


@check
def txt2img():
    """webuiapi: txt2img gives the picture of the same job of our own, with info and recipe"""
    result = web.txt2img(prompt="red apple", negative_prompt="green", sampler_name="Euler a", scheduler="Karras",
                         cfg_scale=5, width=64, height=64, steps=20, seed=1)
    keep(result.image, "a1111-txt2img")
    job = {"prompt": "red apple", "negative_prompt": "green", "sampler": "euler_a", "schedule": "karras", "steps": 20,
           "guidance_scale": 5, "seed": 1, "eta": 1.0}
    assert same(result.image, native(job)[0])
    info = result.info
    for key, value in {"prompt": "red apple", "negative_prompt": "green", "seed": 1, "all_seeds": [1], "steps": 20,
                       "sampler_name": "Euler a", "cfg_scale": 5.0, "width": 64, "height": 64, "sd_model_name": MODEL,
                       "batch_size": 1, "clip_skip": 1, "denoising_strength": None, "index_of_first_image": 0,
                       "restore_faces": False, "styles": [], "all_prompts": ["red apple"]}.items():
        equal((key, info[key]), (key, value))
    equal(info["infotexts"], [result.image.info["parameters"]])
    assert len(info["job_timestamp"]) == 14 and info["sd_model_hash"]
    equal(result.parameters["steps"], 20)


@check
def txt2img_batches():
    """webuiapi: batch_size × n_iter pictures with consecutive seeds; send_images=False sends none"""
    result = web.txt2img(prompt="panda", batch_size=2, n_iter=2, **SMALL)
    equal((len(result.images), result.info["all_seeds"]), (4, [7, 8, 9, 10]))
    alone = web.txt2img(prompt="panda", **SMALL | {"seed": 9})
    assert same(result.images[2], alone.image)
    none = web.txt2img(prompt="panda", send_images=False, **SMALL)
    equal((none.images, none.info["all_seeds"]), ([], [7]))
    error = refused(RuntimeError, lambda: web.txt2img(prompt="x", batch_size=5, n_iter=4))
    assert "batch_size" in detail(error)[1]["detail"]


@check
def random_seed():
    """webuiapi: seed -1 draws one and tells it; the same seed draws the same picture"""
    first = web.txt2img(prompt="panda", **SMALL | {"seed": -1})
    second = web.txt2img(prompt="panda", **SMALL | {"seed": -1})
    assert first.info["seed"] >= 0 and not same(first.image, second.image)
    assert same(first.image, web.txt2img(prompt="panda", **SMALL | {"seed": first.info["seed"]}).image)


@check
def samplers():
    """webuiapi: every sampler and scheduler that is listed draws; old joined names and aliases too"""
    names = web.util_get_sampler_names()
    for name in ["Euler a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE",
                 "DPM++ 3M SDE", "DDIM", "UniPC", "LCM"]:
        assert name in names, name
    for name in names:
        result = web.txt2img(prompt="panda", sampler_name=name, **SMALL | {"steps": 4})
        equal(result.info["sampler_name"], name)
    for schedule in web.get_schedulers():
        assert {"name", "label", "aliases", "default_rho", "need_inner_model"} <= set(schedule)
        web.txt2img(prompt="panda", sampler_name="Euler", scheduler=schedule["label"], **SMALL | {"steps": 3})
    for name, sampler, schedule in [("DPM++ 2M Karras", "DPM++ 2M", "Karras"), ("k_dpmpp_2m", "DPM++ 2M", "Karras"),
                                    ("DPM++ 2M", "DPM++ 2M", "Karras"), ("DPM++ 2M SDE", "DPM++ 2M SDE", "Exponential"),
                                    ("Euler a", "Euler a", "Normal")]:
        text = web.txt2img(prompt="panda", sampler_name=name, **SMALL).info["infotexts"][0]
        assert f"Sampler: {sampler}," in text, text
        assert f"Schedule type: {schedule}," in text, text
    status, body = detail(refused(RuntimeError, lambda: web.txt2img(prompt="x", sampler_name="Eulr")))
    equal(status, 400)
    assert "sampler_name" in body["detail"]


@check
def img2img():
    """webuiapi: img2img; strength 0 gives the picture back; no picture is 404"""
    source = web.txt2img(prompt="red apple", **SMALL).image
    result = web.img2img(images=[source], prompt="green apple", denoising_strength=0.6, **SMALL)
    keep(result.image, "a1111-img2img")
    assert not same(result.image, source) and result.info["denoising_strength"] == 0.6
    equal(result.parameters["init_images"], None)
    assert same(web.img2img(images=[source], prompt="x", denoising_strength=0, **SMALL).image, source)
    for mode in (0, 1, 2):
        equal(web.img2img(images=[source], prompt="x", resize_mode=mode, **SMALL | {"width": 96}).image.size, (96, 64))
    status, body = detail(refused(RuntimeError, lambda: web.img2img(images=[], prompt="x")))
    equal(status, 404)
    assert "Init image not found" in body["detail"]


@check
def inpaint():
    """webuiapi: a mask's white part is painted, every other pixel stays; inverted it is the reverse"""
    source = web.txt2img(prompt="red apple", **SMALL).image
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    left, right = (0, 0, 32, 64), (32, 0, 64, 64)
    for name, arguments, painted, kept in [
            ("whole", {"inpaint_full_res": False}, left, right), ("only-masked", {}, left, right),
            ("inverted", {"inpainting_mask_invert": 1, "inpaint_full_res": False}, right, left)]:
        for fill in (0, 1, 2, 3):
            result = web.img2img(images=[source], mask_image=mask, mask_blur=0, inpainting_fill=fill, prompt="panda",
                                 denoising_strength=0.9, **arguments, **SMALL).image
            assert same(result.crop(kept), source.crop(kept)), f"{name} {fill}: a kept pixel changed"
            assert not same(result.crop(painted), source.crop(painted)), f"{name} {fill}: nothing was painted"
        keep(result, "a1111-inpaint-" + name)
    soft = web.img2img(images=[source], mask_image=mask, prompt="panda", **SMALL).image
    keep(soft, "a1111-inpaint-soft")
    assert same(soft.crop((52, 0, 64, 64)), source.crop((52, 0, 64, 64)))


@check
def variations():
    """webuiapi: subseed and subseed_strength"""
    plain = web.txt2img(prompt="panda", **SMALL)
    varied = web.txt2img(prompt="panda", subseed=5, subseed_strength=0.3, **SMALL)
    assert not same(plain.image, varied.image)
    equal((varied.info["subseed"], varied.info["subseed_strength"]), (5, 0.3))
    assert "Variation seed" in varied.info["infotexts"][0]


@check
def second_pass():
    """webuiapi: enable_hr with latent and pixel upscalers"""
    for upscaler in (webuiapi.HiResUpscaler.Latent, webuiapi.HiResUpscaler.Lanczos):
        result = web.txt2img(prompt="red apple", enable_hr=True, hr_scale=2, hr_upscaler=upscaler, denoising_strength=0.6,
                             **SMALL)
        equal((result.image.size, result.info["denoising_strength"]), ((128, 128), 0.6))
        assert "Hires upscaler: " + upscaler.value in result.info["infotexts"][0]
        keep(result.image, "a1111-hires-" + upscaler.value.lower())


@check
def override_settings():
    """webuiapi: override_settings for one request, and kept with restore_afterwards=False"""
    equal(web.txt2img(prompt="panda", override_settings={"samples_format": "jpg"}, **SMALL).image.format, "JPEG")
    equal(web.txt2img(prompt="panda", **SMALL).image.format, "PNG")
    plain = web.txt2img(prompt="panda", **SMALL)
    skipped = web.txt2img(prompt="panda", override_settings={"CLIP_stop_at_last_layers": 2}, **SMALL)
    equal((plain.info["clip_skip"], skipped.info["clip_skip"]), (1, 2))
    assert not same(plain.image, skipped.image)
    web.txt2img(prompt="panda", override_settings={"CLIP_stop_at_last_layers": 2},
                override_settings_restore_afterwards=False, **SMALL)
    equal(web.get_options()["CLIP_stop_at_last_layers"], 2)
    assert same(web.txt2img(prompt="panda", **SMALL).image, skipped.image)
    web.set_options({"CLIP_stop_at_last_layers": 1})
    assert same(web.txt2img(prompt="panda", **SMALL).image, plain.image)
    status, body = detail(refused(RuntimeError, lambda: web.txt2img(
        prompt="x", override_settings={"sd_model_checkpoint": "nothing-here"})))
    equal(status, 404)
    assert "sd_model_checkpoint" in body["detail"]


@check
def options():
    """webuiapi: get_options, set_options with the whole list sent back, the current model, a change of models"""
    before = web.get_options()
    equal(before["sd_model_checkpoint"], MODEL)
    assert {"sd_vae", "CLIP_stop_at_last_layers", "samples_format"} <= set(before)
    equal(web.set_options(before | {"something_of_another_worker": 1}), None)
    equal(web.get_options(), before)
    equal(web.util_get_current_model(), MODEL)
    web.util_set_model(MODEL)
    equal(web.set_options({"sd_model_checkpoint": f"{MODEL}.safetensors [0123456789]"}), None)
    equal(web.get_options()["sd_model_checkpoint"], MODEL)
    assert "sd_model_checkpoint" in web.set_options({"sd_model_checkpoint": "nothing-here"})["detail"]
    assert "sd_vae" in web.set_options({"sd_vae": "other.safetensors"})["detail"]


@check
def lists():
    """webuiapi: models, samplers, schedulers, upscalers, loras, embeddings and the other lists"""
    model = next(m for m in web.get_sd_models() if m["model_name"] == MODEL)
    equal(sorted(model), ["config", "filename", "hash", "model_name", "sha256", "title"])
    equal(web.util_get_model_names().count(MODEL), 1)
    assert all(set(s) == {"name", "aliases", "options"} for s in web.get_samplers())
    assert {"None", "Lanczos", "Nearest"} <= {u["name"] for u in web.get_upscalers()}
    assert all("name" in mode for mode in web.get_latent_upscale_modes())
    for listed in [web.get_loras(), web.get_hypernetworks(), web.get_face_restorers(), web.get_prompt_styles(),
                   web.get_sd_vae(), web.get_realesrgan_models(), web.custom_get("script-info", True)]:
        assert isinstance(listed, list)
    equal(sorted(web.get_embeddings()), ["loaded", "skipped"])
    equal(web.get_scripts(), {"txt2img": [], "img2img": []})
    assert {"ram", "cuda"} <= set(web.get_memory()) and web.get_memory()["ram"]["total"] > 0
    assert isinstance(web.get_cmd_flags(), dict)
    equal(web.refresh_checkpoints(), None)
    equal(api("/internal/ping"), {})


@check
def extras():
    """webuiapi: extra_single_image and extra_batch_images with the built-in upscalers"""
    source = web.txt2img(prompt="red apple", **SMALL).image
    for upscaler, size in [("None", (64, 64)), ("Lanczos", (128, 128)), ("Nearest", (128, 128))]:
        result = web.extra_single_image(source, upscaler_1=upscaler, upscaling_resize=2).image
        equal(result.size, size)
        keep(result, f"a1111-extra-{upscaler.lower()}")
    assert same(web.extra_single_image(source, upscaler_1="Nearest").image.resize((64, 64), Image.NEAREST), source)
    equal([i.size for i in web.extra_batch_images([source, source], upscaler_1="Lanczos", upscaling_resize=1.5).images],
          [(96, 96)] * 2)
    equal(web.extra_single_image(source, resize_mode=1, upscaler_1="Lanczos", upscaling_resize_w=100,
                                 upscaling_resize_h=50).image.size, (100, 50))
    status, body = detail(refused(RuntimeError, lambda: web.extra_single_image(source, gfpgan_visibility=1)))
    equal((status, "gfpgan_visibility" in body["detail"]), (422, True))
    refused(RuntimeError, lambda: web.extra_single_image(source, upscaler_1=webuiapi.Upscaler.LDSR))


@check
def png_info():
    """webuiapi: png_info reads the recipe back; a picture without one has none"""
    result = web.txt2img(prompt="red apple, on a table", negative_prompt="green", **SMALL)
    told = web.png_info(result.image)
    equal(told.info, result.info["infotexts"][0])
    equal((told.parameters["Prompt"], told.parameters["Seed"]), ("red apple, on a table", "7"))
    equal(web.png_info(Image.new("RGB", (8, 8))).info, "")


@check
def not_offered():
    """webuiapi: what is not offered is refused with A1111's shape, not ignored"""
    source = Image.new("RGB", (64, 64))
    equal(detail(refused(RuntimeError, lambda: web.interrogate(source)))[0], 404)
    for arguments, field in [({"tiling": True}, "tiling"), ({"restore_faces": True}, "restore_faces"),
                             ({"script_name": "x/y/z plot"}, "script_name"),
                             ({"alwayson_scripts": {"nothing": {"args": []}}}, "alwayson_scripts"),
                             ({"steps": 1000}, "steps"), ({"cfg_scale": 99}, "cfg_scale"), ({"width": "wide"}, "width")]:
        status, body = detail(refused(RuntimeError, lambda: web.txt2img(prompt="x", **arguments)))
        equal((field, status), (field, 422))
        assert field in body["detail"], body


@check
def checkpoints():
    """webuiapi: unload-checkpoint and reload-checkpoint; a request loads by itself"""
    import requests
    for route in ["unload-checkpoint", "reload-checkpoint", "unload-checkpoint"]:
        answer = requests.post(f"{URL}/sdapi/v1/{route}")
        equal((answer.status_code, answer.json()), (200, {}))
    assert web.txt2img(prompt="panda", **SMALL).images


def busy(web, steps=200, **more):
    """Starts a request on the slow worker and waits until it draws; gives the list its result comes in."""
    outcome = []

    def work():
        try:
            outcome.append(web.txt2img(prompt="x", width=64, height=64, steps=steps, **more))
        except RuntimeError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: web.get_progress()["state"]["sampling_step"] > 2)
    return thread, outcome


@check
def progress_and_interrupt():
    """webuiapi: get_progress while drawing and idle; interrupt and skip end with the picture as it is"""
    slow = client(SLOW)
    wait_for(lambda: slow.get_progress()["state"]["job_count"] == 0)
    idle = slow.get_progress()
    equal((idle["progress"], idle["state"]["job"], idle["current_image"]), (0.0, "", None))
    for stop in (slow.interrupt, slow.skip):
        thread, outcome = busy(slow, steps=100)
        wait_for(lambda: slow.get_progress()["current_image"])
        told = slow.get_progress()
        assert 0 < told["progress"] < 1 and told["eta_relative"] > 0, told
        equal((told["state"]["sampling_steps"], told["state"]["job_count"]), (100, 1))
        assert decoded(told["current_image"]).size[0] >= 8
        equal(slow.custom_get("progress?skip_current_image=true", True)["current_image"], None)
        equal(stop(), {})
        thread.join(timeout=5)
        assert not thread.is_alive() and len(outcome[0].images) == 1, outcome
    slow.util_wait_for_ready(0.1)
    equal(slow.interrupt(), {})


@check
def tasks():
    """A1111: force_task_id names a request for /internal/progress; pending-tasks lists what waits"""
    slow = client(SLOW)
    import requests
    outcome = []
    body = {"prompt": "x", "width": 64, "height": 64, "steps": 60, "force_task_id": "task(abc)"}
    thread = threading.Thread(target=lambda: outcome.append(requests.post(f"{SLOW}/sdapi/v1/txt2img", json=body)))

    def told():
        return api("/internal/progress", {"id_task": "task(abc)", "id_live_preview": -1}, url=SLOW)

    equal((told()["active"], told()["completed"], told()["textinfo"]), (False, False, "Waiting..."))
    thread.start()
    wait_for(lambda: told()["live_preview"])
    now = told()
    assert now["active"] and not now["queued"] and 0 < now["progress"] < 1
    assert now["live_preview"].startswith("data:image/jpeg;base64,")
    equal(api("/internal/pending-tasks", url=SLOW), {"size": 0, "tasks": []})
    slow.interrupt()
    thread.join()
    equal((outcome[0].status_code, told()["completed"], told()["active"]), (200, True, False))


@check
def authentication():
    """webuiapi: HTTP Basic with the token as the password"""
    equal(client(CLOSED).get_options()["error"], "unauthorized")
    assert client(CLOSED, username="user", password=TOKEN).txt2img(prompt="x", steps=1, width=64, height=64).images
    error = refused(RuntimeError, lambda: client(CLOSED, username="user", password="wrong-wrong-wrong").txt2img(prompt="x"))
    equal(detail(error)[0], 401)
    equal(api("/internal/ping", url=CLOSED), {})


@check
def asynchronous():
    """webuiapi: use_async, several at a time"""

    async def work():
        calls = [web.txt2img(prompt="panda", use_async=True, **SMALL | {"seed": s}) for s in (7, 8)]
        results = await asyncio.gather(*calls)
        equal([r.info["seed"] for r in results], [7, 8])

    asyncio.run(work())


@check
def defaults():
    """A1111: what a bare request gets is A1111's own"""
    import requests
    # With one step, for time's sake: the other defaults stay.
    answer = requests.post(f"{URL}/sdapi/v1/txt2img", json={"prompt": "panda", "steps": 1}).json()
    info = json.loads(answer["info"])
    equal((info["width"], info["height"], info["cfg_scale"], info["sampler_name"]), (512, 512, 7.0, "Euler"))
    equal((answer["parameters"]["sampler_index"], answer["parameters"]["n_iter"]), ("Euler", 1))


main()
