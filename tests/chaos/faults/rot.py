"""Bytes that rot: files of a store that are cut short or changed, between runs and under them."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import psutil

from tests.chaos.fault import DATA, TRAINING, InFolder, Injection, Setting
from tests.chaos.world import World

_LATER = ("embed_clip", "fit_gaussians")


def damage(path: Path, rng: Random) -> str:
    """Cut a file short, empty it, or change bits or a block of it; return what was done."""
    content = bytearray(path.read_bytes())
    how = rng.choice(("cut", "empty", "bit", "bits", "zeros")) if len(content) > 1 else "grow"
    if how == "cut":
        del content[rng.randrange(1, len(content)) :]
    elif how == "empty":
        content.clear()
    elif how == "grow":
        content += b"\x00"
    elif how == "zeros":
        first = rng.randrange(len(content))
        last = min(len(content), first + 4096)
        before = bytes(content)
        content[first:last] = bytes(last - first)
        if bytes(content) == before:
            content[first] ^= 1
    else:
        for _ in range(1 if how == "bit" else 8):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))
    return how


def _choose(setting: Setting, patterns: tuple[str, ...], rng: Random) -> Path | None:
    folder = Path(setting.view.uri)
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return rng.choice(found) if found else None


@dataclass(frozen=True)
class Rot(InFolder):
    """Files of a store are damaged between two runs, of which the later one reads them."""

    name: str
    patterns: tuple[str, ...]
    makes: tuple[str, ...]
    destroys: int = 1
    """Units that are to be made again for each damaged file."""
    times: int = 6
    when: Literal["before", "during"] = "before"

    @contextlib.contextmanager
    def setting(self, world: World) -> Iterator[Setting]:
        """Yield a store with its records of runs beside what was made."""
        with world.store(without=self.makes) as view:
            shutil.copytree(world.reference.folder / "runs", view.folder / "runs")
            shutil.copy(world.reference.folder / "digests.db", view.folder)
            yield Setting(world, view)

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        path = _choose(setting, self.patterns, rng)
        if path is None:
            return None
        how = damage(path, rng)
        return Injection(f"{how}: {path.relative_to(setting.view.uri)}", self.destroys)


@dataclass(frozen=True)
class UnreadRot(Rot):
    """Damage to files that no later stage reads: ``corgi verify``, asked before the next run, finds it."""

    def mend(self, setting: Setting) -> None:
        for folder in sorted({path.parents[1] for path in Path(setting.view.uri).glob(self.patterns[0])}):
            setting.world.verify(str(folder))


@dataclass(frozen=True)
class KillAndRot(InFolder):
    """All processes of a run are killed, and a file of what is not finished yet is damaged."""

    name: str
    patterns: tuple[str, ...]
    makes: tuple[str, ...]
    times: int = 2
    newest: bool = False
    when: Literal["before", "during"] = "during"

    def inject(self, setting: Setting, rng: Random) -> Injection | None:
        folder = Path(setting.view.uri)
        if not self._unfinished(folder):
            return None
        for run in setting.runs:
            for one in run.tree():
                with contextlib.suppress(psutil.Error):
                    one.kill()
            run.survivors(30.0)
        found = self._unfinished(folder)  # what was done meanwhile may be read by nobody any more
        if not found:
            return Injection("killed, and nothing was there to damage")
        path = max(found) if self.newest else rng.choice(found)
        return Injection(f"{damage(path, rng)}: {path.relative_to(folder)}", 1)

    def _unfinished(self, folder: Path) -> list[Path]:
        """Return the files of artifacts that are not complete, in order."""
        found = (path for pattern in self.patterns for path in folder.glob(pattern) if path.is_file())
        artifacts = {path: folder.joinpath(*path.relative_to(folder).parts[:3]) for path in found}
        return sorted(path for path, artifact in artifacts.items() if not (artifact / "_COMPLETE").exists())


FAULTS = (
    Rot("rot in shard tars", ("artifacts/download_shards/*/shards/*.tar",), _LATER),
    UnreadRot("rot in shard tables", ("artifacts/download_shards/*/shards/*.parquet",), _LATER),
    Rot("rot in image embeddings", ("artifacts/embed_clip/*/img_emb/*.npy",), ("fit_gaussians",)),
    Rot("rot in unit records", ("artifacts/embed_clip/*/units/*.json",), ("fit_gaussians",), times=5),
    Rot("rot in manifests", ("artifacts/*/*/manifest.json",), ("fit_gaussians",), times=2),  # with a unit each
    Rot("rot in run.json", ("runs/*/run.json",), ("fit_gaussians",), destroys=0, times=1),
    Rot("rot in the digests", ("digests.db",), ("fit_gaussians",), destroys=0, times=2),
    Rot("rot in Gaussians", ("artifacts/fit_gaussians/*/gaussians.safetensors",), TRAINING, times=1),
    Rot("rot in embeddings under training", ("artifacts/embed_clip/*/*_emb/*.npy",), TRAINING, times=4),
    KillAndRot("kill, and rot in unfinished embeddings", ("artifacts/embed_clip/*/img_emb/*.npy",), DATA),
    KillAndRot("kill, and rot in unfinished records", ("artifacts/*/*/units/*.json",), DATA),
    KillAndRot(
        "kill, and rot in the newest checkpoint", ("artifacts/train_prior/*/checkpoints/*/*.safetensors",), TRAINING,
        newest=True,
    ),
    KillAndRot("kill, and rot in a checkpoint's record", ("artifacts/train_prior/*/units/checkpoint*.json",), TRAINING,
               newest=True),
)  # fmt: skip
