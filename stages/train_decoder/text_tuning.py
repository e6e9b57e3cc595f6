"""Go on with a trained decoder on image and text embeddings together (Shifted Diffusion, arXiv 2211.15388).

The decoder begins as it is, bit for bit: what texts add to its tokens is 0 at first. It learns from captioned images
alone. Images without text can still be generated, as some texts are left out in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from models.decoders.training import denoiser_of
from models.fields import leaves
from stages.contract.errors import InputFault
from stages.contract.secrets import redact_addresses
from stages.formats.clips import Clips, read_clips, require_same_clips
from stages.formats.model_folders import load_model_config, load_model_state
from stages.train_decoder.base_config import TextTunedConfig
from stages.train_decoder.bucketed import BucketedTask
from stages.train_decoder.captions import CaptionRows
from stages.training.images.dataset import Indices
from stages.training.initial_weights import FIRST_STAGE, initial_folder
from stages.training.randomness import sample_uniform
from stages.training.task import Batch, BatchPart

#: What may change in a decoder's configuration without changing what its weights mean.
_FREE = frozenset({"text_dim", "gradient_checkpointing", "empty_probability", "embedding_noise"})
_TEXT = "text"


@dataclass
class TextTunedTask(BucketedTask):
    """Trains from random weights on all images; with ``text``, tunes a trained decoder to read texts."""

    config: TextTunedConfig

    @cached_property
    def _texts(self) -> CaptionRows:
        return CaptionRows(self.inputs["embed_clip"], self.data.names, self.config.captions, where="text")

    @cached_property
    def _text_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return self._texts.statistics()

    def sizes(self) -> list[int]:
        """Return how many images of each shard are trained on: all, or the captioned ones."""
        return super().sizes() if self.config.text is None else self._texts.sizes()

    def rows_at(self, indices: Indices) -> Indices:
        """Return the rows of indices that are counted among the images trained on."""
        return super().rows_at(indices) if self.config.text is None else self._texts.rows_at(indices)

    def build_model(self) -> nn.Module:
        """Make the model; one that is to read texts goes on from the trained decoder, statistics included."""
        if self.config.text is None:
            return super().build_model()
        model = self.make_model()
        known = self._begin_as_trained(self.decoder_of(model))
        if not known:
            mean, std = self._text_statistics
            denoiser_of(model).set_text_statistics(torch.from_numpy(mean).float(), torch.from_numpy(std).float())
        return model

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Join what is read with random numbers, and the captions' embeddings; some are left out (NaN)."""
        batch = dict(super().batch(indices, part))
        if self.config.text is not None:
            left_out = sample_uniform(self.config.seed, part, "caption") < self.config.text.text_dropout
            choice = sample_uniform(self.config.seed, part, "which_caption")
            text = torch.from_numpy(self._texts.choose(indices, choice))
            batch["text"] = text.masked_fill(torch.from_numpy(left_out)[:, None], torch.nan)
        return batch

    def loss_settings(self) -> dict[str, Any]:
        """Return what the loss is of; where texts are read, also which."""
        text = self.config.text
        read = {} if text is None else {"text": text.model_dump(), "captions": self.config.captions.identity()}
        return super().loss_settings() | read

    def texts_of(self, indices: Indices) -> np.ndarray | None:
        """Return the embeddings of the human captions (NaN: none)."""
        return None if self.config.text is None else self._texts.read(indices)

    def _begin_as_trained(self, decoder: nn.Module) -> bool:
        """Give the decoder the trained one's weights; return whether that one reads texts already."""
        source, folder = initial_folder(self.config)
        where = f"train_decoder.init_from: {redact_addresses(str(self.config.init_from))}"
        found = load_model_config(source, folder)
        clips = Clips.parse(found.get("clip"), source, folder, owner="the decoder")
        self._require_same(found, clips, where)
        state, own = load_model_state(source, folder), decoder.state_dict()
        new = {name for name in own.keys() - state.keys() if _TEXT not in name.split(".")}
        other = {
            name
            for name in state.keys() & own.keys()
            if state[name].shape != own[name].shape
            or (name.startswith(FIRST_STAGE) and not torch.equal(state[name], own[name].cpu()))
        }
        if new or other or state.keys() - own.keys():
            odd = sorted(new | other | (state.keys() - own.keys()))[0]
            raise InputFault(
                f"{where}: its weights are not those of this decoder ({odd} differs): expected a decoder of this "
                "configuration, and of the same first stage where it has one: name another, or change train_decoder"
            )
        decoder.load_state_dict(state, strict=False)
        return bool(found["model"].get("text_dim"))

    def _require_same(self, found: Mapping[str, Any], clips: Clips, where: str) -> None:
        embedded = read_clips(self.inputs["embed_clip"])
        require_same_clips(where, clips, embedded, "name a decoder that was trained on these embeddings")
        before, now = dict(leaves(found["model"])), dict(leaves(self.spec.to_dict()))
        changed = [name for name in now if name.rpartition(".")[2] not in _FREE and before.get(name) != now[name]]
        if changed:
            name = changed[0]
            raise InputFault(
                f"{where}: {name} is {before.get(name)!r} there, and {now[name]!r} here: expected the same: set "
                "train_decoder as it was when that decoder was trained (extends: its experiment)"
            )
