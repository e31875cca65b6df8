"""Hugging Face transformers: every kind of model by its own configuration class, two layers of width 64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.foreign.architecture import Architecture, Input, images, normal, tokens

WORDS, LENGTH, SIZE, SECONDS = 128, 12, 32, 1600

# What makes a configuration small, wherever it has such a number.
_SMALL: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "hidden_dim", "embed_dim", "encoder_hidden_dim"), 64),
    **dict.fromkeys(
        ("embedding_size", "d_embed", "word_embed_proj_dim", "projection_dim", "backbone_out_channels"), 64
    ),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "num_hidden_groups"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner"), 128),
    **dict.fromkeys(("encoder_intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "n_group", "topk_group"), 2),
    **dict.fromkeys(("vocab_size", "entity_vocab_size", "vocab_size_or_config_json_file"), WORDS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("image_size", "vision_image_size"), SIZE),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("sliding_window",), 8),
}
_TEXT = (
    "albert bert bert-generation big_bird bloom camembert canine codegen cohere convbert ctrl data2vec-text "
    "deberta deberta-v2 distilbert electra ernie esm falcon flaubert fnet gemma gemma2 glm gpt2 gpt_bigcode "
    "gpt_neo gpt_neox gptj granite helium ibert jamba layoutlm lilt llama longformer luke mamba mamba2 "
    "megatron-bert mistral mixtral mobilebert modernbert mpnet mpt mra nystromformer olmo olmo2 openai-gpt opt "
    "persimmon phi phi3 qwen2 qwen2_moe qwen3 reformer rembert roberta roberta-prelayernorm roc_bert roformer "
    "rwkv smollm3 splinter squeezebert stablelm starcoder2 tapas xglm xlm xlm-roberta xlnet yoso "
    "recurrent_gemma deepseek_v3 eurobert ernie4_5 exaone4 granitemoe biogpt bitnet diffllama doge nomic_bert "
    "gpt_oss glm4"
)
_TRANSLATION = (
    "bart blenderbot-small fsmt led longt5 m2m_100 marian mbart mt5 mvp nllb-moe pegasus pegasus_x plbart "
    "prophetnet switch_transformers t5 umt5"
)
_VISION = (
    "beit bit cvt data2vec-vision deit dinov2 dinov2_with_registers dinov3_vit dpt efficientnet focalnet glpn "
    "hgnet_v2 hiera ijepa mobilenet_v1 mobilenet_v2 mobilevit poolformer pvt pvt_v2 regnet resnet segformer "
    "siglip_vision_model swiftformer swin swin2sr swinv2 textnet vit vit_mae vit_msn vitdet yolos "
    "clip_vision_model aimv2_vision_model"
)
_SOUND = "data2vec-audio hubert sew sew-d unispeech unispeech-sat wav2vec2 wav2vec2-conformer wavlm"
# Frames of a spectrogram (N, frames, bins), or (N, bins, frames) where the second is larger; videos (N, T, C, H, W).
_FRAMES = {
    "audio-spectrogram-transformer": (64, 32),
    "speech_to_text": (40, 80),
    "wav2vec2-bert": (24, 160),
    "parakeet_encoder": (64, 80),
    "timesformer": (8, 3, SIZE, SIZE),
    "vivit": (8, 3, SIZE, SIZE),
    "videomae": (4, 3, SIZE, SIZE),
    "encodec": (1, SECONDS),
    "mimi": (1, SECONDS),
    "whisper": (80, 128),
}

# What single configurations need besides, by type.
_OWN: dict[str, dict[str, Any]] = {
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [4, 8], "attn_layers": ["local", "local"]},
    "swin": {"depths": [1, 1], "num_heads": [2, 4], "embed_dim": 32, "window_size": 4, "patch_size": 2},
    "swinv2": {"depths": [1, 1], "num_heads": [2, 4], "embed_dim": 32, "window_size": 4, "patch_size": 2},
    "swin2sr": {"depths": [2], "num_heads": [2], "embed_dim": 32, "window_size": 4, "patch_size": 1},
    "focalnet": {"depths": [1, 1], "embed_dim": 32, "hidden_sizes": [32, 64], "focal_levels": [2, 2]},
    "segformer": {"hidden_sizes": [16, 32, 48, 64]},
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "deepseek_v3": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "head_dim": 8, "kv_lora_rank": 32},
    "efficientnet": {"hidden_dim": 2560},
    "hiera": {"image_size": [64, 64], "embed_dim": 32},
    "vivit": {"num_frames": 8, "tubelet_size": [2, 16, 16]},
    "timesformer": {"num_frames": 8},
    "whisper": {"max_source_positions": 64},
    "speech_to_text": {"max_source_positions": 64, "conv_channels": 64},
    "mimi": {"hidden_size": 64, "num_filters": 16, "upsample_groups": 64, "codebook_dim": 64},
    "parakeet_encoder": {"num_mel_bins": 80},
    "esm": {"vocab_size": WORDS, "pad_token_id": 0, "mask_token_id": 1},
    "lilt": {"channel_shrink_ratio": 4, "max_2d_position_embeddings": 64, "hidden_size": 96},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1, "state_size": 16, "chunk_size": 8},
    "longformer": {"attention_window": 4},
    "big_bird": {"attention_type": "original_full"},
    "xlnet": {"d_inner": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    "videomae": {"num_frames": 4},
    "patchtst": {"context_length": 32, "num_input_channels": 3, "patch_length": 8, "patch_stride": 8},
    "patchtsmixer": {"context_length": 32, "num_input_channels": 3, "patch_length": 8, "patch_stride": 8},
}


def configuration(kind: str) -> Any:
    """The smallest configuration of this type."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[kind]
    plain = cls()
    given = {name for name in _SMALL if not isinstance(getattr(cls, name, None), property)}
    wanted = {name: _SMALL[name] for name in given if type(getattr(plain, name, None)) is int}
    if type(getattr(plain, "patch_size", None)) is int and isinstance(getattr(plain, "image_size", None), int):
        wanted["patch_size"] = 8
    own = _OWN.get(kind, {})
    found = cls(**{name: value for name, value in {**wanted, **own}.items() if value is not None})
    for name in ("use_cache", "output_attentions", "output_hidden_states"):
        if hasattr(found, name):
            setattr(found, name, False)
    return found


def _drawn(kind: str, auto: str) -> nn.Module:
    import transformers

    model: nn.Module = getattr(transformers, auto).from_config(configuration(kind))
    return model


class Translating(nn.Module):
    """An encoder and a decoder, each with its tokens."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.model = _drawn(kind, "AutoModel")

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Tokens (N, L) and (N, M) to the decoder's last states."""
        states: torch.Tensor = self.model(input_ids=source, decoder_input_ids=target).last_hidden_state
        return states


class Encoding(nn.Module):
    """The encoder alone of what has a decoder as well."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        whole: Any = _drawn(kind, "AutoModel")
        self.encoder = whole.get_encoder()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Frames of a spectrogram to states."""
        states: torch.Tensor = self.encoder(features).last_hidden_state
        return states


def _two(count: int) -> list[Input]:
    return [tuple(torch.randint(1, WORDS, (1, n)) for n in (LENGTH, 6)) for _ in range(count)]


def _sounds(count: int) -> list[Input]:
    return [(torch.randn(1, SECONDS),) for _ in range(count)]


def architectures() -> Iterator[Architecture]:
    """All of them."""
    for kind in _TEXT.split():
        yield _one(kind, partial(_drawn, kind, "AutoModel"), tokens(LENGTH, WORDS))
    for kind in _TRANSLATION.split():
        yield _one(kind, partial(Translating, kind), _two)
    for kind in _VISION.split():
        yield _one(kind, partial(_drawn, kind, "AutoModel"), _pictures(kind))
    for kind in _SOUND.split():
        yield _one(kind, partial(_drawn, kind, "AutoModel"), _sounds)
    for kind, shape in _FRAMES.items():
        whole = kind in ("speech_to_text", "whisper")
        make = partial(Encoding, kind) if whole else partial(_drawn, kind, "AutoModel")
        yield _one(kind, make, normal((1, *shape)))


def _pictures(kind: str) -> Any:
    return images(64 if kind == "hiera" else SIZE)


def _one(kind: str, make: Callable[[], nn.Module], inputs: Any) -> Architecture:
    return Architecture(f"transformers/{kind}", "transformers", make, inputs)
