"""Keys of earlier versions and what they are called now, for the message about an unknown key."""

RENAMED = {
    "evaluate.judge": "evaluate.independent_clip",
    "train_autoencoder.codebook.dead_share": "train_autoencoder.codebook.dead_fraction",
    "train_decoder.discriminator.deviation_group": "train_decoder.discriminator.std_group",
}
