"""Train a CLIP model of one's own, for domains or machines without a pretrained one."""
