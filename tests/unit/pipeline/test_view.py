"""What a run shows of its stages."""

import io

from rich.console import Console

from pipeline.view import RunView
from stages.contract.events import Log


def test_a_warning_of_a_stage_that_has_not_started_is_printed() -> None:
    written = io.StringIO()
    with RunView(Console(file=written)) as view:
        view.event("embed_clip", Log("img_emb_00008.npy: found 76 bytes: it is made again", "WARNING"))
    assert "embed_clip: warning: img_emb_00008.npy: found 76 bytes: it is made again" in written.getvalue()
