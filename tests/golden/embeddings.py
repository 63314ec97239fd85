"""Goldens of textual inversion: learned vectors in place of tokens, for the tiny SD 1.5 and SDXL."""

import torch

import build
from common import FIXTURES, GOLDENS, MODELS, randn, save_tensors

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


def write():
    """Makes `tests/fixtures/embeddings/` and `goldens/embeddings.safetensors`."""
    tensors = {}
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
    save_tensors(GOLDENS / "embeddings.safetensors", tensors)
