"""What `corgi inspect` and `corgi verify` say of a name that leads to nothing."""

from pathlib import Path

import pytest

from pipeline.inspection.inspect import find_target
from stages.contract.errors import InputFault


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("~nobody-at-all", "~nobody-at-all is no path here"),
        ("foo://x", "foo://x: it cannot be used .*Protocol not known"),
        ("s3://", "expected a bucket, host or path behind s3://"),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x: nothing responds at the endpoint"),
    ],
)
def test_a_name_that_leads_to_nothing_is_one_sentence(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=words):
        find_target(name, str(tmp_path))
