"""Which model answers questions about images, and what it is asked."""

from pydantic import Field, field_validator

from stages.contract.config import ConfigModel, ExternalPath


class QuestionAnswering(ConfigModel):
    """A model that answers questions about images, in a folder in the format of transformers."""

    path: ExternalPath = Field(
        description="folder with config.json (model_type blip, as BlipForQuestionAnswering, or git), weights as "
        "safetensors, preprocessor_config.json and tokenizer"
    )
    question: str = Field(
        'Does this figure show "{}"? Please answer yes or no.', max_length=1000, description="{} stands for the prompt"
    )
    reply: str = Field("yes", min_length=1, max_length=100, description="whose probability is the score")

    @field_validator("question")
    @classmethod
    def _asks_about_the_prompt(cls, question: str) -> str:
        if question.count("{}") != 1:
            raise ValueError(f"found {question.count('{}')} times {{}} in the question: expected one, for the prompt")
        return question
