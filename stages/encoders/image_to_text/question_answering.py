"""How well an image fits a text by a model that answers questions about images.

Paper: Z. Lin et al., Evaluating Text-to-Visual Generation with Image-to-Text Generation, ECCV 2024 (arXiv 2404.01291),
section 3: VQAScore(image, text) = P(reply | image, question about the text), the product of the probabilities of the
reply's tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.contract.errors import InputFault
from stages.encoders.image_to_text.check import check_question_answering
from stages.encoders.image_to_text.config import QuestionAnswering
from stages.encoders.image_to_text.loading import ImageToText, load_image_to_text
from stages.encoders.model_files import describe_load_error, read_model_json

Images = UInt8[np.ndarray, "batch height width 3"]


class ReplyScorer:
    """The probabilities of a reply, of one model; the arithmetic is float32."""

    def __init__(self, config: QuestionAnswering, *, device: str, where: str) -> None:
        """Load the model; InputFault: it is not there, says what none may say, or cannot reply to a question."""
        from transformers import AutoModelForCausalLM, AutoModelForVisualQuestionAnswering

        check_question_answering(config, where)
        kind = read_model_json(config.path / "config.json", f"{where}.path")["model_type"]
        auto_class = {"blip": AutoModelForVisualQuestionAnswering, "git": AutoModelForCausalLM}[kind]
        self._loaded = load_image_to_text(config.path, auto_class, str(config.path), f"{where}.path")
        self._loaded.model.to(device)
        self._question, self._device, self._logits = config.question, device, _LOGITS[kind]
        self._reply: list[int] = self._loaded.tokenizer(config.reply, add_special_tokens=False)["input_ids"]
        if not self._reply:
            raise InputFault(f"{where}.reply: {config.reply!r} is no token of {config.path}: give another word")
        self.name, self.digest = f"{kind} {config.path.name}", self._loaded.digest
        try:  # so that parts which do not belong together show before any image is read
            self(np.full((1, 64, 64, 3), 128, np.uint8), ["a"])
        except Exception as error:  # the libraries raise errors of many types
            raise InputFault(
                f"{where}.path: {config.path} cannot reply to a question ({describe_load_error(error)}): expected "
                "model, image processor and tokenizer that belong together: save the model again"
            ) from error

    @torch.inference_mode()
    def __call__(self, images: Images, texts: Sequence[str]) -> Float[Tensor, " batch"]:
        """Return the probability of the reply for each image and its text; a question too long for the model is cut.

        P(reply | image, question) = prod_i p(a_i | image, question, a_<i), over the reply's tokens a_i.
        """
        pixels = self._loaded.pixels([Image.fromarray(image) for image in images]).to(self._device)
        questions = [self._question.replace("{}", text) for text in texts]
        logits = self._logits(self._loaded, pixels, questions, self._reply)
        reply = torch.tensor(self._reply, device=self._device).expand(len(texts), -1)
        chosen = logits.log_softmax(-1).gather(-1, reply[..., None])[..., 0]  # log p(a_i | ...): [batch, reply]
        return chosen.sum(-1).exp().cpu()


def _of_blip(
    loaded: ImageToText, pixels: Float[Tensor, "batch 3 height width"], questions: Sequence[str], reply: list[int]
) -> Float[Tensor, "batch reply words"]:
    """Return the logits of the reply's tokens; an encoder reads image and question, and a decoder replies."""
    longest = loaded.model.config.text_config.max_position_embeddings
    asked = loaded.tokenizer(list(questions), truncation=True, max_length=longest)["input_ids"]
    found: dict[int, Tensor] = {}
    for length in sorted({len(one) for one in asked}):  # unpadded: the decoder of transformers attends to padding
        rows = [row for row, one in enumerate(asked) if len(one) == length]
        tokens = torch.tensor([asked[row] for row in rows], device=pixels.device)
        found |= dict(zip(rows, _of_equally_long(loaded.model, pixels[rows], tokens, reply), strict=True))
    return torch.stack([found[row] for row in range(len(questions))])


def _of_equally_long(
    model: Any, pixels: Float[Tensor, "batch 3 height width"], tokens: Int[Tensor, "batch tokens"], reply: list[int]
) -> Float[Tensor, "batch reply words"]:
    seen = model.vision_model(pixel_values=pixels).last_hidden_state
    read = model.text_encoder(input_ids=tokens, encoder_hidden_states=seen).last_hidden_state
    begun = torch.tensor([model.decoder_start_token_id, *reply[:-1]], device=pixels.device).expand(len(tokens), -1)
    logits: Tensor = model.text_decoder(input_ids=begun, encoder_hidden_states=read).logits
    return logits.float()


def _of_git(
    loaded: ImageToText, pixels: Float[Tensor, "batch 3 height width"], questions: Sequence[str], reply: list[int]
) -> Float[Tensor, "batch reply words"]:
    """Return the logits of the reply's tokens, which follow on the image and the question in one sequence."""
    model, tokenizer = loaded.model, loaded.tokenizer
    room = model.config.max_position_embeddings - len(reply) - 1
    asked = tokenizer(list(questions), add_special_tokens=False, truncation=True, max_length=room)["input_ids"]
    rows = [torch.tensor([tokenizer.cls_token_id, *one, *reply]) for one in asked]
    tokens = pad_sequence(rows, batch_first=True, padding_value=model.config.pad_token_id).to(pixels.device)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(pixels.device)
    logits = model(pixel_values=pixels, input_ids=tokens, attention_mask=mask).logits[:, -tokens.shape[1] :].float()
    ends = [len(row) for row in rows]
    return torch.stack([row[end - len(reply) - 1 : end - 1] for row, end in zip(logits, ends, strict=True)])


_LOGITS: Final[Mapping[str, Callable[..., Tensor]]] = {"blip": _of_blip, "git": _of_git}
