"""Write a finished run's models into a folder of their own."""

import shutil
import tempfile
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.export.bundle import write_run
from pipeline.export.diffusers_parts import write_diffusers_parts
from pipeline.export.model_card import write_card
from pipeline.generation.models import generate_section
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.contract.parsing import shown
from stages.formats.generated_images import GRID
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact

CARD = "README.md"
SAMPLES = "samples.png"


def export_run(store: Store, record: RunRecord, folder: Path, *, licence: str | None = None) -> list[str]:
    """Write models, card and what other programs load; return the names of the files.

    The folder appears when it is whole, under a name that must be free.

    Raises:
        UsageError: the run is not finished, or the folder is there.
        ArtifactError: a model of the run is damaged.
    """
    require_free(folder)
    config, inputs = generate_section(store, record)
    with _folder_beside(folder) as made:
        partial = Path(made) / folder.name
        partial.mkdir()
        write_run(partial, config, inputs, run=record.run)
        network, _ = load_decoder(inputs["train_decoder"])
        others = write_diffusers_parts(partial, inputs["train_decoder"], network)
        has_grid = _bring_samples(store, record, partial / SAMPLES)
        card = write_card(record, store, licence=licence, others=others, has_grid=has_grid)
        (partial / CARD).write_text(card, encoding="utf-8")
        require_free(folder)
        partial.replace(folder)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _folder_beside(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder of another name in the same one, in which the export is made."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as error:
        raise UsageError(
            f"export: {shown(folder)} cannot be written ({error.strerror}): name a folder that you may write"
        ) from None


def require_free(folder: Path) -> None:
    """Raise UsageError if there is something under the name that is more than an empty folder."""
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise UsageError(f"export: {shown(folder)} is there already: name a folder that does not exist yet")


def _bring_samples(store: Store, record: RunRecord, target: Path) -> bool:
    """Copy the grid of the run's own images, where it made any."""
    if "generate" not in record.artifacts:
        return False
    images: Artifact = store.artifact("generate", record.plan["generate"].fingerprint)
    if not images.exists(GRID):
        return False
    shutil.copyfile(images.local(GRID), target)
    return True
