"""Check the CLIP that training begins with: what its files say is all that open_clip reads of them."""

from pathlib import Path

from stages.encoders.model_files import check_links, check_tokenizer
from stages.encoders.open_clip_schema import check_open_clip_config
from stages.formats.clip_folders import CLIP_CONFIG
from stages.train_clip.config import TrainClipConfig
from stages.training.initial_weights import initial_folder


def check(config: TrainClipConfig) -> None:
    """Check the folder, where it is one of this machine."""
    if config.init_from is None:
        return
    source, name = initial_folder(config)
    if source.is_local:
        folder, where = Path(source.path(name)), "train_clip.init_from"
        check_links(folder, where)
        check_open_clip_config(folder / CLIP_CONFIG, where)
        check_tokenizer(folder, where)
