"""Goldens of textual inversion: learned vectors in place of tokens, for the tiny SD 1.5 and SDXL."""

import torch

import build
import families
import pictures
from common import FIXTURES, GOLDENS, MODELS, randn, save_json, save_tensors

PROMPT = "a red apple in {} on the table"
COUNT = 2


def _encode(encoder, tokenizer, vectors, prefix):
    """Ids with `COUNT` new ones behind the vocabulary, and the hidden states they lead to."""
    before, after = PROMPT.split("{}")
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)]
    first = encoder.config.vocab_size
    row = [tokenizer.bos_token_id, *ids[0], *range(first, first + COUNT), *ids[1], tokenizer.eos_token_id]
    end = len(row) - 1
    row += [tokenizer.pad_token_id] * (77 - len(row))
    table = encoder.get_input_embeddings()
    plain = table.weight.clone()
    encoder.resize_token_embeddings(first + COUNT, mean_resizing=False)
    encoder.get_input_embeddings().weight[first:] = vectors
    out = encoder(torch.tensor([row]), output_hidden_states=True)
    assert torch.equal(encoder.get_input_embeddings().weight[:first], plain)
    # By position: transformers looks for the highest id, which is not the end token any more.
    at_end = out.last_hidden_state[:, end]
    found = {
        f"{prefix}.ids": torch.tensor([row]),
        f"{prefix}.final": out.last_hidden_state,
        f"{prefix}.penultimate": out.hidden_states[-2],
        f"{prefix}.pooled": at_end,
    }
    if hasattr(encoder, "text_projection"):
        found[f"{prefix}.projected"] = encoder.text_projection(at_end)
    return found


def _picture(pipe, family, stored, token):
    """A whole picture with the embedding, by the pipeline's own loader."""
    encoders = [("clip_l", "text_encoder", "tokenizer"), ("clip_g", "text_encoder_2", "tokenizer_2")]
    for key, part, words in encoders:
        encoder = getattr(pipe, part, None)
        if encoder is None:
            continue
        vectors = stored.get(key, stored.get("emb_params"))
        # The pooled state is that of the end token; transformers' rule for old configs takes the highest id, which
        # is that of the new token.
        encoder.text_model.eos_token_id = getattr(pipe, words).eos_token_id
        pipe.load_textual_inversion(vectors, token, text_encoder=encoder, tokenizer=getattr(pipe, words))
    size = families.FAMILIES[family]
    prompt = PROMPT.format(token)
    picture = pictures.Picture("embedding", pictures.EULER, steps=8, prompt=prompt, negative="dark")
    made, about = pictures.run(pipe, picture, size.height, size.width, size.is_xl)
    return made["image"], about


def write():
    """Makes `tests/fixtures/embeddings/`, `goldens/embeddings.safetensors` and `.json`."""
    tensors, abouts = {}, {}
    folder = FIXTURES / "embeddings"
    for family, file in (("sd15", "tiny-style.safetensors"), ("sdxl", "tiny-style-xl.safetensors")):
        pipe = build.load_pipeline(MODELS / family)
        stored = {}
        for part, key in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
            encoder = getattr(pipe, part, None)
            if encoder is None:
                continue
            vectors = randn(f"embedding/{family}/{part}", COUNT, encoder.config.hidden_size) * 0.7
            # SD 1 and 2 files have one tensor of this name; SDXL files one for each encoder.
            stored["emb_params" if family == "sd15" else key] = vectors
            tokenizer = getattr(pipe, part.replace("text_encoder", "tokenizer"))
            tensors |= _encode(encoder, tokenizer, vectors, f"{family}.{part}")
        save_tensors(folder / file, stored)
        fresh = build.load_pipeline(MODELS / family)
        image, about = _picture(fresh, family, stored, file.removesuffix(".safetensors"))
        tensors[f"{family}.embedding.image"] = image
        abouts[family] = {"embedding": about}
    save_tensors(GOLDENS / "embeddings.safetensors", tensors)
    save_json(GOLDENS / "embeddings.json", abouts)
