"""What trained models and their images say: judgements of a prior, grids, measures."""

from pipeline.inspection.findings import Findings
from pipeline.inspection.target import Target
from stages.storage.artifact import Artifact

VALIDATION = "validation.json"
_AT_STEP = "validation_"


def inspect_prior(artifact: Artifact, findings: Findings) -> None:
    """Show the last judgement on held-out pairs: by the number of sampling steps, and the reference."""
    if not artifact.exists(VALIDATION):
        return
    evaluated = artifact.read_json(VALIDATION)
    by_steps, reference = evaluated["by_steps"], evaluated.get("reference", {})
    columns = list(by_steps)
    measures = list(dict.fromkeys(name for report in by_steps.values() for name in report))
    rows = [
        (name, *(_round(by_steps[column].get(name)) for column in columns), _round(reference.get(name)))
        for name in measures
    ]
    findings.add_table("held-out pairs, by sampling steps", ("measure", *columns, "reference"), rows)
    history = [
        (int(name.removeprefix(_AT_STEP)), evaluated[name]["by_steps"])
        for name in evaluated
        if name.startswith(_AT_STEP)
    ]
    findings.add_table(
        f"held-out pairs, by training step ({columns[-1]})",
        ("step", *measures),
        [(step, *(_round(report[columns[-1]].get(name)) for name in measures)) for step, report in sorted(history)],
    )


def inspect_files(artifact: Artifact, findings: Findings) -> None:
    """Show the images that lie in the artifact's folder: sheets, plots."""
    for name in artifact.glob("*.png"):
        stem = name.removesuffix(".png")
        with artifact.open(name) as file:
            findings.add_image(stem, stem.replace("_", " "), file.read())


def inspect_tracked(artifact: Artifact, target: Target, findings: Findings) -> None:
    """Show the last of each kind of image that the stage sent to the dashboard, such as a decoder's grids."""
    found = target.tracked_run(artifact)
    if found is None:
        findings.notes.append("grids: no run of this store says that it made the artifact")
        return
    from pipeline.tracking import tracked_images

    for (name, step), png in tracked_images(*found).items():
        findings.add_image(f"{name}_{step}", f"{name.replace('_', ' ')}, step {step}", png)


def _round(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
