"""StyleGAN2 conditioned on a CLIP image embedding (method section 3). This package imports no torch by itself."""

from models.decoders.stylegan2.spec import AdversarialSettings, DiscriminatorConfig, StyleGan2Config

__all__ = ["AdversarialSettings", "DiscriminatorConfig", "StyleGan2Config"]
