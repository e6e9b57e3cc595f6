"""The encoder of a T5 model: a state for each token of a text (arXiv 1910.10683)."""

from typing import Any

from stages.contract.errors import InputFault
from stages.encoders.check import check_t5
from stages.encoders.config import T5Source, TextModel
from stages.encoders.state_encoder import StateEncoder


class T5Encoder(StateEncoder):
    """Encode texts to the states of T5's encoder, the end token included."""

    @staticmethod
    def name() -> str:
        """Return its name under ``text_states``."""
        return "t5"

    @staticmethod
    def check(source: TextModel, where: str, max_length: int) -> None:
        """Check a folder."""
        assert isinstance(source, T5Source)
        check_t5(source, where=where)

    @staticmethod
    def read(location: str, where: str, reference: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the encoder alone."""
        from transformers import AutoConfig, T5EncoderModel

        kind = AutoConfig.from_pretrained(location, **options).model_type
        if kind != "t5":
            raise InputFault(f"{where}: {reference} is a model of type {kind!r}: allowed is t5: give a T5 model")
        model, report = T5EncoderModel.from_pretrained(
            location, use_safetensors=True, dtype="auto", output_loading_info=True, **options
        )
        return model, report

    @staticmethod
    def width_of(config: Any) -> int:
        """Return d_model."""
        return int(config.d_model)
