"""What every encoder of token states from transformers does; a kind of model says how it is checked and loaded."""

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.contract.errors import InputFault
from stages.encoders.config import TextModel
from stages.encoders.identity import digest_tensors
from stages.encoders.model_files import describe_load_error, require_token_range
from stages.formats.embeddings.layout import TextEncoderIdentity

States = Float[Tensor, "tokens width"]


class StateEncoder(ABC):
    """Encode texts to one state per token, those that the tokenizer adds included; a longer text is cut to
    ``max_length`` tokens.

    The arithmetic is float32 on a CPU and bfloat16 on a GPU (float16 overflows in T5). Results are float32 on the CPU.
    A text's states depend on no other text (up to rounding): padding is masked, and is not part of the result.
    """

    def __init__(
        self,
        source: TextModel,
        *,
        max_length: int,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        where: str | None = None,
    ) -> None:
        source, where = source.local(), where or f"text_states.{self.name()}"
        self.check(source, where, max_length)
        self._device, self._batch_size = torch.device(device), batch_size
        self._model, self._tokenizer = self._load(source, where)
        self.identity = TextEncoderIdentity(
            reference=source.reference,
            digest=_digest(self._model, self._tokenizer),
            width=self.width_of(self._model.config),
            max_length=max_length,
            source=source.found_by(),
        )
        dtype = torch.float32 if self._device.type == "cpu" else torch.bfloat16
        self._model.to(device=self._device, dtype=dtype)

    @staticmethod
    @abstractmethod
    def name() -> str:
        """Return its name under ``text_states``."""

    @staticmethod
    @abstractmethod
    def check(source: TextModel, where: str, max_length: int) -> None:
        """Refuse a folder that is not complete, or says what none may say."""

    @staticmethod
    @abstractmethod
    def read(location: str, where: str, reference: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the model that transformers reads, and its report of the weights."""

    @staticmethod
    @abstractmethod
    def width_of(config: Any) -> int:
        """Return the width of a state."""

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[States]:
        """Return the states of each text; texts of similar length are encoded together."""
        options = {"truncation": True, "max_length": self.identity.max_length, "return_attention_mask": False}
        tokens: list[list[int]] = self._tokenizer(list(texts), **options)["input_ids"] if texts else []
        tokens = [one or self._no_words() for one in tokens]
        by_length = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        states: dict[int, States] = {}
        for first in range(0, len(by_length), self._batch_size):
            chosen = by_length[first : first + self._batch_size]
            states.update(zip(chosen, self._encode_batch([tokens[index] for index in chosen]), strict=True))
        return [states[index] for index in range(len(tokens))]

    def _no_words(self) -> list[int]:
        """Return what stands for a text of no token, where the tokenizer adds none."""
        ends = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id, 0)
        return [next(end for end in ends if end is not None)]

    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> list[States]:
        ids = pad_sequence([torch.tensor(one) for one in tokens], batch_first=True).to(self._device)
        lengths = torch.tensor([len(one) for one in tokens], device=self._device)
        mask = torch.arange(ids.shape[1], device=self._device) < lengths[:, None]
        hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float().cpu()
        return [row[: len(one)].clone() for row, one in zip(hidden, tokens, strict=True)]

    def _load(self, source: TextModel, where: str) -> tuple[Any, Any]:
        """Return model (evaluation mode, in the dtype of its stored weights, CPU) and tokenizer."""
        from transformers import AutoTokenizer

        options = {"local_files_only": source.folder is not None, "trust_remote_code": False}
        try:
            with no_progress_bar():
                model, report = self.read(source.location, where, source.reference, options)
            tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
        except InputFault:
            raise
        except Exception as error:  # the libraries raise errors of many types
            raise InputFault(
                f"{where}: transformers cannot load {source.reference} ({describe_load_error(error)}): weights are "
                "read as safetensors only, and a name is downloaded the first time: without a network, give path: a "
                "folder made by save_pretrained"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise InputFault(
                f"{where}: {source.reference} lacks {len(missing)} of its weights ({', '.join(missing[:3])}): "
                "expected all of them: save the model again"
            )
        require_token_range(tokenizer, int(model.config.get_text_config().vocab_size), source.reference, where)
        return model.eval().requires_grad_(False), tokenizer


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
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
