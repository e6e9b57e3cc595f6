"""A folder of images through the real stage, and whether all that it holds is accounted for."""

import pandas as pd

from tests.hostile.downloads import download, source_record


def convert(folder, **options):
    source = {"kind": "folder", "path": folder} | options.pop("source", {})
    return download(source, folder.parent / "out", **options)


def accounted(summary, folder):
    """Return the numbers of images, failures and skips, which together are all that the source holds."""
    counts, found = summary.counts, source_record(folder.parent / "out")
    failed = sum(count for name, count in counts.items() if name.startswith("failed_"))
    skipped = sum(count for name, count in counts.items() if name.startswith("skipped_"))
    assert found.found == counts["images"] + failed + skipped + sum(found.used.values())
    return counts["images"], failed, skipped


def write_metadata(path, rows_of):
    frame = pd.DataFrame(rows_of)
    match path.suffix.lower():
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case ".parquet":
            frame.to_parquet(path)
