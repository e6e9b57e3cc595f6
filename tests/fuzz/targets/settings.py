"""What a user or a stranger writes: experiments, sweeps, overrides, prompts."""

import re
from pathlib import Path
from random import Random

from tests.fuzz.mutations import Mutation, mutate_bytes
from tests.fuzz.structures import mutate_csv, mutate_files, mutate_tsv, mutate_yaml, pack_files, unpack_files
from tests.fuzz.target import Broken, Run, Target

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
BASE = b"download_shards:\n  source: {kind: folder, path: images}\n  image_size: 64\n"
OVERRIDES = b"store=workspace\ndownload_shards.image_size=32\ndownload_shards.min_yield=0.5"


def _experiments() -> list[bytes]:
    names = ("quickstart.yaml", "supervised.yaml", "language_free.yaml", "tiny_clip.yaml", "smoke.yaml")
    texts = [(CONFIGS / name).read_bytes() for name in names]
    plain = [text for text in texts if b"\nextends" not in text and not text.startswith(b"extends")]
    made = b"extends: base.yaml\nname: x\nstorage: {options: {s3: {endpoint_url: 'http://127.0.0.1:1'}}}\n"
    packed = [{"mine.yaml": text, "words": OVERRIDES} for text in plain]
    return [pack_files(files) for files in (*packed, {"mine.yaml": made, "base.yaml": BASE, "words": OVERRIDES})]


def _prepare_experiment() -> Run:
    from pipeline.config.loading import load_config

    def run(data: bytes, folder: Path) -> object:
        files = unpack_files(data)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        words = files["words"].decode(errors="surrogateescape").split("\n")
        return load_config(folder / "mine.yaml", [word for word in words if word and "\0" not in word])

    return run


def _sweeps() -> list[bytes]:
    texts = [path.read_bytes() for path in sorted(CONFIGS.rglob("*.yaml"))]
    return [re.sub(rb"\nbase: .*", b"\nbase: base.yaml", text) for text in texts if b"\nbase:" in text]


def _prepare_sweep() -> Run:
    from pipeline.sweep.config import load_sweep, variants_of

    def run(data: bytes, folder: Path) -> object:
        (folder / "sweep.yaml").write_bytes(data)
        (folder / "base.yaml").write_bytes(BASE)
        return [
            variant.label
            for _, variant in zip(range(100), variants_of(load_sweep(folder / "sweep.yaml")), strict=False)
        ]

    return run


def _by_name(name: str) -> Mutation:
    return mutate_yaml if name.endswith(".yaml") else mutate_bytes


def _prepare_prompts(suffix: str) -> Run:
    from stages.generate.config import FilePrompts
    from stages.generate.prompts import read_prompts

    def run(data: bytes, folder: Path) -> object:
        (folder / f"p{suffix}").write_bytes(data)
        prompts = read_prompts(FilePrompts(kind="file", path=folder / f"p{suffix}"))
        if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
            raise Broken(f"prompts {prompts!r:.200}")
        [prompt.encode() for prompt in prompts]
        return prompts

    return run


def _mutate_prompts(rng: Random, data: bytes) -> bytes:
    return mutate_tsv(rng, data) if rng.random() < 0.5 else mutate_csv(rng, data)


TARGETS = (
    Target("experiment", _experiments, _prepare_experiment, (mutate_files(_by_name),), weight=3),
    Target("sweep", _sweeps, _prepare_sweep, (mutate_yaml,)),
    Target("prompts_txt", lambda: [b"a star\n\n b \n", "日本\r\n🎨".encode()], lambda: _prepare_prompts(".txt")),
    Target(
        "prompts_csv",
        lambda: [b'Prompt,n\n"a, b",1\nc,2\n', b"n,Prompt\r\n1,x\r\n"],
        lambda: _prepare_prompts(".csv"),
        (_mutate_prompts, mutate_bytes),
    ),
)  # fmt: skip
