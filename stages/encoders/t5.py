"""The encoder of a T5 model: a state for each token of a text (arXiv 1910.10683)."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.contract.errors import InputFault
from stages.encoders.check import check_t5
from stages.encoders.config import T5Source
from stages.encoders.identity import digest_tensors
from stages.encoders.model_files import describe_load_error, require_token_range
from stages.formats.embeddings.layout import TextEncoderIdentity

States = Float[Tensor, "tokens width"]


class T5Encoder:
    """Encode texts to one state per token, the end token included; a longer text is cut to ``max_length`` tokens.

    The arithmetic is float32 on a CPU and bfloat16 on a GPU (float16 overflows in T5). Results are float32 on the CPU.
    A text's states depend on no other text (up to rounding): padding is masked, and is not part of the result.
    """

    def __init__(
        self,
        source: T5Source,
        *,
        max_length: int,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        where: str = "text_states.t5",
    ) -> None:
        source = source.local()
        check_t5(source, where=where)
        self._device, self._batch_size = torch.device(device), batch_size
        self._model, self._tokenizer = _load(source, where)
        self.identity = TextEncoderIdentity(
            reference=source.reference,
            digest=_digest(self._model, self._tokenizer),
            width=int(self._model.config.d_model),
            max_length=max_length,
            source=source.found_by(),
        )
        dtype = torch.float32 if self._device.type == "cpu" else torch.bfloat16
        self._model.to(device=self._device, dtype=dtype)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[States]:
        """Return the states of each text; texts of similar length are encoded together."""
        options = {"truncation": True, "max_length": self.identity.max_length, "return_attention_mask": False}
        tokens: list[list[int]] = self._tokenizer(list(texts), **options)["input_ids"] if texts else []
        by_length = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        states: dict[int, States] = {}
        for first in range(0, len(by_length), self._batch_size):
            chosen = by_length[first : first + self._batch_size]
            states.update(zip(chosen, self._encode_batch([tokens[index] for index in chosen]), strict=True))
        return [states[index] for index in range(len(tokens))]

    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> list[States]:
        ids = pad_sequence([torch.tensor(one) for one in tokens], batch_first=True).to(self._device)
        lengths = torch.tensor([len(one) for one in tokens], device=self._device)
        mask = torch.arange(ids.shape[1], device=self._device) < lengths[:, None]
        hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float().cpu()
        return [row[: len(one)].clone() for row, one in zip(hidden, tokens, strict=True)]


def _load(source: T5Source, where: str) -> tuple[Any, Any]:
    """Return model (evaluation mode, in the dtype of its stored weights, CPU) and tokenizer."""
    from transformers import AutoConfig, AutoTokenizer, T5EncoderModel

    options = {"local_files_only": source.path is not None, "trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(source.location, **options).model_type
        if kind != "t5":
            raise InputFault(f"{where}: {source.reference} is a model of type {kind!r}: allowed is t5: give a T5 model")
        with _no_progress_bar():
            model, report = T5EncoderModel.from_pretrained(
                source.location, use_safetensors=True, dtype="auto", output_loading_info=True, **options
            )
        tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
    except InputFault:
        raise
    except Exception as error:  # the libraries raise errors of many types
        raise InputFault(
            f"{where}: transformers cannot load {source.reference} ({describe_load_error(error)}): weights are read as "
            "safetensors only, and a name is downloaded the first time: without a network, give path: a folder made by "
            "save_pretrained"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise InputFault(
            f"{where}: {source.reference} lacks {len(missing)} weights of a T5 encoder ({', '.join(missing[:3])}): "
            "expected all of them: save the model again"
        )
    require_token_range(tokenizer, int(model.config.vocab_size), source.reference, where)
    return model.eval().requires_grad_(False), tokenizer


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from printing a bar over the pipeline's own progress."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _digest(model: Any, tokenizer: Any) -> str:
    """Return the SHA-256 of the weights and the vocabulary."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return digest_tensors(model.state_dict(), hashlib.sha256(vocabulary.encode()))
