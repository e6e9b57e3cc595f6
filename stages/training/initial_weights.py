"""Give a model the weights of a trained one: names and shapes have to fit, nothing is unpickled.

What a model holds of its data alone (the Gaussians of a prior, the frozen first stage of a decoder) stays its own.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from stages.contract.errors import ArtifactError, InputFault
from stages.contract.parsing import load_json, parsing, shown
from stages.contract.secrets import redact_addresses
from stages.contract.texts import one_line
from stages.formats.clip_folders import CLIP_CONFIG, CLIP_WEIGHTS
from stages.formats.clips import Clips, require_same_clips
from stages.formats.model_folders import CONFIG, WEIGHTS, load_model_config, load_model_state
from stages.storage.artifact import Artifact
from stages.storage.filesystems import explaining
from stages.training.config import LoopConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

_DIFFUSERS = "diffusion_pytorch_model.safetensors"
_DIFFUSERS_PARTS = {"unet": "unet.conv_in.weight", "vae": "network.encoder.conv_in.weight"}
"""Where diffusers keeps a network, and how the name of its first tensor ends in our models."""
FIRST_STAGE = ("autoencoder.", "vae.")
"""How the names of tensors begin that are of a decoder's frozen first stage, which is a stage's own input."""
_MAX_CONFIG = 1 << 20  # bytes


def initial_folder(config: LoopConfig) -> tuple[Artifact, str]:
    """Return where the weights lie that training begins with: what holds their folder, and its name there.

    The address is that of the folder itself, or of what holds it: an artifact, or a model that was exported.

    Raises:
        InputFault: no model of the stage lies there.
    """
    address = str(config.init_from).rstrip("/")
    above, _, name = address.rpartition("/")
    source, inside = Artifact(above, config.stage, "init_from"), Artifact(address, config.stage, "init_from")
    wanted = (CLIP_CONFIG, CLIP_WEIGHTS) if config.model_folder == "clip" else (CONFIG, WEIGHTS)
    with explaining(address):
        for holder, folder in ((source, name), (inside, config.model_folder)):
            if all(holder.exists(f"{folder}/{file}") for file in wanted):
                return holder, folder
        if config.model_folder != "clip" and _diffusers_files(inside):
            return source, name
    raise InputFault(
        f"{_where(config)} holds no {' and no '.join(wanted)}: expected a model as {config.stage} writes it (the "
        f"folder {config.model_folder}/ of an artifact; `corgi status RUN --json` names it), the id of a run of this "
        "store, or, for networks of diffusers, a folder in its format with safetensors: correct the address"
    )


def load_initial(module: "nn.Module", config: LoopConfig, *, own: tuple[str, ...] = (), clips: Clips | None) -> None:
    """Give a model the weights that ``init_from`` names; tensors whose names begin with one of ``own`` stay.

    Raises:
        InputFault: a tensor is missing, is none of this model's, or has another shape; or the model was trained on
            embeddings of other CLIPs than ``clips``.
    """
    if config.init_from is None:
        return
    where = _where(config)
    holder, folder = initial_folder(config)
    mine = module.state_dict()
    with _naming(where, str(config.init_from)):
        if holder.exists(f"{folder}/{WEIGHTS}"):
            found, partial = load_model_state(holder, folder), False
            _require_clips(holder, folder, clips, where)
        else:
            found, partial = _read_diffusers(Artifact(holder.path(folder), holder.stage, "init_from"), mine), True
    theirs = {name: tensor for name, tensor in found.items() if not name.startswith(own)} if own else found
    wanted = {name: tensor for name, tensor in mine.items() if not (own and name.startswith(own))}
    require_fit(theirs, {name: wanted[name] for name in wanted if not partial or name in theirs}, where)
    module.load_state_dict(theirs, strict=False)


def _require_clips(holder: Artifact, folder: str, clips: Clips | None, where: str) -> None:
    if clips is not None and (described := load_model_config(holder, folder).get("clip")) is not None:
        trained = Clips.parse(described, holder, folder, owner="the model")
        require_same_clips(where, trained, clips, "name a model that was trained on these embeddings")


def require_fit(theirs: "Mapping[str, Tensor]", mine: "Mapping[str, Tensor]", where: str) -> None:
    """Refuse weights that are not those of this model, by the first name or shape that differs."""
    remedy = "configure the stage as it was when that model was trained (extends: its experiment), or name another"
    for name in sorted(theirs.keys() | mine.keys()):
        there, here = (list(one[name].shape) if name in one else None for one in (theirs, mine))
        if there == here:
            continue
        found = "no such tensor" if there is None else there
        expected = "there is no such tensor" if here is None else f"it is {here}"
        raise InputFault(
            f"{where}: {shown(name)} is {found} there, and here {expected}: expected weights of this very model: "
            f"{remedy}"
        )


@contextlib.contextmanager
def _naming(where: str, address: str) -> Iterator[None]:
    """Say of which key a file is that cannot be read."""
    from safetensors import SafetensorError

    try:
        with explaining(address):
            yield
    except ArtifactError as error:
        raise InputFault(f"{where}: {error}") from error
    except SafetensorError as error:
        raise InputFault(
            f"{where}: its weights cannot be read ({one_line(error, 200)}): expected a whole safetensors file: copy it "
            "again, or name another"
        ) from error


def _where(config: LoopConfig) -> str:
    return f"{config.stage}.init_from: {shown(redact_addresses(str(config.init_from)))}"


def _diffusers_files(folder: Artifact) -> dict[str, str]:
    """Return the files of networks in diffusers' format, by the part that each is; "": it is not known which."""
    found = {part: f"{part}/{_DIFFUSERS}" for part in _DIFFUSERS_PARTS if folder.exists(f"{part}/{_DIFFUSERS}")}
    return found or ({"": _DIFFUSERS} if folder.exists(_DIFFUSERS) else {})


def _read_diffusers(folder: Artifact, mine: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Read the networks of a folder in diffusers' format that this model holds, under its names."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for part, file in _diffusers_files(folder).items():
        ends = [_DIFFUSERS_PARTS[part]] if part else list(_DIFFUSERS_PARTS.values())
        heads = {name.removesuffix(end.partition(".")[2]) for name in mine for end in ends if name.endswith(end)}
        if not heads:
            continue
        for name, tensor in load_file(folder.local(file)).items():
            state |= {f"{head}{name}": tensor for head in heads}
    if not state:
        raise ArtifactError("it is in diffusers' format, and holds no network of this kind: name another")
    return state


def read_clip_config(config: LoopConfig) -> dict[str, object]:
    """Return open_clip's configuration of the model to begin with."""
    holder, folder = initial_folder(config)
    where = _where(config)
    with parsing(lambda reason: InputFault(f"{where}: {CLIP_CONFIG} cannot be read ({reason}): name another")):
        content = load_json(holder.local(f"{folder}/{CLIP_CONFIG}").read_bytes(), max_bytes=_MAX_CONFIG)
        return dict(content["model_cfg"])


def load_initial_clip(clip: "nn.Module", config: LoopConfig) -> None:
    """Give an open_clip model the weights that ``init_from`` names, where it names any."""
    from safetensors.torch import load_file

    if config.init_from is None:
        return
    holder, folder = initial_folder(config)
    mine = clip.state_dict()
    with _naming(_where(config), str(config.init_from)):
        theirs = load_file(holder.local(f"{folder}/{CLIP_WEIGHTS}"))
    if "logit_scale" in theirs:
        theirs["logit_scale"] = theirs["logit_scale"].reshape(mine["logit_scale"].shape)
    require_fit(theirs, mine, _where(config))
    clip.load_state_dict(theirs)


def check_initial(config: LoopConfig) -> None:
    """Look whether the weights to begin with are there, and lead nowhere else, before anything starts."""
    if config.init_from is not None:
        initial_folder(config)
