"""Fits the colours of previews: the linear map from latents to RGB that is nearest to what the VAE decodes.

    python fit_preview.py --model ../emoji-sd --concepts concepts.json

Draws a picture of every fourth concept, takes the decoded pictures at the size of their latents (mean of each cell,
-1 to 1), solves least squares, and writes the result into the model's `sd-worker.json` as `preview_factors`: a row of
red, green, blue for each latent channel, and a last row that is added. Prints how much of the variance it explains.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE.parent / "emoji-sd")
    parser.add_argument("--concepts", type=Path, default=HERE / "concepts.json")
    parser.add_argument("--every", type=int, default=4, help="draw every so manieth concept of the first three tiers")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    return parser.parse_args()


@torch.no_grad()
def samples(pipe: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float):
    """Latents as the sampler holds them and the colours of their cells: [N, channels], [N, 3]."""
    latents, colours = [], []
    for start in range(0, len(prompts), 8):
        some = prompts[start : start + 8]
        seeds = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(some))]
        options = dict(num_inference_steps=steps, guidance_scale=guidance, generator=seeds, output_type="latent")
        z = pipe(some, **options).images
        picture = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
        cells = torch.nn.functional.avg_pool2d(picture, pipe.vae_scale_factor)
        latents.append(z.permute(0, 2, 3, 1).flatten(0, 2))
        colours.append(cells.permute(0, 2, 3, 1).flatten(0, 2))
    return torch.cat(latents).double(), torch.cat(colours).double()


def main() -> None:
    args = arguments()
    concepts = json.loads(args.concepts.read_text())["concepts"]
    prompts = [c["caption"] for c in concepts if c["tier"] <= 3][:: args.every]
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    latents, colours = samples(pipe, prompts, args.steps, args.guidance)
    ones = torch.ones(len(latents), 1, dtype=latents.dtype)
    table = torch.linalg.lstsq(torch.cat([latents, ones], 1), colours).solution
    missed = (colours - torch.cat([latents, ones], 1) @ table).var(0)
    print(f"{len(prompts)} pictures; explained variance of red, green, blue: {(1 - missed / colours.var(0)).tolist()}")
    path = args.model / "sd-worker.json"
    wishes = json.loads(path.read_text())
    wishes["preview_factors"] = [[round(v, 4) for v in row] for row in table.tolist()]
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in wishes.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
