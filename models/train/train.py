"""Trains the UNet and the text encoder together on cached VAE latents.

    python train.py --pictures work/noto --start work/first --out work/run --steps 4000

`--start` is a Stable Diffusion folder to go on from; with `--scratch` only its VAE and tokenizer are used.
The run can be stopped at any time (Ctrl-C or SIGTERM) and goes on with the same command: everything it needs,
optimizer included, lies in OUT/state.pt; OUT/emoji-sd is always a complete model of the averaged weights. Gone on
with a higher `--tier`, it takes in the new concepts.
"""

import argparse
import math
import random
import signal
import time
from pathlib import Path

import torch

import dataset
import pipeline

HERE = Path(__file__).parent
TIMESTEPS = 1000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder of rendered icons")
    parser.add_argument("--concepts", type=Path, default=HERE / "concepts.json")
    parser.add_argument("--tier", type=int, default=9, help="leave out concepts above this tier")
    parser.add_argument("--start", type=Path, required=True, help="Stable Diffusion folder to start from")
    parser.add_argument("--scratch", action="store_true", help="new UNet and text encoder")
    parser.add_argument("--known", type=Path, help="captions START knows, one a line: warm-starts others")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000, help="length of the whole run; the learning rate ends here")
    parser.add_argument("--decay-from", type=float, default=0.4, help="part of the run after which the rate falls")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1, help="noise levels per picture in a batch")
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--average", type=float, default=0.995, help="decay of the weight average")
    parser.add_argument("--high", type=float, default=0.5, help="extra share of samples above timestep 650")
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="autocast; for CPUs with avx512_bf16 or AMX")
    return parser.parse_args()


def warm_start_words(parts: pipeline.Parts, entries: list[dataset.Entry], known: set[str], seed: int) -> int:
    """Gives words the model has not met the embedding of the known concept whose picture is nearest, plus noise.

    A new word then draws something of about the right shape and colour at once. Returns the number of words set.
    """
    pictures = torch.nn.functional.avg_pool2d(dataset.to_tensor(entries), 4).flatten(1)
    old = [i for i, entry in enumerate(entries) if entry.caption in known]
    if not old:
        return 0
    generator = torch.Generator().manual_seed(seed)
    eos = parts.tokenizer.token_to_id("<|endoftext|>")
    encodings = parts.tokenizer.encode_batch([entry.caption for entry in entries], add_special_tokens=False)
    words = [[token for token in encoding.ids if token != eos] for encoding in encodings]
    met = {token for i in old for token in words[i]}
    embedding = parts.text_encoder.get_input_embeddings().weight
    changed = 0
    with torch.no_grad():
        for i, entry in enumerate(entries):
            fresh = [token for token in words[i] if token not in met]
            if entry.caption in known or not fresh:
                continue
            distances = (pictures[old] - pictures[i]).square().mean(1)
            relative = words[old[int(distances.argmin())]][-1]
            for token in fresh:
                noise = torch.randn(embedding.shape[1], generator=generator) * embedding[relative].std()
                embedding[token] = 0.6 * embedding[relative] + 0.8 * noise
                met.add(token)
                changed += 1
    return changed


def draw_timesteps(count: int, high: float) -> torch.Tensor:
    """Stratified uniform timesteps, of which a share is moved above 650: there the prompt alone decides the picture."""
    uniform = (torch.arange(count) + torch.rand(count)) / count * TIMESTEPS
    uniform = uniform[torch.randperm(count)]
    late = 650 + (TIMESTEPS - 650) * torch.rand(count)
    chosen = torch.where(torch.rand(count) < high, late, uniform)
    return chosen.long().clamp(max=TIMESTEPS - 1)


class Difficulty:
    """Which pictures are still hard: each one's loss relative to the usual loss at the same noise level.

    A busy picture loses more than a plain one that is known equally badly, so the weight divides by how far the
    picture lies from the mean of all (root mean square over its latents).
    """

    BINS = 20

    def __init__(self, latents: torch.Tensor) -> None:
        count = len(latents)
        spread = (latents - latents.mean(0)).square().mean((1, 2, 3)).sqrt()
        self.spread = spread / spread.mean()
        self.usual = torch.full((self.BINS,), float("nan"))
        self.ratio = torch.ones(count)

    def update(self, pictures: torch.Tensor, timesteps: torch.Tensor, losses: torch.Tensor) -> None:
        for picture, timestep, loss in zip(pictures.tolist(), timesteps.tolist(), losses.tolist()):
            level = timestep * self.BINS // TIMESTEPS
            known = self.usual[level].item()
            self.usual[level] = loss if math.isnan(known) else 0.99 * known + 0.01 * loss
            # Low noise tells nothing about whether the prompt is understood.
            if timestep > 500:
                self.ratio[picture] = 0.95 * self.ratio[picture] + 0.05 * loss / self.usual[level].item()

    def weights(self) -> torch.Tensor:
        return (self.ratio / self.spread).clamp(0.6, 2.5)


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Warm-up over 40 steps, flat, then half a cosine down to 3 percent."""
    rate = options.rate * min(1.0, (step + 1) / 40)
    part = step / options.steps
    if part < options.decay_from:
        return rate
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, (part - options.decay_from) / (1 - options.decay_from))))
    return rate * (0.03 + 0.97 * fall)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    # The zeroed padding embeddings make denormal gradients, which cost a third of the step when computed as such.
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    state_file = options.out / "state.pt"

    parts = pipeline.load_parts(options.start)
    if options.scratch:
        parts.unet = pipeline.new_unet()
        parts.text_encoder = pipeline.new_text_encoder(parts.tokenizer.get_vocab_size())
        pipeline.cheap_attention(parts.unet, parts.text_encoder)
    unet = parts.unet.to(memory_format=torch.channels_last).train()
    text_encoder = parts.text_encoder.train()
    parameters = list(unet.parameters()) + list(text_encoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=options.rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)

    everything = dataset.load_entries(options.pictures, options.concepts, options.tier)
    entries = [entry for entry in everything if not entry.held_out]
    latents = pipeline.encode_pictures(parts.vae, dataset.to_tensor(entries))
    difficulty = Difficulty(latents)
    step = 0
    seen_captions: list[str] = []
    average = None
    if state_file.exists():
        state = torch.load(state_file, weights_only=False)
        unet.load_state_dict(state["unet"])
        text_encoder.load_state_dict(state["text_encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
        step = state["step"]
        seen_captions = state["captions"]
        difficulty.usual = state["usual"]
        torch.manual_seed(options.seed + step)
        rng.seed(options.seed + step)
        for i, entry in enumerate(entries):
            difficulty.ratio[i] = state["ratio"].get(entry.name, 1.5)
    elif options.known:
        seen_captions = options.known.read_text().splitlines()
    if seen_captions:
        print("words warm-started:", warm_start_words(parts, entries, set(seen_captions), options.seed), flush=True)
    if average is None:
        average = [parameter.detach().clone() for parameter in parameters]
    print(f"{len(entries)} pictures, step {step} of {options.steps}, latent std {latents.std():.3f}", flush=True)

    alphas = pipeline.schedule().alphas_cumprod
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    signal.signal(signal.SIGINT, lambda *_: stopped.append(True))

    def save() -> None:
        state = {
            "unet": unet.state_dict(),
            "text_encoder": text_encoder.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
            "captions": [entry.caption for entry in entries],
            "usual": difficulty.usual,
            "ratio": {entry.name: difficulty.ratio[i].item() for i, entry in enumerate(entries)},
        }
        torch.save(state, state_file.with_suffix(".new"))
        state_file.with_suffix(".new").rename(state_file)
        live = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            torch._foreach_copy_(parameters, average)
        pipeline.save_folder(parts, options.out / "emoji-sd", options.start / "tokenizer")
        with torch.no_grad():
            torch._foreach_copy_(parameters, live)

    saved = time.monotonic()
    cpu_before, samples = time.process_time(), 0
    loss_high = None
    while step < options.steps and not stopped:
        rate = learning_rate(step, options)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.multinomial(difficulty.weights(), options.batch // options.repeats)
        captions = ["" if rng.random() < 0.07 else dataset.spoken_caption(entries[i], rng) for i in chosen.tolist()]
        pictures = chosen.repeat_interleave(options.repeats)
        clean = latents[pictures]
        timesteps = draw_timesteps(len(pictures), options.high)
        noise = torch.randn_like(clean)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bfloat16):
            hidden = text_encoder(parts.token_ids(captions))[0].repeat_interleave(options.repeats, 0)
            predicted = unet(
                noisy.contiguous(memory_format=torch.channels_last), timesteps, encoder_hidden_states=hidden
            ).sample
        losses = (predicted.float() - target).square().mean((1, 2, 3))
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(options.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - decay)

        losses = losses.detach()
        with_words = torch.tensor([caption != "" for caption in captions]).repeat_interleave(options.repeats)
        difficulty.update(pictures[with_words], timesteps[with_words], losses[with_words])
        high = losses[(timesteps > 800) & with_words]
        if len(high):
            now = high.mean().item()
            loss_high = now if loss_high is None else 0.98 * loss_high + 0.02 * now
        step += 1
        samples += options.batch
        if step % 25 == 0:
            speed = samples / (time.process_time() - cpu_before)
            hardest = [entries[i].name for i in difficulty.weights().topk(4).indices.tolist()]
            print(
                f"{time.strftime('%H:%M:%S')} step {step} loss(t>800) {loss_high or 0:.4f} rate {rate:.1e} "
                f"{speed:.1f} samples/CPU-s hardest {' '.join(hardest)}",
                flush=True,
            )
        if time.monotonic() - saved > options.save_minutes * 60:
            save()
            saved = time.monotonic()
    save()


if __name__ == "__main__":
    main()
