"""Keys of earlier versions and what they are called now, for the message about an unknown key."""

RENAMED = {
    "train_clip.validation_fraction": "split.validation",
    "train_prior.validation.fraction": "split.validation",
    "evaluate.judge": "evaluate.independent_clip",
    "train_autoencoder.codebook.dead_share": "train_autoencoder.codebook.dead_fraction",
    "train_decoder.discriminator.deviation_group": "train_decoder.discriminator.std_group",
    "train_decoder.text.start": "train_decoder.init_from",
    "train_decoder.text.init_checkpoint": "train_decoder.init_from",
    # of kind stable_diffusion
    "train_decoder.num_tokens": "train_decoder.conditioning.num_tokens",
    "train_decoder.empty_probability": "train_decoder.conditioning.empty_probability",
    "train_decoder.embedding_noise": "train_decoder.conditioning.embedding_noise",
    "train_decoder.loss_weight": "train_decoder.process.loss_weight",
    "train_decoder.min_snr_gamma": "train_decoder.process.min_snr_gamma",
}
