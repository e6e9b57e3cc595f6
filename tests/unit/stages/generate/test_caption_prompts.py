import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.config.schema import RunConfig
from pipeline.fingerprints import fingerprint_of
from stages.contract.errors import InputFault
from stages.formats.filtered import FilterRecord, write_filtered
from stages.formats.shards import ShardEntry, ShardRecord, read_captions, shard_tar, write_shard
from stages.formats.splits import SplitConfig, split_numbers
from stages.generate.config import CaptionPrompts, GenerateConfig
from stages.generate.prompts import caption_prompts
from stages.generate.stage import stage_prompts
from stages.storage.artifact import Output
from tests.unit.stages.encoded import encoded_square

#: In a process of its own, which never ends the tracing: a thread of pyarrow's that frees memory just then is a crash.
_MEASURED = """
import os, sys, tracemalloc
from stages.formats.splits import SplitConfig
from stages.generate.config import CaptionPrompts
from stages.generate.prompts import caption_prompts
from stages.storage.artifact import Artifact

shards, section = Artifact(sys.argv[1], "download_shards", "a"), CaptionPrompts(kind="held_out", num=3)
tracemalloc.start()
prompts = caption_prompts(section, SplitConfig(validation=0.2, test=0.7), shards)
print(len(prompts), tracemalloc.get_traced_memory()[1], flush=True)
os._exit(0)
"""
CLIP = {"models": [{"kind": "trained"}]}
COLUMNS = pa.schema([(name, pa.string()) for name in ("key", "status", "error_message", "caption")])


def make_shards(folder: Path, num_shards: int, images: int, caption: str = "caption") -> Output:
    """Write shards of some images, every tenth of which is lost, and every seventh has no caption."""
    shards = Output(str(folder), "download_shards", "a")
    for shard in range(num_shards):
        entries = []
        for row in range(images):
            number = shard * images + row
            is_lost = number % 10 == 9
            status = "failed_to_download" if is_lost else "success"
            text = None if number % 7 == 6 else f"{caption} {number}"
            found = {"key": f"{number:05d}", "status": status, "error_message": "x" if is_lost else None}
            image = None if is_lost else encoded_square(number % 60)
            entries.append(ShardEntry(found["key"] or "", image, {**found, "caption": text}))
        name = f"{shard:05d}"
        write_shard(shards, name, entries, schema=COLUMNS, image_suffix="png")
        made = [entry for entry in entries if entry.image is not None]
        captioned = sum(entry.row["caption"] is not None for entry in made)
        ShardRecord(rows=images, images=len(made), captioned=captioned, failures={}).finish(shards, name)
    return shards


def test_prompts_are_the_captions_of_images_that_nobody_trains_on(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 1, 60)
    split = SplitConfig(validation=0.2, test=0.2)
    test, validation = (
        caption_prompts(CaptionPrompts(kind="held_out", part=part), split, shards) for part in ("test", "validation")
    )
    assert test
    assert validation
    assert {one.sample for one in test}.isdisjoint({one.sample for one in validation})
    assert all(one.sample is not None and one.text == f"caption {int(one.sample[1])}" for one in test)
    few = caption_prompts(CaptionPrompts(kind="held_out", num=2), split, shards)
    assert few == test[:2]
    captioned = ShardRecord.done(shards)["00000"].captioned
    with pytest.raises(
        InputFault, match=rf"none of the {captioned} captioned images is in the part test .*raise split\.test"
    ):
        caption_prompts(CaptionPrompts(kind="held_out"), SplitConfig(test=1e-9), shards)


def test_prompts_of_many_shards_are_those_with_the_lowest_numbers_and_no_tar_is_read(tmp_path: Path) -> None:
    shards, split = make_shards(tmp_path, 5, 40), SplitConfig(validation=0.3, test=0.3, seed=4)
    found = []
    for name in ShardRecord.done(shards):
        captions = read_captions(shard_tar(shards, name))
        numbers = split_numbers(list(captions), split)
        found += [(n, name, *item) for n, item in zip(numbers, captions.items(), strict=True) if n < split.test]
        Path(shards.path(f"shards/{name}.tar")).unlink()
    expected = [(text, (name, key)) for _, name, key, text in sorted(found)]
    for num in (12, 1000):
        prompts = caption_prompts(CaptionPrompts(kind="held_out", num=num), split, shards)
        assert [(one.text, one.sample) for one in prompts] == expected[:num]
    assert len(expected) > 12


def test_no_more_captions_are_held_than_are_chosen(tmp_path: Path) -> None:
    letters = random.Random(0).choices("abcdefghij", k=20_000)
    shards = make_shards(tmp_path, 20, 10, "".join(letters))  # 200 captions of 20 kB
    done = subprocess.run([sys.executable, "-c", _MEASURED, shards.uri], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    number, peak = map(int, done.stdout.split())
    assert number == 3
    assert 20_000 < peak < 2_000_000


def test_the_section_reads_the_images_and_the_split_where_it_needs_them() -> None:
    section = GenerateConfig(clip=CLIP, prompts={"kind": "held_out", "part": "validation"})
    assert "download_shards" in section.inputs
    assert section.chosen_sets == ("prior", "text_embedding", "reconstruction")
    assert "split" in section.identity()
    assert "split" not in GenerateConfig(clip=CLIP, prompts={"kind": "list", "texts": ["x"]}).identity()
    with pytest.raises(ValidationError, match=r"prompts\.part is test, and split\.test is 0"):
        GenerateConfig(clip=CLIP, prompts={"kind": "held_out", "part": "test"})


def test_prompts_are_of_no_image_that_was_filtered_out(tmp_path: Path) -> None:
    shards, split = make_shards(tmp_path / "shards", 2, 40), SplitConfig(validation=0.3, test=0.3)
    section = CaptionPrompts(kind="held_out")
    every = [one.sample for one in caption_prompts(section, split, shards) if one.sample is not None]
    kept = Output(str(tmp_path / "kept"), "filter_samples", "k")
    gone = [key for shard, key in every if shard == "00000"][::2]
    removed = [{"key": key, "cause": "nsfw", "value": 0.9, "duplicate_of": None} for key in gone]
    write_filtered(kept, "00000", np.arange(40 - len(gone)), removed)
    FilterRecord(rows=40 - len(gone), captioned=0, removed={"nsfw": len(gone)}).finish(kept, "00000")
    found = [one.sample for one in caption_prompts(section, split, shards, kept)]
    assert gone
    assert found == [(shard, key) for shard, key in every if key not in gone]
    config = GenerateConfig.model_validate({"clip": CLIP, "prompts": section, "split": split})
    inputs = {"download_shards": shards, "filter_samples": kept}
    assert [one.sample for one in stage_prompts(config, inputs)] == found


def run_config(prompts: dict[str, Any], *, filtered: bool, retrieval: dict[str, Any] | None) -> RunConfig:
    reused = ("download_shards", "embed_clip", "train_clip", "train_prior", "train_decoder")
    stages = (*reused, "filter_samples") if filtered else reused
    section = {"clip": CLIP, "prompts": prompts, "retrieval": retrieval}
    reuse = {stage: {"config": "other.yaml"} for stage in stages}
    return RunConfig.model_validate({"name": "tiny", "generate": section, "reuse": reuse})


@pytest.mark.parametrize("retrieval", [None, {}])
def test_a_filter_is_an_input_of_prompts_of_images_alone(retrieval: dict[str, Any] | None) -> None:
    def has_filter(prompts: dict[str, Any], *, filtered: bool, is_new: bool = False) -> bool:
        config = run_config(prompts, filtered=filtered, retrieval=retrieval)
        section = config.generate
        assert section is not None
        inputs = {name: name for name in config.inputs_of(section)}
        content = {
            "stage": "generate", "code_version": section.code_version, "config": section.identity(), "inputs": inputs
        }  # fmt: skip
        of_earlier = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        found = fingerprint_of(section, section.identity(), inputs)
        assert (found != of_earlier) is is_new
        return "filter_samples" in inputs

    texts = {"kind": "list", "texts": ["x"]}
    assert not has_filter({"kind": "held_out"}, filtered=False)
    assert has_filter({"kind": "held_out"}, filtered=True, is_new=True)
    assert has_filter(texts, filtered=True) is (retrieval is not None)
    assert not has_filter(texts, filtered=False)
