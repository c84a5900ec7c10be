"""Work ahead in a thread."""

import threading
from collections.abc import Iterator

import pytest

from mnv2vision.common.threads import ahead


def test_one_item_is_made_while_another_is_used() -> None:
    made = [threading.Event() for _ in range(4)]
    threads = set()

    def work() -> Iterator[int]:
        for number, event in enumerate(made):
            threads.add(threading.get_ident())
            event.set()
            yield number

    for number in ahead(work()):
        assert number == 3 or made[number + 1].wait(10)
        assert not any(event.is_set() for event in made[number + 2 :])
    assert number == 3
    assert threading.get_ident() not in threads


def test_an_error_comes_in_its_place() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    items = ahead(work())
    assert next(items) == 1
    with pytest.raises(ValueError, match="two"):
        next(items)
