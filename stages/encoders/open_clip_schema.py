"""What an ``open_clip_config.json`` may say: open_clip's own fields, of bounded values, and no name of another place.

The fields are those of open_clip's CLIPVisionCfg, CLIPTextCfg, MultimodalCfg and PreprocessCfg; sizes that are not
given are its own, by which it would build the model. Left out are
``hf_model_name``, for a text tower that transformers would fetch, and of ``tokenizer_kwargs`` all that transformers
would take as an option of loading.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.contract.errors import InputFault
from stages.contract.parsing import shown
from stages.encoders.model_files import read_model_json, refuse, require_weights

_Count = Annotated[int, Field(ge=0, le=10_000_000)]
_Width = Annotated[int, Field(ge=1, le=65_536)]
_Layers = Annotated[int, Field(ge=1, le=1_000)]
_Number = Annotated[float, Field(ge=-1e6, le=1e6)]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{0,64}$")]
_Pixels = Annotated[int, Field(ge=1, le=16_384)]
_RESNET_GROWTH = 32  # channels at the end of open_clip's ResNet by those at its beginning
_Color = Annotated[list[_Number], Field(min_length=3, max_length=3)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Activation(_Section):
    approximate: Literal["none", "tanh"] = "none"


class _Norm(_Section):
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-5


class _TokenizerOptions(_Section):
    clean: Literal["lower", "whitespace", "canonicalize"] | None = None
    strip_sep_token: bool = False


class _Attention(_Section):
    width: _Width
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] = 4.0
    ls_init_value: _Number | None = None
    final_ln_after_pool: bool = False
    pool_type: _Word | None = None
    output_tokens: bool = False
    act_kwargs: _Activation | None = None
    norm_kwargs: _Norm | None = None
    block_type: _Word | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


class _Vision(_Attention):
    width: _Width = 768
    layers: _Layers | Annotated[list[_Layers], Field(min_length=4, max_length=4)] = 12
    head_width: _Width = 64
    patch_size: _Pixels | None = 16
    image_size: _Pixels | Annotated[list[_Pixels], Field(min_length=2, max_length=2)] = 224
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    attentional_pool: bool | _Word = False
    attn_pooler_queries: _Count = 256
    attn_pooler_heads: _Width = 8
    no_ln_pre: bool = False
    pos_embed_type: _Word | None = None
    # of timm's registry: a name with a colon or slash would be one of a hub or a folder
    timm_model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,100}$")] | None = None
    timm_model_pretrained: bool = False
    timm_pool: _Word | None = None
    timm_proj: _Word | None = None
    timm_proj_bias: bool = False
    timm_drop: Annotated[float, Field(ge=0, lt=1)] | None = None
    timm_drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None


class _Text(_Attention):
    width: _Width = 512
    layers: _Layers = 12
    heads: _Width = 8
    context_length: Annotated[int, Field(ge=1, le=65_536)] = 77
    vocab_size: _Count = 49_408
    # any name: for a folder, open_clip reads the tokenizer from the folder itself
    hf_tokenizer_name: Annotated[str, Field(max_length=200)] | None = None
    tokenizer_mode: Literal["clips"] | None = None
    tokenizer_kwargs: _TokenizerOptions | None = None
    embed_cls: bool = False
    pad_id: _Count | None = None
    eos_id: _Count | None = None
    no_causal_mask: bool = False
    proj_bias: bool = False
    proj_type: _Word | None = None


class _Multimodal(_Text):
    dim_head: _Width = 64
    n_queries: _Count = 256
    attn_pooler_heads: _Width = 8


class _Model(_Section):
    embed_dim: _Width
    vision_cfg: _Vision
    text_cfg: _Text
    multimodal_cfg: _Multimodal | None = None
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: _Number | None = None
    init_logit_bias: _Number | None = None
    nonscalar_logit_scale: bool = False


class _Preprocessing(_Section):
    size: _Pixels | Annotated[list[_Pixels], Field(min_length=1, max_length=2)] | None = None
    mode: Literal["RGB"] | None = None
    mean: _Color | None = None
    std: _Color | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Field(ge=0, le=255)] | None = None


class _Folder(_Section):
    model_cfg: _Model
    preprocess_cfg: _Preprocessing | None = None


def check_open_clip_config(file: Path, where: str) -> None:
    """Refuse a config that says more than open_clip's own fields, or other values than theirs."""
    content = read_model_json(file, where)
    try:
        model = _Folder.model_validate(content).model_cfg
    except ValidationError as error:
        raise _refuse(file, where, error) from None
    require_weights(file.parent, _num_weights(model), file, where)


def check_towers(embed_dim: int, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Refuse towers of a config of ours that say more than open_clip's own fields, or other values than theirs.

    Raises:
        ValueError: with the key, and what is allowed.
    """
    try:
        _Model.model_validate({"embed_dim": embed_dim, "vision_cfg": dict(vision), "text_cfg": dict(text)})
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        name, *inner = map(str, first["loc"])
        if first["type"] != "extra_forbidden":
            raise ValueError(f"{'.'.join([name, *inner])}: {shown(first['msg'])}") from None
        towers: dict[str, type[_Section]] = {"vision_cfg": _Vision, "text_cfg": _Text}
        tower = towers.get(name, _Model)
        close = difflib.get_close_matches(inner[0], tower.model_fields, 1) if inner else []
        hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(tower.model_fields)}"
        raise ValueError(f"{'.'.join([name, *inner])}: unknown key; {hint}") from None


def _num_weights(model: _Model) -> float:
    """Return how many numbers the towers of the model hold at least."""
    text, vision = model.text_cfg, model.vision_cfg
    found = text.vocab_size * text.width + _num_in_layers(text, text.layers)
    if vision.timm_model_name is not None:
        return found
    if isinstance(vision.layers, int):
        return found + _num_in_layers(vision, vision.layers)
    return found + 3 * (_RESNET_GROWTH * vision.width) ** 2  # of its attention pooling alone


def _num_in_layers(tower: _Attention, layers: int) -> float:
    return layers * tower.width**2 * (4 + 2 * tower.mlp_ratio)


def _refuse(file: Path, where: str, error: ValidationError) -> InputFault:
    first: Any = error.errors(include_url=False)[0]
    key = shown(".".join(map(str, first["loc"])))
    if first["loc"][-1] == "hf_model_name":
        return refuse(
            where,
            file,
            f"the key {key} ({shown(first['input'], 60)}), a text tower that open_clip would fetch from a hub",
            "open_clip's own text towers: take a CLIP with one, and give a language model as "
            "embed_clip.text_states.language_model",
        )
    if first["type"] == "extra_forbidden":
        return refuse(
            where, file, f"the key {key} ({shown(first['input'], 60)})", "what open_clip's towers are made of"
        )
    return refuse(where, file, f"{key} is {shown(first.get('input'), 60)!r} ({shown(first['msg'])})", "what it says")
