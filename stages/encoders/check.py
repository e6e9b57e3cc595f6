"""Check that the configured encoders are there, without importing torch."""

from importlib.util import find_spec
from pathlib import Path

from stages.contract.errors import InputFault, nearest
from stages.encoders.config import (
    ClipConfig,
    FolderClip,
    LanguageModelSource,
    PretrainedClip,
    T5Source,
    TextModel,
    TimmImages,
)
from stages.encoders.language_model_files import check_language_model_folder
from stages.encoders.model_files import check_links, check_t5_folder, check_tokenizer
from stages.encoders.open_clip_schema import check_open_clip_config
from stages.encoders.vision_folders import check_timm_folder, check_vision_folder
from stages.formats.clip_folders import CLIP_CONFIG, CLIP_WEIGHTS


def check_clip(config: ClipConfig) -> None:
    """Check that the models are there, as far as possible without importing open_clip."""
    for index, model in enumerate(config.models):
        if isinstance(model, FolderClip):
            _check_folder(model.path, where=f"clip.models[{index}].path")
        elif isinstance(model, PretrainedClip):
            _check_name(model.name, where=f"clip.models[{index}].name")
    if config.images is not None:
        check = check_timm_folder if isinstance(config.images, TimmImages) else check_vision_folder
        check(config.images.path, "clip.images.path")


def check_t5(source: T5Source, *, where: str) -> None:
    """Check that a T5 folder is complete, as far as possible without importing transformers."""
    if (folder := source.path) is None:
        return
    _require_whole(folder, where, {"tokenizer.json", "spiece.model"}, ", or a name")
    check_t5_folder(folder, f"{where}.path")


def check_language_model(source: LanguageModelSource, *, where: str, max_length: int) -> None:
    """Check that the folder of a language model is complete and known, without importing transformers."""
    _require_whole(source.path, where, {"tokenizer.json"}, "")
    check_language_model_folder(source.path, f"{where}.path", max_length=max_length)


def check_text_model(source: TextModel, *, where: str) -> None:
    """Check the folder of any encoder of token states."""
    if isinstance(source, LanguageModelSource):
        check_language_model(source, where=where, max_length=getattr(source, "max_length", 1))
    else:
        assert isinstance(source, T5Source)
        check_t5(source, where=where)


def _require_whole(folder: Path, where: str, tokenizers: set[str], otherwise: str) -> None:
    """Refuse a folder in the format of transformers that lacks a part."""
    if not folder.is_dir():
        raise InputFault(
            f"{where}.path: there is no folder {folder}: give a folder in the format of transformers "
            f"(config.json, weights as safetensors, tokenizer){otherwise}"
        )
    held = sorted(entry.name for entry in folder.iterdir())
    present = {
        "config.json": "config.json" in held,
        "weights as .safetensors": any(name.endswith(".safetensors") for name in held),
        " or ".join(sorted(tokenizers, reverse=True)): bool(tokenizers & set(held)),
    }
    missing = [what for what, is_present in present.items() if not is_present]
    if missing:
        raise InputFault(
            f"{where}.path: {folder} has no {' and no '.join(missing)} (it holds {', '.join(held[:8]) or 'nothing'}): "
            "save model and tokenizer there by save_pretrained of transformers"
        )


def architecture_file(name: str) -> Path:
    """Return the file in which open_clip describes the architecture of this name."""
    return _architectures() / f"{name.replace('/', '-')}.json"


def _check_folder(path: Path, *, where: str) -> None:
    if not path.is_dir():
        raise InputFault(
            f"{where}: there is no folder {path}: give a folder in open_clip's own format "
            f"({CLIP_CONFIG}, weights, tokenizer), or kind: pretrained"
        )
    if not (path / CLIP_CONFIG).is_file():
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise InputFault(
            f"{where}: {path} has no {CLIP_CONFIG} (it holds {held}): give a folder in open_clip's own format, "
            "as save_for_hf of open_clip writes it"
        )
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in path.iterdir()):
        raise InputFault(f"{where}: {path} has no weights: expected {CLIP_WEIGHTS} beside {CLIP_CONFIG}")
    check_links(path, where)
    check_open_clip_config(path / CLIP_CONFIG, where)
    check_tokenizer(path, where)


def _check_name(name: str, *, where: str) -> None:
    if architecture_file(name).is_file():
        return
    known = [file.stem for file in _architectures().glob("*.json")]
    raise InputFault(
        f"{where}: open_clip has no architecture {name!r}{nearest(name, known)}"
        ": allowed are the names that open_clip.list_models() gives"
    )


def _architectures() -> Path:
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("embedding needs open_clip: pip install open_clip_torch")
    return Path(spec.origin).parent / "model_configs"
