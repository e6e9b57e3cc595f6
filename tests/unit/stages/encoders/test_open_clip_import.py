import subprocess
import sys

LEAN = """
import sys
from stages.encoders.open_clip_import import import_open_clip
import_open_clip()
assert "timm" not in sys.modules and "torch._dynamo" not in sys.modules
"""
THEN_WHOLE = """
import torch._dynamo
found = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
assert found == torch._dynamo.utils.is_compile_supported("cpu")
import_open_clip(with_timm=True).create_model("MobileCLIP-S1")
"""


def test_the_compiler_and_timm_are_left_out_and_come_when_asked_for():
    subprocess.run([sys.executable, "-W", "ignore", "-c", LEAN + THEN_WHOLE], check=True, timeout=100)


PLAIN = """
import sys
import open_clip
assert {"timm", "torch._dynamo"} <= set(sys.modules), "open_clip is light now: import it plainly"
"""


def test_a_plain_import_still_brings_both():
    subprocess.run([sys.executable, "-W", "ignore", "-c", PLAIN], check=True, timeout=100)
