"""The tiny models: which true architecture each one is, and in what its configuration differs.

Sizes are small, everything that decides how the network is wired is as published: block types,
heads and depths per block, projections, conditioning embeddings, tokenizer padding, scheduler.
Channel counts and group counts are deliberately not those that code tends to assume (32 groups,
equal widths, square pictures).
"""

from dataclasses import dataclass, field

# All Stable Diffusion models were trained on this noise schedule.
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP_CROSS, UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"

SD1_BLOCKS = dict(down_block_types=(CROSS, CROSS, PLAIN), up_block_types=(UP_PLAIN, UP_CROSS, UP_CROSS))
SDXL_BLOCKS = dict(down_block_types=(PLAIN, CROSS, CROSS), up_block_types=(UP_CROSS, UP_CROSS, UP_PLAIN))

# Published files carry these two keys whatever the scheduler's class: another class takes them over.
COMMON = dict(**BETAS, clip_sample=False, set_alpha_to_one=False)
PNDM = ("PNDMScheduler", dict(**COMMON, skip_prk_steps=True, steps_offset=1))
EULER = ("EulerDiscreteScheduler", dict(**COMMON, timestep_spacing="leading", steps_offset=1))
EULER_TRAILING = ("EulerDiscreteScheduler", dict(**COMMON, timestep_spacing="trailing", steps_offset=1))
EULER_A_TRAILING = ("EulerAncestralDiscreteScheduler", dict(**COMMON, timestep_spacing="trailing", steps_offset=1))
DDIM_V = (
    "DDIMScheduler",
    dict(**COMMON, prediction_type="v_prediction", steps_offset=1),
)
LCM = (
    "LCMScheduler",
    dict(**BETAS, clip_sample=False, set_alpha_to_one=True, original_inference_steps=50, timestep_spacing="leading"),
)


@dataclass(frozen=True)
class Text:
    """One CLIP text encoder and its tokenizer's padding rule."""

    hidden: int
    layers: int
    heads: int
    act: str
    projection: int | None = None
    # OpenCLIP text towers pad with "!" (id 0), OpenAI's with the end token.
    pad: str = "<|endoftext|>"
    split_pad: bool = False
    # Published configs up to 2023 say eos_token_id = 2, which means "the highest id": keep both kinds.
    legacy_eos: bool = True


CLIP_L = Text(hidden=32, layers=3, heads=4, act="quick_gelu")
OPEN_CLIP_H = Text(hidden=32, layers=4, heads=4, act="gelu", pad="!", split_pad=True)
OPEN_CLIP_G = Text(hidden=48, layers=3, heads=6, act="gelu", projection=40, pad="!")


def vae(**changes):
    """A f4 autoencoder: two halvings, so that the asymmetric padding of the encoder shows."""
    return {
        **dict(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 24),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
            scaling_factor=0.18215,
            force_upcast=False,
        ),
        **changes,
    }


def sdxl_vae(**changes):
    """SDXL's: another scaling factor, and f32 demanded by the config."""
    return vae(scaling_factor=0.13025, force_upcast=True, layers_per_block=2, block_out_channels=(8, 8, 24), **changes)


def unet(text_width, **changes):
    """A three-level UNet of widths 16, 24, 40 in 8 groups."""
    return {
        **dict(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 24, 40),
            cross_attention_dim=text_width,
            norm_num_groups=8,
        ),
        **changes,
    }


def sd1_unet(**changes):
    """SD 1.x: one head count for all levels (`attention_head_dim` counts heads), 1×1 convolutions as projections."""
    return unet(32, **{**SD1_BLOCKS, "attention_head_dim": 4, **changes})


def sd2_unet(**changes):
    """SD 2.x: heads per level, linear projections."""
    return unet(32, **{**SD1_BLOCKS, "attention_head_dim": (2, 3, 5), "use_linear_projection": True, **changes})


def sdxl_unet(time_ids=6, pooled=40, text_width=80, **changes):
    """SDXL: attention from the second level on, deeper with depth, pooled text and sizes added to the time."""
    sizes = 8
    return unet(
        text_width,
        **{
            **SDXL_BLOCKS,
            "attention_head_dim": (2, 3, 5),
            "transformer_layers_per_block": (1, 1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": sizes,
            "projection_class_embeddings_input_dim": pooled + time_ids * sizes,
            **changes,
        },
    )


def two_levels(config):
    """The same UNet without its middle level, to keep the files small."""
    return {k: (v[0], v[2]) if isinstance(v, tuple) else v for k, v in config.items()}


@dataclass(frozen=True)
class Family:
    """One tiny model: pipeline class, networks, scheduler and the picture sizes of its goldens."""

    name: str
    pipeline: str
    unet: dict
    texts: tuple
    scheduler: tuple
    vae: dict = field(default_factory=vae)
    index: dict = field(default_factory=dict)
    # Autoencoders published before 2023 name the projections of their attention query, key, value and proj_attn.
    old_vae_names: bool = False
    height: int = 48
    width: int = 64

    @property
    def is_xl(self):
        return self.unet.get("addition_embed_type") == "text_time"

    @property
    def pooled(self):
        """Width of the pooled text that an SDXL UNet takes."""
        return self.texts[-1].projection

    @property
    def is_refiner(self):
        """A refiner takes five time ids, the last one an aesthetic score, and has only the second encoder."""
        return bool(self.index.get("requires_aesthetics_score"))

    @property
    def encoders(self):
        """Component name to text encoder."""
        if self.is_refiner:
            return {"text_encoder_2": self.texts[0]}
        return dict(zip(("text_encoder", "text_encoder_2"), self.texts))


SD, XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
XL_TEXTS = (CLIP_L, OPEN_CLIP_G)
XL_INDEX = dict(force_zeros_for_empty_prompt=True)

FAMILIES = {
    f.name: f
    for f in (
        # layers_per_block as published, so one family has the full wiring of skips.
        Family("sd15", SD, sd1_unet(layers_per_block=2), (CLIP_L,), PNDM),
        Family("sd15-inpaint", "StableDiffusionInpaintPipeline", two_levels(sd1_unet(in_channels=9)), (CLIP_L,), PNDM),
        Family(
            "pix2pix", "StableDiffusionInstructPix2PixPipeline", two_levels(sd1_unet(in_channels=8)), (CLIP_L,), EULER
        ),
        Family("lcm", "LatentConsistencyModelPipeline", two_levels(sd1_unet(time_cond_proj_dim=16)), (CLIP_L,), LCM),
        # BK-SDM-Tiny: no middle block, attention on every level, one residual block each.
        Family(
            "tiny-sd",
            SD,
            sd1_unet(down_block_types=(CROSS,) * 3, up_block_types=(UP_CROSS,) * 3, mid_block_type=None),
            (CLIP_L,),
            PNDM,
            old_vae_names=True,
        ),
        Family("sd21-base", SD, sd2_unet(), (OPEN_CLIP_H,), PNDM),
        Family(
            "sd21-v",
            SD,
            sd2_unet(
                upcast_attention=True,
                norm_num_groups=16,
                block_out_channels=(16, 32, 32),
                attention_head_dim=(2, 4, 4),
            ),
            (OPEN_CLIP_H,),
            DDIM_V,
        ),
        Family(
            "sd2-inpaint", "StableDiffusionInpaintPipeline", two_levels(sd2_unet(in_channels=9)), (OPEN_CLIP_H,), PNDM
        ),
        Family("sd-turbo", SD, two_levels(sd2_unet()), (OPEN_CLIP_H,), EULER_TRAILING),
        Family(
            "sdxl",
            XL,
            sdxl_unet(layers_per_block=2, block_out_channels=(16, 24, 32), attention_head_dim=(2, 3, 4)),
            XL_TEXTS,
            EULER,
            vae=sdxl_vae(),
            index=XL_INDEX,
        ),
        Family(
            "sdxl-refiner",
            "StableDiffusionXLImg2ImgPipeline",
            sdxl_unet(
                time_ids=5,
                text_width=48,
                down_block_types=(PLAIN, CROSS, PLAIN),
                up_block_types=(UP_PLAIN, UP_CROSS, UP_PLAIN),
                transformer_layers_per_block=2,
            ),
            (OPEN_CLIP_G,),
            EULER,
            vae=sdxl_vae(),
            index=dict(requires_aesthetics_score=True, force_zeros_for_empty_prompt=False),
        ),
        Family(
            "sdxl-turbo",
            XL,
            two_levels(sdxl_unet()),
            XL_TEXTS,
            EULER_A_TRAILING,
            # The fp16 fix of the SDXL autoencoder: same scaling, no upcast.
            vae=vae(scaling_factor=0.13025),
            index=XL_INDEX,
        ),
        Family(
            "sdxl-inpaint",
            "StableDiffusionXLInpaintPipeline",
            two_levels(sdxl_unet(in_channels=9)),
            XL_TEXTS,
            EULER,
            vae=vae(scaling_factor=0.13025),
            index=dict(**XL_INDEX, requires_aesthetics_score=False),
        ),
        # SSD-1B: depths per transformer, other depths on the way up, a middle block without attention.
        Family(
            "ssd1b",
            XL,
            sdxl_unet(
                layers_per_block=2,
                mid_block_type="UNetMidBlock2D",
                transformer_layers_per_block=(1, (1, 2), (2, 2)),
                reverse_transformer_layers_per_block=((2, 1, 3), (1, 2, 1), 1),
                block_out_channels=(16, 16, 24),
                attention_head_dim=(2, 2, 3),
            ),
            XL_TEXTS,
            EULER,
            vae=vae(scaling_factor=0.13025),
            index=XL_INDEX,
        ),
    )
}
