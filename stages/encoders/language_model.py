"""Language models as text encoders: the states of their last layer, for encoders and decoders alike.

A decoder's state of a token knows the tokens up to it, an encoder's all of them; both are read as T5's are. Which types
of models are known is in :mod:`stages.encoders.language_model_files`.
"""

from typing import Any

from stages.encoders.check import check_language_model
from stages.encoders.config import LanguageModelSource, TextModel
from stages.encoders.state_encoder import StateEncoder


class LanguageModelEncoder(StateEncoder):
    """Encode texts to the states of a language model's last layer, after its final norm."""

    @staticmethod
    def name() -> str:
        """Return its name under ``text_states``."""
        return "language_model"

    @staticmethod
    def check(source: TextModel, where: str, max_length: int) -> None:
        """Check a folder."""
        assert isinstance(source, LanguageModelSource)
        check_language_model(source, where=where, max_length=max_length)

    @staticmethod
    def read(location: str, where: str, reference: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the model without a head; poolers, which checkpoints may lack, are left out of the report."""
        from transformers import AutoModel

        model, report = AutoModel.from_pretrained(
            location, use_safetensors=True, dtype="auto", output_loading_info=True, **options
        )
        missing = {name for name in report["missing_keys"] if not name.startswith("pooler.")}
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        return model, report | {"missing_keys": missing}

    @staticmethod
    def width_of(config: Any) -> int:
        """Return the width of the last layer."""
        return int(config.hidden_size)
