import pytest

from stages.contract.causes import FailureCause, ItemFault
from stages.formats.shards import EntryStatus, failure_label


def row(message: str | None, status: EntryStatus = EntryStatus.FAILED_TO_DOWNLOAD) -> dict[str, str | None]:
    return {"status": status.value, "error_message": message}


@pytest.mark.parametrize("cause", [cause for cause in FailureCause if cause.messages and cause != FailureCause.HTTP])
def test_the_cause_is_read_from_the_message_that_a_fault_wrote(cause: FailureCause) -> None:
    for message in cause.messages:
        assert failure_label(row(str(ItemFault(cause, message)))) == cause
        assert failure_label(row(f"{message}: a detail")) == cause


@pytest.mark.parametrize(
    ("status", "message", "label"),
    [
        (EntryStatus.FAILED_TO_DOWNLOAD, "HTTP Error 404: Not Found", "http_404"),
        (EntryStatus.FAILED_TO_DOWNLOAD, "HTTP Error 503: Service Unavailable", "http_503"),
        (EntryStatus.FAILED_TO_DOWNLOAD, "something new", "other"),
        (EntryStatus.FAILED_TO_DOWNLOAD, None, "other"),
        (EntryStatus.FAILED_TO_RESIZE, "OpenCV(4.14.0) error: !buf.empty() in function 'imdecode_'", "corrupt_image"),
    ],
)
def test_messages_of_libraries_have_causes_too(status: EntryStatus, message: str | None, label: str) -> None:
    assert failure_label(row(message, status)) == label
