"""How each type of captioning model is asked: the tokens it reads or begins with, and where its own words begin."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.caption_images.check import wrong_conversation
from stages.encoders.image_to_text.loading import ImageToText


@dataclass(frozen=True)
class Prompt:
    """What a model is given beside the images."""

    tokens: Int[Tensor, "1 tokens"] | None
    """None: nothing, the model begins in its own way."""
    argument: str = "input_ids"
    """Of the model's ``generate``."""
    num_left_out: int = 0
    """So many tokens at the beginning of what is generated are no part of the caption."""

    def to(self, device: str) -> "Prompt":
        """Return it on a device."""
        return self if self.tokens is None else replace(self, tokens=self.tokens.to(device))

    def arguments(self, batch_size: int) -> dict[str, Tensor]:
        """Return what ``generate`` is given for a batch."""
        return {} if self.tokens is None else {self.argument: self.tokens.repeat(batch_size, 1)}


def make_prompt(text: str | None, loaded: ImageToText, pixels: Float[Tensor, "1 3 height width"]) -> Prompt:
    """Return the prompt of a text, which may be None; InputFault: the model needs another one.

    ``pixels`` is any image, of which a model that puts images among its tokens takes as many as of all others.
    """
    config, special = loaded.model.config, loaded.tokenizer
    match loaded.model_type:
        case "llava":
            return _conversation(text, loaded, pixels)
        case "blip-2":
            is_one_text = not config.is_encoder_decoder
            num_image_tokens = int(config.num_query_tokens)
            image = [config.image_token_index] * num_image_tokens
            tokens = None if text is None else torch.tensor([[*image, *special(text)["input_ids"]]])
            return Prompt(tokens, num_left_out=num_image_tokens if is_one_text else 0)
        case "git":
            return Prompt(_beginning(text, loaded, special.cls_token_id))
        case "blip":  # cuts off the last token, which ends a text
            return Prompt(_beginning(text, loaded, special.bos_token_id, special.sep_token_id))
        case _:
            start = loaded.model.generation_config.decoder_start_token_id
            return Prompt(_beginning(text, loaded, start), "decoder_input_ids")


def _beginning(text: str | None, loaded: ImageToText, begins: int | None, *ends: int | None) -> Tensor | None:
    if text is None:
        return None
    tokens: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([[token for token in (begins, *tokens, *ends) if token is not None]])


def _conversation(text: str | None, loaded: ImageToText, pixels: Tensor) -> Prompt:
    """Return a whole conversation, in which the image's features stand in the place of the image's token.

    It is written by the user: a template of the folder is a program of a stranger, and is not run.
    """
    number = int(loaded.model.config.image_token_index)
    token = str(loaded.tokenizer.convert_ids_to_tokens(number))
    if text is None or text.count(token) != 1:
        raise wrong_conversation("none" if text is None else f"{text.count(token)} times {token}", token)
    with torch.inference_mode():
        features = loaded.model.get_image_features(pixel_values=pixels).pooler_output
    tokens: list[int] = loaded.tokenizer(text)["input_ids"]
    position = tokens.index(number)
    tokens[position : position + 1] = [number] * len(features[0])
    return Prompt(torch.tensor([tokens]), num_left_out=len(tokens))
