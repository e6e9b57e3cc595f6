"""What ``corgi inspect`` finds of shards: captions, sizes, lost entries, a sheet of samples."""

from stages.contract.findings import Findings, InspectionContext, evenly, histogram
from stages.formats.attributions import read_attributions
from stages.formats.sample_sheets import CaptionStatistics, add_sheet
from stages.formats.shards import EntryStatus, ShardRecord, failure_label, read_table
from stages.formats.source_records import SourceRecord, add_up
from stages.storage.artifact import Artifact

SHOWN = 24
LOST_SHOWN = 10


def inspect(artifact: Artifact, findings: Findings, context: InspectionContext) -> None:
    """Add what the tables of some shards say, and some of their images."""
    names = sorted(artifact.done_units())
    read = evenly(names, context.max_shards)
    findings.notes.append(f"captions, sizes and lost entries: of {len(read)} of {len(names)} shards")
    captions, lost = CaptionStatistics(), []
    sizes: dict[str, list[int]] = {"kept": [], "original": []}
    samples: list[tuple[str, str, str]] = []
    for name in read:
        table = read_table(artifact, name)
        for row in table.to_pylist():
            if row["status"] != EntryStatus.SUCCESS:
                lost.append((row["key"], failure_label(row), row.get("url") or ""))
                continue
            found = _captions_of(row)
            captions.add(found)
            samples.append((name, row["key"], next(iter(found), "")))
            sizes["kept"].append(min(row["width"], row["height"]))
            sizes["original"].append(min(row["original_width"], row["original_height"]))
    captions.report(findings)
    for kind, sides in sizes.items():
        findings.add_table(f"shorter side in pixels ({kind})", ("pixels", "images", "fraction"), histogram(sides))
    findings.add_table("lost entries (first ones)", ("key", "cause", "address"), lost[:LOST_SHOWN])
    _add_skips(artifact, findings)
    works = [(one.work, one.author, one.license, one.source, one.changes) for one in read_attributions(artifact).works]
    findings.add_table("works shown", ("work", "author", "license", "source", "changes"), works)
    add_sheet(findings, artifact, evenly(samples, SHOWN), "samples")


def _add_skips(artifact: Artifact, findings: Findings) -> None:
    """Add what the source held besides entries with a row: files of other kinds, links out of it, captions."""
    source = SourceRecord.of(artifact) if artifact.exists(SourceRecord.file) else SourceRecord()
    skips = add_up([source.skips, *(record.skips for record in ShardRecord.done(artifact).values())])
    rows = [(cause, one.count, ", ".join(one.kinds), one.example) for cause, one in skips.items()]
    findings.add_table("skipped entries of the source", ("cause", "entries", "kinds", "first one"), rows)
    findings.add_figures("files that describe images", source.used)


def _captions_of(row: dict[str, object]) -> list[str]:
    """Return all captions of a row of a shard's table."""
    listed = row.get("captions")
    if isinstance(listed, list):
        return [str(caption) for caption in listed]
    return [str(row["caption"])] if row.get("caption") else []
