"""Portraits, uploads and calls: bounded and expiring."""

from types import SimpleNamespace
from typing import Any

from server.registry import Call, Calls, Source, Sources
from tests.fakes import portrait


def source(source_id: str, *, is_private: bool = True) -> Source:
    return Source(id=source_id, name="A", jpeg=b"", appearance=portrait(1), is_private=is_private)


def test_portraits_stay_and_uploads_expire() -> None:
    sources = Sources(max_uploads=4, upload_ttl_s=60)
    sources.add_portrait(source("ada", is_private=False))
    sources.add_upload(source("u1"), now_s=0)
    sources.sweep(59)
    assert sources.get("u1") is not None
    sources.sweep(60)
    assert sources.get("u1") is None
    assert sources.get("ada") is not None
    assert [each.id for each in sources.portraits()] == ["ada"]


def test_an_upload_that_is_used_stays() -> None:
    sources = Sources(max_uploads=2, upload_ttl_s=60)
    used = source("used")
    sources.add_upload(used, now_s=0)
    for number in range(100):
        sources.sweep(number, used=[used, source("ada", is_private=False)])
        sources.add_upload(source(f"u{number}"), now_s=number)
    assert sources.get("used") is used
    assert sources.get("ada") is None, "a portrait is not an upload"
    sources.sweep(159)
    assert sources.get("used") is None, "it was used for the last time a minute ago"


def test_the_oldest_upload_gives_way() -> None:
    sources = Sources(max_uploads=2, upload_ttl_s=60)
    for number in range(3):
        sources.add_upload(source(f"u{number}"), now_s=number)
    assert [sources.get(f"u{number}") is not None for number in range(3)] == [False, True, True]


def test_pictures_of_uploads_are_found_by_their_id_alone() -> None:
    assert source("u1").url == "/v1/sources/u1.jpg"
    assert source("ada", is_private=False).url == "/v1/portraits/ada.jpg"


def call(
    call_id: str, *, expires_s: float, peer: Any = None, has_failed: bool = False, **others: Any
) -> Call:
    nothing: Any = None  # the registry does not look at it
    return Call(
        id=call_id,
        source=source("u1"),
        live=SimpleNamespace(has_failed=has_failed),  # type: ignore[arg-type]
        broadcast=nothing,
        public_id=f"public {call_id}",
        peer=peer,
        expires_s=expires_s,
        ttl_s=30,
        **others,
    )


def test_a_call_without_a_connection_expires() -> None:
    calls = Calls(max_sessions=3)
    waiting, connected, late = (
        call("waiting", expires_s=10),
        call("connected", expires_s=10, peer=object()),
        call("late", expires_s=20),
    )
    for each in (waiting, connected, late):
        calls.add(each)
    assert calls.is_full
    assert calls.expired(9) == []
    assert calls.expired(15) == [waiting]


def test_a_call_that_may_not_last_longer_expires_with_its_driver_there() -> None:
    calls = Calls(max_sessions=1)
    calls.add(call("long", expires_s=10, peer=object(), ends_s=100))
    assert calls.expired(99) == []
    assert [each.id for each in calls.expired(100)] == ["long"]


def test_a_call_whose_avatar_has_failed_expires_with_its_driver_there() -> None:
    calls = Calls(max_sessions=2)
    calls.add(call("well", expires_s=10, peer=object()))
    calls.add(call("broken", expires_s=10, peer=object(), has_failed=True))
    assert [each.id for each in calls.expired(0)] == ["broken"]


def test_the_calls_of_an_address_are_counted() -> None:
    calls = Calls(max_sessions=3)
    for number, address in enumerate(("198.51.100.1", "198.51.100.1", "198.51.100.2")):
        calls.add(call(str(number), expires_s=0, address=address))
    assert [calls.count_of(f"198.51.100.{last}") for last in (1, 2, 3)] == [2, 1, 0]


def test_a_call_is_removed_once() -> None:
    calls = Calls(max_sessions=1)
    one = call("one", expires_s=0)
    calls.add(one)
    assert calls.named(one.public_id) is one
    assert calls.named(one.id) is None
    assert calls.remove(one)
    assert not calls.remove(one)
    assert calls.get("one") is None
    assert not calls.is_full
