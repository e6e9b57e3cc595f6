"""diffusers' U-Net as our decoders build it: u joins the time embedding, and tokens are attended to."""

from diffusers import UNet2DConditionModel

from models.fields import HEAD_DIM, NORM_GROUPS


def make_unet(
    channels: tuple[int, ...],
    blocks_per_level: int,
    *,
    side: int,
    in_out: tuple[int, int],
    embed_dim: int,
    token_dim: int | None = None,
    attention_levels: int = 0,
) -> UNet2DConditionModel:
    """Return a U-Net of these widths by level on a grid of `side` cells.

    With tokens, the middle block and so many of the lowest levels attend to them.
    """
    num_plain = len(channels) - attention_levels
    attends = ["CrossAttn" if level >= num_plain else "" for level in range(len(channels))]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=in_out[0],
        out_channels=in_out[1],
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in attends),
        mid_block_type="UNetMidBlock2D" if token_dim is None else "UNetMidBlock2DCrossAttn",
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(attends)),
        block_out_channels=channels,
        layers_per_block=blocks_per_level,
        attention_head_dim=tuple(width // HEAD_DIM for width in channels),  # diffusers means head counts
        cross_attention_dim=token_dim or HEAD_DIM,  # not read without tokens
        norm_num_groups=NORM_GROUPS,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=embed_dim,
    )
