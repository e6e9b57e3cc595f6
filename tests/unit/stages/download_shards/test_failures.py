import pytest

from stages.download_shards.failures import cause_of


@pytest.mark.parametrize(
    ("status", "message", "cause"),
    [
        ("failed_to_download", "HTTP Error 404: Not Found", "http_404"),
        ("failed_to_download", "HTTP Error 503: Service Unavailable", "http_503"),
        ("failed_to_download", "timed out", "timeout"),
        ("failed_to_download", "<urlopen error timed out>", "timeout"),
        ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>", "unknown_host"),
        ("failed_to_download", "<urlopen error [Errno 111] Connection refused>", "connection_refused"),
        ("failed_to_download", "unknown url type: 'cat.jpg'", "invalid_url"),
        ("failed_to_download", "something new", "other"),
        ("failed_to_resize", "Image decoding error", "corrupt_image"),
        ("failed_to_resize", "OpenCV(4.14.0) error: !buf.empty() in function 'imdecode_'", "corrupt_image"),
        ("failed_to_resize", "image too small", "image_too_small"),
    ],
)
def test_messages_are_sorted_into_causes(status, message, cause):
    assert cause_of(status, message) == cause
