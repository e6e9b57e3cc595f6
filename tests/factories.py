"""Small real things that tests need."""

import contextlib
import functools
import hashlib
import http.server
import itertools
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cluster.mapping import Items, MakeWorker, Mapper, WorkerResources, map_in_process
from cluster.training import TrainGroup
from models.decoders.buckets import DecoderBuckets
from pipeline.export.bundle import write_bundle
from pipeline.record import RunRecord
from stages.contract.events import Event
from stages.contract.stage import Allocation, StageContext
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip, TextStatesConfig
from stages.encoders.open_clip_import import import_open_clip
from stages.encoders.text import make_text_encoder
from stages.formats.model_folders import save_model
from stages.inference.loading import TrainedModels
from stages.inference.sampling import SamplingSettings
from stages.storage.artifact import Artifact, Output

WORDS = (
    "a the at on of in is there image background shape "
    "circle square triangle star cross ring red orange yellow green teal blue purple pink small large "
    "top left right bottom center white cream mint navy plum forest , ."
)


def save_tiny_clip(
    folder: Path,
    *,
    seed: int = 0,
    embed_dim: int = 16,
    image_size: int = 32,
    context_length: int = 24,
    text: Mapping[str, Any] | None = None,
    keeps_case: bool = False,
) -> Path:
    """Save a random CLIP model of a few thousand weights in open_clip's own folder format, tokenizer included."""
    import torch

    open_clip = import_open_clip()
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import HFTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = _save_tokenizer(folder, keeps_case=keeps_case)
    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": image_size, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "words",
            "tokenizer_kwargs": {},
            "width": 32,
            "heads": 2,
            "layers": 1,
            **(text or {}),
        },
    }
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    open_clip.set_model_preprocess_cfg(model, _preprocessing(image_size))
    save_for_hf(
        model, HFTokenizer(str(folder), context_length=context_length), config, str(folder), safe_serialization=True
    )
    return folder


def _preprocessing(image_size: int) -> dict[str, object]:
    mean_and_std = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    return {"size": image_size, "mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest", **mean_and_std}


def _save_tokenizer(folder: Path, *, keeps_case: bool = False) -> int:
    """Save a tokenizer with one token per word; the end token has the highest number, as CLIP's pooling expects."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *WORDS.split(), "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = None if keeps_case else normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary[token]) for token in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return len(vocabulary)


def save_tiny_dino(folder: Path, *, seed: int = 0, width: int = 12) -> Path:
    """Save a random DINOv2 of a few thousand weights as transformers does, for images of 28 pixels."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=width, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


def save_tiny_t5(folder: Path, *, seed: int = 0, width: int = 12) -> Path:
    """Save a random T5 of a few thousand weights as transformers does, whole (with its decoder), tokenizer included."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    vocabulary = specials + [(f"\u2581{word}", -1.0) for word in WORDS.split()]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)
    size = {"d_model": width, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": len(vocabulary)}
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(**size, feed_forward_proj="gated-gelu", decoder_start_token_id=0))
    model.save_pretrained(folder)
    return folder


TINY_LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
    "distilbert": {"dim": 12, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "gpt2": {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


def save_tiny_language_model(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """Save a random language model of a few thousand weights as transformers does, tokenizer included."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    usual = TINY_LANGUAGE_MODELS["bert"] | {"num_key_value_heads": 1, "head_dim": 6}
    size = TINY_LANGUAGE_MODELS.get(kind, usual if kind not in ("roberta", "xlm-roberta", "mpnet") else {})
    size = size or TINY_LANGUAGE_MODELS["bert"]
    if kind in ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert"):
        size = size | {"max_position_embeddings": 64}
    vocab_size = _save_tokenizer(folder)
    torch.manual_seed(seed)
    ends = {"pad_token_id": 0, "bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1}
    AutoModel.from_config(AutoConfig.for_model(kind, **size, vocab_size=vocab_size, **ends)).save_pretrained(folder)
    return folder


def make_context(
    events: list[Event] | None = None, *, map_shards: Mapper = map_in_process, resources: Allocation | None = None
) -> StageContext:
    """Make a context that works in this process and keeps the stage's events in the list."""

    def launch_training(function: Any, payload: Any, group: TrainGroup, emit: Any, progress: Any = None) -> Any:
        raise AssertionError("this stage trains nothing")

    keep = events.append if events is not None else lambda event: None
    return StageContext(keep, map_shards, launch_training, resources or Allocation())


def interrupt_after(num_units: int) -> Mapper:
    """Make a map that breaks off after so many units, as a killed driver would."""

    def map_and_break(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
        yield from itertools.islice(map_in_process(make_worker, items, resources), num_units)
        raise KeyboardInterrupt

    return map_and_break


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under the folder, by relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class _ImageHandler(http.server.SimpleHTTPRequestHandler):
    """Serve a folder; an address under /slow/ never answers in time."""

    over: threading.Event

    def do_GET(self) -> None:
        if self.path.startswith("/slow/"):
            self.over.wait(60)
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder over real HTTP on this machine; yield the base address."""
    over = threading.Event()
    handler = functools.partial(type("Handler", (_ImageHandler,), {"over": over}), directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()
            thread.join()


def save_image(path: Path, *, color: tuple[int, int, int] = (200, 30, 40), size: tuple[int, int] = (48, 32)) -> Path:
    """Save an image of one color, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def save_tiny_prior(
    folder: Path, clip_folder: Path, *, seed: int = 0, text_states: TextStatesConfig | None = None
) -> Artifact:
    """Save a prior of a few thousand random weights as train_prior does; ``text_states`` says which states it reads."""
    import torch

    from models.priors.diffusion.spec import GaussianPriorSpec
    from models.priors.spec import TextStateSpec, TransformerSpec

    clip = ClipEncoder(ClipConfig(models=(FolderClip(kind="folder", path=clip_folder),)))
    encoders = make_text_encoder(clip, text_states, device="cpu").identities
    states = {name: TextStateSpec(one.width, one.max_length) for name, one in encoders.items()}
    network = TransformerSpec(width=16, num_layers=1, num_heads=2, text_states=states)
    settings = GaussianPriorSpec(embed_dim=clip.embed_dim, network=network)
    torch.manual_seed(seed)
    prior = settings.build()
    torch.nn.init.normal_(prior.get_parameter("network.answer.weight"))  # untrained, it would say the same to any text
    output = Output(str(folder), "train_prior", "tiny")
    written = {name: one.to_json() for name, one in encoders.items()}
    config = {"model": settings.to_dict(), "clip": clip.identities.to_json(), "text_encoders": written}
    save_model(output, "prior", prior, config)
    return output


def save_tiny_decoder(
    folder: Path, clip_folder: Path, *, seed: int = 0, resolution: int = 32, buckets: DecoderBuckets | None = None
) -> Artifact:
    """Save an untrained decoder of few weights as train_decoder does."""
    import torch

    from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec, PixelUNet

    encoder = ClipEncoder(ClipConfig(models=(FolderClip(kind="folder", path=clip_folder),)))
    network = PixelUNet(channels=(32, 32), layout_channels=0, token_dim=16)
    spec = PixelDiffusionSpec(embed_dim=encoder.embed_dim, resolution=resolution, network=network, buckets=buckets)
    torch.manual_seed(seed)
    output = Output(str(folder), "train_decoder", "tiny")
    save_model(output, "decoder", spec.build(), {"model": spec.to_dict(), "clip": encoder.identities.to_json()})
    return output


def save_tiny_bundle(
    folder: Path,
    settings: SamplingSettings,
    *,
    of_decoder: Mapping[str, Any] | None = None,
    text_states: TextStatesConfig | None = None,
    **options: Any,
) -> Path:
    """Write the models of a run "tiny-1" as an exported folder, and return it."""
    clip = save_tiny_clip(folder / "clip")
    prior = save_tiny_prior(folder / "p", clip, text_states=text_states)
    decoder = save_tiny_decoder(folder / "d", clip, **(of_decoder or {}))
    config = ClipConfig(models=(FolderClip(kind="folder", path=clip),))
    write_bundle(folder / "bundle", TrainedModels(config, prior, decoder), settings, run="tiny-1", **options)
    return folder / "bundle"


def make_record(run: str = "tiny-1", **changes: Any) -> RunRecord:
    """Return the record of a finished run in which nothing happened, with changes in the words of run.json."""
    record: dict[str, Any] = {
        "run": run, "name": run.rpartition("-")[0], "status": "done", "started": "2026-01-01", "config_path": "x.yaml",
        "config": {}, "plan": {}, "mlflow": None, "stages": [], "metrics": {}, "artifacts": {},
    }  # fmt: skip
    return RunRecord.parse(record | changes, "test")


def make_entry(name: str, state: str = "done", **changes: Any) -> dict[str, Any]:
    """Return how a stage ended, in the words of run.json."""
    entry = {"name": name, "state": state, "seconds": 1.0, "startup_seconds": 0.1, "fingerprint": "f", "log": "x.log"}
    return entry | changes
