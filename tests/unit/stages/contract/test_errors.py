import pickle

import pytest

from stages.contract.errors import FailureCause, ImageFault, InputFault, ItemFault


@pytest.mark.parametrize("cause", FailureCause)
def test_a_fault_is_counted_by_its_cause_and_has_a_message(cause: FailureCause) -> None:
    fault = ItemFault(cause)
    assert fault.label == cause.value == str(cause)
    assert str(fault)


def test_a_fault_survives_the_journey_from_a_worker() -> None:
    fault = pickle.loads(pickle.dumps(ItemFault(FailureCause.HTTP, "HTTP Error 404: Not Found", http_status=404)))
    assert (fault.label, str(fault)) == ("http_404", "HTTP Error 404: Not Found")
    image = pickle.loads(pickle.dumps(ImageFault(FailureCause.CORRUPT_IMAGE, "here: broken")))
    assert isinstance(image, ImageFault)
    assert issubclass(ImageFault, InputFault)
    assert (image.cause, str(image)) == (FailureCause.CORRUPT_IMAGE, "here: broken")


def test_no_message_stands_for_two_causes() -> None:
    messages = [message for cause in FailureCause for message in cause.messages]
    assert len(messages) == len(set(messages))
