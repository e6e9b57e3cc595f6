"""What ``corgi inspect`` finds of pseudo-captions: who made them, how, their statistics, and images with them."""

from stages.contract.findings import Findings, InspectionContext, evenly
from stages.formats.pseudo_captions import Captioner, read_pseudo_captions
from stages.formats.sample_sheets import CaptionStatistics, add_sheet
from stages.storage.artifact import Artifact

SHOWN = 24


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add the captioner, and the pseudo-captions of some shards."""
    about = Captioner.of(artifact).to_json()
    findings.add_table("captioner", ("setting", "value"), [(name, str(value)) for name, value in about.items()])
    names = sorted(artifact.done_units())
    read = evenly(names, context.max_shards)
    findings.notes.append(f"pseudo-captions: of {len(read)} of {len(names)} shards; no person wrote them")
    statistics, samples = CaptionStatistics(), list[tuple[str, str, str]]()
    for name in read:
        for key, captions in read_pseudo_captions(artifact, name).items():
            statistics.add(captions)
            samples.append((name, key, captions[0]))
    statistics.report(findings)
    shown = evenly(samples, SHOWN)
    findings.add_table("pseudo-captions", ("key", "first pseudo-caption"), [(key, text) for _, key, text in shown])
    if (shards := context.input_of("download_shards")) is not None:
        add_sheet(findings, shards, shown, "images with pseudo-captions")
