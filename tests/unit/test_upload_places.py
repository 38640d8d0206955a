"""Places for uploads: how many there are, and how many of them are one owner's."""

from __future__ import annotations

from contextlib import ExitStack
from http import HTTPStatus
from threading import Thread

import pytest

from errors import HttpError
from upload_places import UploadPlaces


def refusal(places: UploadPlaces, owner: str | None) -> HttpError:
    """Return how an upload is refused that doesn't wait."""
    with pytest.raises(HttpError) as caught, places.hold(owner, 0):
        pass
    return caught.value


def hold(places: UploadPlaces, stack: ExitStack, *owners: str | None) -> None:
    """Hold a place for each of these until the stack ends."""
    for owner in owners:
        stack.enter_context(places.hold(owner, 0))


@pytest.mark.parametrize("owners", [[None] * 4, ["a", "a", "a", "b"], ["a", "b", "c", "d"]])
def test_there_are_so_many_places(owners: list[str | None]) -> None:
    """One more is told when to come again; afterwards all are free."""
    places = UploadPlaces(4)
    with ExitStack() as stack:
        hold(places, stack, *owners)
        error = refusal(places, "late")
    assert error.status == HTTPStatus.TOO_MANY_REQUESTS
    assert int(error.headers["Retry-After"]) > 0
    with ExitStack() as stack:
        hold(places, stack, *owners)


def test_one_owner_leaves_some_to_the_others() -> None:
    """Of four places three are the most that one gets."""
    places = UploadPlaces(4)
    with ExitStack() as stack:
        hold(places, stack, "a", "a", "a")
        refusal(places, "a")
        hold(places, stack, "b")
        refusal(places, "b")


def test_who_waits_gets_a_place_that_is_left() -> None:
    """Within the seconds that it waits."""
    places = UploadPlaces(1)
    taken = []

    def wait() -> None:
        with places.hold("b", 60):
            taken.append("b")

    with places.hold("a", 0):
        thread = Thread(target=wait)
        thread.start()
        assert not taken
    thread.join()
    assert taken == ["b"]


def test_a_failed_upload_leaves_its_place() -> None:
    """Whatever it failed of."""
    places = UploadPlaces(1)
    with pytest.raises(ArithmeticError), places.hold("a", 0):
        raise ArithmeticError
    with places.hold("a", 0):
        pass
