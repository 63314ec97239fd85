"""Times diffusers on the bundled model: the same picture that `cargo xtask bench` has the worker draw.

Needs tests/golden/requirements.txt. Prints the median seconds of a whole 20-step picture.
"""

import pathlib
import statistics
import time

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

STEPS, RUNS = 20, 5


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    pipe = StableDiffusionPipeline.from_pretrained(root / "models" / "emoji-sd", torch_dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    seconds = []
    for run in range(RUNS + 1):
        generator = torch.Generator("cpu").manual_seed(run)
        since = time.perf_counter()
        pipe("red apple", num_inference_steps=STEPS, guidance_scale=3.0, height=64, width=64, generator=generator)
        seconds.append(time.perf_counter() - since)
    # The first run warms up.
    print(f"diffusers, {STEPS} steps, {torch.get_num_threads()} threads: {statistics.median(seconds[1:]) * 1e3:.0f} ms a picture")


if __name__ == "__main__":
    main()
