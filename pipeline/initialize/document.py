"""The experiment that `corgi init` writes: YAML with a comment that says why each value was chosen."""

import json
from collections.abc import Mapping
from typing import Any

from models.decoders.buckets import size_name
from pipeline.initialize.advice import BUCKETS, RESOLUTION, Advice
from pipeline.initialize.survey import Survey
from stages.contract.texts import one_line

_LATIN_NOTE = "pretrained CLIPs of OpenAI know English alone"


def document(name: str, source: Mapping[str, Any], found: Survey, advice: Advice, file: str) -> str:
    """Return the text of the file."""
    parts = [_head(name, found, file), _general(name, advice), _data(source, advice), _clip(advice)]
    return "\n".join([*parts, _prior(found, advice), _decoder(advice), _end(found)])


def scalar(value: Any) -> str:
    """Return a value as YAML that reads back as the same: JSON's form of a text, in ASCII."""
    return json.dumps(value, ensure_ascii=True)


def comment(text: str) -> str:
    """Return a text as part of a comment: one line, without control characters."""
    return one_line(text, 200)


def _head(name: str, found: Survey, file: str) -> str:
    lines = [
        f"A first experiment for {comment(name)}, written by corgi init.",
        "",
        f"Command:  corgi run {comment(file)}",
        "Hardware: written for 2 CPU cores; the comments say what a GPU allows",
        "Time:     not measured",
        "Result:   not measured",
        "",
        *_findings(found),
    ]
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _findings(found: Survey) -> list[str]:
    """Return what was found, a line each."""
    of = "all" if found.is_whole else f"{found.looked_at:,} of them, evenly spread"
    lines = [f"Found: {found.entries:,} entries; looked at {of}."]
    if found.shorter_sides:
        lines.append(
            f"Sizes: shorter side {min(found.shorter_sides):,} to {max(found.shorter_sides):,} pixels, half of them "
            f"{found.median_side:,} or more; {found.uncommon_shapes:.0%} lose more than a third to a square."
        )
    each = found.captions / max(found.captioned, 1)
    lines.append(
        f"Captions: {found.captioned:,} of {found.looked_at:,} looked at have one"
        + (f", {each:.1f} each, of {sum(found.words) / len(found.words):.1f} words" if found.words else "")
        + "."
    )
    if found.scripts:
        lines.append("Scripts: " + ", ".join(f"{name} {count:,}" for name, count in found.scripts.most_common(4)) + ".")
    if found.shorter_sides:
        lines.append(f"Exact duplicates: {found.duplicates:,} of those looked at.")
    if found.faults:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in found.faults.most_common(4))
        lines.append(f"Cannot be read: {causes}.")
    return lines


def _general(name: str, advice: Advice) -> str:
    return f"""
name: {scalar(name)}
captions: {{fraction: 1.0}}  # all that there are; 0.1 shows what a tenth of them is worth
split: {{validation: {advice.validation}}}  # {advice.why["validation"]}
"""


def _data(source: Mapping[str, Any], advice: Advice) -> str:
    keys = "\n".join(f"    {key}: {scalar(value)}" for key, value in source.items())
    ratios = "  resize_mode: keep_ratio  # for train_decoder.buckets; image_size is the shorter side\n"
    ratios = ratios if advice.has_buckets else ""
    return f"""download_shards:
  source:
{keys}
  rows_per_shard: {advice.rows_per_shard}  # {advice.why["rows_per_shard"]}
{ratios}  image_size: {advice.image_size}  # {advice.why["image_size"]}
  resize_only_if_bigger: false  # so that smaller ones are enlarged, and none is refused
"""


def _clip(advice: Advice) -> str:
    if not advice.trains_clip:
        return f"""# {advice.why["clip"]}; open_clip fetches this one.
clip: {{models: [{{kind: pretrained, name: ViT-B-32, tag: openai}}]}}

embed_clip: {{}}
"""
    return f"""# {advice.why["clip"]}. Where a pretrained one can be fetched, it is better by
# far: leave train_clip out, and set clip: {{models: [{{kind: pretrained, name: ViT-B-32, tag: openai}}]}}.
# An added image trains this CLIP anew, and then everything is embedded anew. To keep the one that there is, leave
# train_clip out, and name the folder of its model: clip: {{models: [{{kind: folder, path: …/train_clip/…/clip}}]}},
# or an experiment whose data stay as they are: reuse.train_clip.config.
clip: {{models: [{{kind: trained}}]}}

train_clip:  # its defaults, but for
  vocab_size: {advice.vocab_size}  # tokens that are learned from the captions
  augmentation: {{crop: 0.1, flip: {advice.flip}}}  # {advice.why["flip"]}
  training: {{num_steps: {advice.clip_steps}}}  # {advice.why["steps"]}

embed_clip: {{}}
"""


def _prior(found: Survey, advice: Advice) -> str:
    pairs = found.estimated_captioned
    alone = "  text_dropout: 1.0  # there are no captions: it learns from images alone\n"
    best = "    best: {metric: cosine_true, mode: highest}  # of the validations\n"
    gaussians = f"fit_gaussians: {{num_gaussians: {advice.num_gaussians}}}  # a hundred images each, 256 at most\n"
    return f"""{gaussians}
train_prior:
  kind: shifted
{"" if pairs else alone}  training:
    num_steps: {advice.prior_steps}  # {advice.why["steps"]}
    batch_size: 128
    learning_rate: 1.0e-3
    betas: [0.9, 0.96]
    weight_decay: 0.06
    warmup_steps: 100
    schedule: constant  # which more steps go on from
    ema_decay: 0.99
    validation_interval: {max(advice.prior_steps // 5, 1)}
{best if pairs else ""}  validation: {{num_steps: [16], samples_per_caption: 1}}  # seven cost more than training
"""


def _decoder(advice: Advice) -> str:
    sizes = ", ".join(map(size_name, BUCKETS.sizes(RESOLUTION)))
    buckets = f"  buckets: {{step: {BUCKETS.step}}}  # {sizes}: {advice.why['buckets']}\n"
    return f"""train_decoder:  # on a GPU: resolution 128, wider channels
  kind: pixel_diffusion
  resolution: {RESOLUTION}
{buckets if advice.has_buckets else ""}  augmentation: {{crop: 0.1, flip: {advice.flip}}}  # {advice.why["flip"]}
  network: {{unshuffle: 4, channels: [64, 128, 192], layout_channels: 16, embedding_noise: 0.1}}
  training:
    num_steps: {advice.decoder_steps}  # {advice.why["steps"]}
    batch_size: 32
    learning_rate: 5.0e-4
    betas: [0.9, 0.99]
    weight_decay: 0.01
    warmup_steps: 100
    schedule: constant
    ema_decay: 0.999
    validation_interval: {max(advice.decoder_steps // 5, 1)}
    best: {{metric: held_out_loss, mode: lowest}}
"""


def _end(found: Survey) -> str:
    kind = "held_out" if found.estimated_captioned else "unconditional"
    what = "captions of images that no stage has seen" if found.estimated_captioned else "no caption to ask for"
    return f"""generate:
  prompts: {{kind: {kind}, num: 192}}  # {what}
  prior: {{num_steps: 16}}
  decoder: {{num_steps: 20, guidance_scale: 1.5}}

evaluate: {{}}
"""
