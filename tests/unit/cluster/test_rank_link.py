"""A training process keeps in touch with whoever started it, also where the mailbox is away for a while."""

import time
from typing import Any

from cluster.rank_link import END, REPLACE, Sign, end_is_requested, forget_requests, linked


class Away:
    """A sender whose mailbox cannot be reached the first times; then it holds a notice to end."""

    def __init__(self, times: int) -> None:
        self.left = [times]
        self.signs: list[Sign] = []

    def __call__(self, message: tuple[str, Sign]) -> None:
        if self.left[0]:
            self.left[0] -= 1
            raise ConnectionError("the mailbox is away")
        self.signs.append(message[1])

    def poll_all(self, topics: tuple[str, ...]) -> dict[str, Any]:
        return {END: True, REPLACE: None}


def test_a_mailbox_that_is_away_for_a_while_does_not_end_the_link() -> None:
    send: Any = Away(2)
    try:
        with linked(send, 3, "n1", "m1"):
            until = time.monotonic() + 60
            while not end_is_requested() and time.monotonic() < until:
                time.sleep(0.05)
            assert end_is_requested()
    finally:
        forget_requests()
    assert [(sign.rank, sign.node, sign.machine) for sign in send.signs[:1]] == [(3, "n1", "m1")]
