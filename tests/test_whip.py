"""WHIP and WHEP: the checklist, each test named after its id, and what they are for.

It is long because the checklist is: whoever looks for an id finds it here.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiortc import (
    AudioStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.mediastreams import MediaStreamTrack

from server import whip_sdp
from server.auth import Grant, sign
from server.config import ServerConfig
from server.whip import FRAGMENT, SDP
from tests.serving import serving

SECRET = "a secret that the tests know as well"
FRIEND = "https://friend.example"
MAX_VIEWERS = 2


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    config = ServerConfig(
        size_px=256,
        steps=0,
        admission_fps=0,
        max_viewers=MAX_VIEWERS,
        requests_per_min=10_000,
        token_secret=SECRET,
        cors_origins=f"https://other.example, {FRIEND}",
        ice_urls="stun:stun.example:3478, turn:turn.example:3478?transport=udp",
        turn_secret="shared with coturn",
        strict_etags=True,
    )
    with serving(config) as url:
        yield url


@pytest.fixture
def session(client: httpx.Client, portrait: Path) -> Iterator[dict[str, Any]]:
    created = client.post("/v1/sessions", json={"source": portrait.stem, "ttl_s": 60})
    assert created.status_code == 201
    yield created.json()
    client.delete(created.json()["url"])


class Caller:
    """A WHIP or WHEP client."""

    def __init__(self, direction: str, *kinds: str) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: asyncio.Queue[MediaStreamTrack] = asyncio.Queue()
        self.is_connected, self.is_closed = asyncio.Event(), asyncio.Event()
        self.connection.on("track", self.tracks.put_nowait)
        self.connection.on("connectionstatechange", self._follow)
        for kind in kinds:
            track = {"audio": AudioStreamTrack, "video": VideoStreamTrack}[kind]()
            self.connection.addTransceiver(
                kind if direction == "recvonly" else track, direction=direction
            )

    def _follow(self) -> None:
        if self.connection.connectionState == "connected":
            self.is_connected.set()
        if self.connection.connectionState in ("closed", "failed"):
            self.is_closed.set()

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def call(
        self,
        client: httpx.AsyncClient,
        path: str,
        token: str,
        change: Callable[[str], str] = lambda sdp: sdp,
    ) -> httpx.Response:
        answered = await client.post(
            path, content=change(await self.offer()), headers=headers(token)
        )
        assert answered.status_code == 201, answered.text
        await self.connection.setRemoteDescription(RTCSessionDescription(answered.text, "answer"))
        return answered


def headers(token: str, kind: str = SDP, **others: str) -> dict[str, str]:
    given = {name.replace("_", "-"): value for name, value in others.items()}
    return {"Authorization": f"Bearer {token}", "Content-Type": kind} | given


def make_offer(direction: str, *kinds: str) -> str:
    async def main() -> str:
        caller = Caller(direction, *kinds)
        offer = await caller.offer()
        await caller.connection.close()
        return offer

    return asyncio.run(main())


@pytest.fixture(scope="module")
def webcam() -> str:
    """A publisher's offer."""
    return make_offer("sendonly", "audio", "video")


@pytest.fixture(scope="module")
def viewer() -> str:
    """A viewer's offer, its audio first."""
    return make_offer("recvonly", "audio", "video")


def publish(client: httpx.Client, session: dict[str, Any], offer: str) -> httpx.Response:
    token = session["tokens"]["publish"]
    return client.post(session["whip_url"], content=offer, headers=headers(token))


def watch(client: httpx.Client, session: dict[str, Any], offer: str) -> httpx.Response:
    token = session["tokens"]["watch"]
    return client.post(session["whep_url"], content=offer, headers=headers(token))


def problem(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["status"] == status
    return str(response.json()["detail"])


def play(url: str, script: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=url, timeout=60) as client:
            await script(client)

    asyncio.run(main())


def sections(sdp: str) -> list[str]:
    return [f"m={part}" for part in sdp.split("\r\nm=")[1:]]


# POST on the endpoint


def test_w1_a_post_creates_a_session_with_location_and_etag(
    client: httpx.Client, session: dict[str, Any], webcam: str, viewer: str
) -> None:
    for post, offer in ((publish, webcam), (watch, viewer)):
        created = post(client, session, offer)
        assert created.status_code == 201
        assert created.headers["Content-Type"] == "application/sdp"
        assert created.headers["ETag"].startswith('"')
        assert created.headers["ETag"].endswith('"')
        location = created.headers["Location"]
        assert location.startswith(f"{created.request.url.path}/")
        assert "?" not in location
    kind = "Application/SDP; charset=utf-8"
    again = client.post(
        session["whip_url"],
        content=webcam,
        headers=headers(session["tokens"]["publish"], kind),
    )
    assert again.status_code == 201


def test_w2_the_answer_is_complete_and_has_one_direction(
    client: httpx.Client, session: dict[str, Any], webcam: str, viewer: str
) -> None:
    for post, offer, way in ((publish, webcam, "recvonly"), (watch, viewer, "sendonly")):
        for given in (offer, offer.replace("a=sendonly", "a=sendrecv")):
            answer = post(client, session, given).text
            assert "a=candidate:" in answer
            assert "a=end-of-candidates" in answer
            assert all(f"a={way}\r\n" in section for section in sections(answer))
    for post, offer in ((publish, viewer), (watch, webcam)):
        assert "must be offered" in problem(post(client, session, offer), 422)
    inactive = webcam.replace("a=sendonly", "a=inactive", 1)
    assert "found inactive" in problem(publish(client, session, inactive), 422)


@pytest.mark.parametrize("setup", ["actpass", "active"])
def test_w3_the_answer_is_one_muxed_bundle_and_both_dtls_setups_connect(
    url: str, session: dict[str, Any], setup: str
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        caller = Caller("sendonly", "audio", "video")
        answered = await caller.call(
            client,
            session["whip_url"],
            session["tokens"]["publish"],
            lambda sdp: sdp.replace("a=setup:actpass", f"a=setup:{setup}"),
        )
        assert "a=group:BUNDLE 0 1" in answered.text
        for section in sections(answered.text):
            assert section.count("a=rtcp-mux-only\r\n") == 1
        await caller.is_connected.wait()
        await caller.connection.close()

    play(url, script)


def test_w4_a_wrong_type_is_415_and_a_malformed_offer_422(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    bearer = {"Authorization": f"Bearer {session['tokens']['publish']}"}
    for kind in ({}, {"Content-Type": "text/plain"}, {"Content-Type": FRAGMENT}):
        refused = client.post(session["whip_url"], content=webcam, headers=bearer | kind)
        assert "application/sdp" in problem(refused, 415)
    spoilt = ["", "hello", "v=0", webcam[: len(webcam) // 2], webcam + "m=\r\n", webcam + "\0"]
    for offer in spoilt:
        problem(publish(client, session, offer), 422)
    raw = client.post(
        session["whip_url"], content=b"\xff", headers=headers(session["tokens"]["publish"])
    )
    problem(raw, 422)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_w5_two_tracks_of_a_kind_or_two_streams_are_refused(
    client: httpx.Client, session: dict[str, Any], webcam: str, kind: str
) -> None:
    section = next(part for part in sections(webcam) if part.startswith(f"m={kind}"))
    twice = webcam.rstrip() + "\r\n" + section.rstrip().replace("a=mid:", "a=mid:9") + "\r\n"
    assert kind in problem(publish(client, session, twice), 422)
    own = iter(("a=msid:one ", "a=msid:two "))
    lines = [
        next(own) + line.split()[1] if line.startswith("a=msid:") else line
        for line in webcam.splitlines()
    ]
    assert "MediaStream" in problem(publish(client, session, "\r\n".join(lines) + "\r\n"), 422)


def test_w6_one_unusable_section_refuses_the_whole_offer(
    client: httpx.Client, session: dict[str, Any], webcam: str, viewer: str
) -> None:
    located = publish(client, session, webcam).headers["Location"]
    watch(client, session, viewer)
    text = "m=text 9 UDP/TLS/RTP/SAVPF 110\r\na=mid:t\r\na=sendonly\r\n"
    sockets = open_files()
    assert "text" in problem(publish(client, session, webcam + text), 422)
    for post, offer in ((publish, webcam), (watch, viewer)):
        refusal = problem(post(client, session, without_usable_sound(offer)), 422)
        assert "No codec" in refusal
        assert "audio" in refusal
    assert open_files() <= sockets, "nothing is left of what was refused"
    assert client.get(located).status_code == 204, "the publisher stays"
    assert client.get(f"{session['url']}/stats").json()["viewers"] == 1, "and who watches"


def without_usable_sound(offer: str) -> str:
    for codec in ("opus", "G722", "PCMU", "PCMA"):
        offer = offer.replace(f" {codec}/", " unheard-of/")
    return offer.replace("SAVPF 96 9 0 8", "SAVPF 96")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_w7_an_offer_without_a_common_codec_is_refused(
    client: httpx.Client, session: dict[str, Any]
) -> None:
    offer = make_offer("sendonly", "video").replace("VP8/", "VP9/").replace("H264/", "H265/")
    sockets = open_files()
    refusal = problem(publish(client, session, offer.replace(" rtx/", " red/")), 422)
    assert "No codec" in refusal
    assert "video" in refusal
    assert open_files() <= sockets, "nothing is left of what was refused"
    status = client.get(f"{session['url']}/stats").json()
    assert status["state"] == "waiting", "the session stays"
    assert publish(client, session, make_offer("sendonly", "video")).status_code == 201


@pytest.mark.parametrize("missing", ["fingerprint", "ice-ufrag", "ice-pwd", "mid"])
def test_w8_an_offer_that_lacks_what_a_connection_needs_is_refused(
    client: httpx.Client, session: dict[str, Any], webcam: str, missing: str
) -> None:
    last = webcam.rindex("m=")
    lacking = webcam[:last] + webcam[last:].replace(f"a={missing}:", "a=x-other:")
    assert f"a={missing}" in problem(publish(client, session, lacking), 422)
    empty = webcam[: webcam.index("m=")]
    problem(publish(client, session, empty), 422)


def test_w9_a_body_above_64_kib_is_413(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    assert "65,536" in problem(publish(client, session, webcam + "a=x\r\n" * 14_000), 413)
    located = publish(client, session, webcam).headers["Location"]
    too_long = client.patch(
        located,
        content="a=x\r\n" * 14_000,
        headers=headers(session["tokens"]["publish"], FRAGMENT, If_Match="*"),
    )
    problem(too_long, 413)


def test_w10_a_full_session_says_when_to_come_back_and_redirects_keep_the_method(
    client: httpx.Client, session: dict[str, Any], webcam: str, viewer: str
) -> None:
    publish(client, session, webcam)
    for _ in range(MAX_VIEWERS):
        assert watch(client, session, viewer).status_code == 201
    refused = watch(client, session, viewer)
    assert "places are taken" in problem(refused, 503)
    assert int(refused.headers["Retry-After"]) > 0
    assert client.post(f"{session['whip_url']}/", content=webcam).status_code == 307


def test_w11_a_viewer_without_a_publisher_is_told_to_come_back(
    client: httpx.Client, session: dict[str, Any], webcam: str, viewer: str
) -> None:
    refused = watch(client, session, viewer)
    problem(refused, 409)
    assert int(refused.headers["Retry-After"]) > 0
    located = publish(client, session, webcam).headers["Location"]
    assert watch(client, session, viewer).status_code == 201
    client.delete(located)
    problem(watch(client, session, viewer), 409)


def test_w12_ice_servers_come_one_link_each_in_the_order_readers_expect(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    stun, turn = publish(client, session, webcam).headers.get_list("Link")
    assert stun == '<stun:stun.example:3478>; rel="ice-server"'
    start = '<turn:turn.example:3478?transport=udp>; rel="ice-server"; username="'
    assert turn.startswith(start)
    username, credential, kind = turn.removeprefix(start).split('"; ')
    assert username.endswith(f":{session['public_id']}")
    assert credential.startswith('credential="')
    assert kind == 'credential-type="password"'
    assert "shared with coturn" not in turn


def test_w13_get_has_no_content_and_head_shows_that_there_is_something_to_watch(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    located = publish(client, session, webcam).headers["Location"]
    for path in (session["whip_url"], session["whep_url"], located):
        got = client.get(path)
        assert (got.status_code, got.content) == (204, b"")
    shown = client.head(session["whep_url"])
    assert (shown.status_code, shown.headers["Content-Type"]) == (200, "application/sdp")
    assert client.get("/v1/whep/nobody").status_code == 404


def test_w14_a_client_that_knows_no_extension_is_served_all_the_same(
    url: str, session: dict[str, Any]
) -> None:
    def add_unknown(sdp: str) -> str:
        return sdp.replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=x-layers:3\r\n")

    async def script(client: httpx.AsyncClient) -> None:
        caller, token = Caller("sendonly", "video"), session["tokens"]["publish"]
        created = await caller.call(client, session["whip_url"], token, add_unknown)
        offered = created.headers.get_list("Link")
        assert all('rel="ice-server"' in link for link in offered), "and none is required"
        await caller.is_connected.wait()  # without a PATCH
        assert (await client.delete(created.headers["Location"])).status_code == 200
        await caller.connection.close()

    play(url, script)


# OPTIONS and CORS


def test_w15_a_preflight_needs_no_token_and_tells_no_secrets(
    client: httpx.Client, session: dict[str, Any]
) -> None:
    asked = {"Origin": FRIEND, "Access-Control-Request-Method": "PATCH"}
    for path in (session["whip_url"], session["whep_url"], f"{session['whip_url']}/any"):
        told = client.options(path, headers=asked)
        assert told.status_code == 204
        assert told.headers["Access-Control-Allow-Origin"] == FRIEND
        methods = set(told.headers["Access-Control-Allow-Methods"].split(", "))
        assert methods == {"OPTIONS", "GET", "HEAD", "POST", "PATCH", "DELETE"}
        allowed = told.headers["Access-Control-Allow-Headers"].split(", ")
        assert set(allowed) == {"Authorization", "Content-Type", "If-Match"}
        assert "Link" not in told.headers


def test_w16_plain_options_tell_the_type_and_ice_servers_to_the_authorised_alone(
    client: httpx.Client, session: dict[str, Any]
) -> None:
    told = client.options(session["whip_url"])
    assert (told.status_code, told.headers["Accept-Post"]) == (200, "application/sdp")
    assert "Link" not in told.headers
    assert told.headers["Allow"] == "OPTIONS, GET, HEAD, POST"
    told = client.options(session["whip_url"], headers=headers(session["tokens"]["publish"]))
    assert len(told.headers.get_list("Link")) == 2


def test_plain_options_of_what_a_publisher_created_tell_what_may_be_done_with_it(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    located = publish(client, session, webcam).headers["Location"]
    told = client.options(located)
    assert told.headers["Allow"] == "OPTIONS, GET, HEAD, PATCH, DELETE"
    assert told.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
    assert client.options(f"{located}x").status_code == 404


def test_w17_pages_of_listed_sites_can_read_the_headers_and_others_are_refused(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    given = headers(session["tokens"]["publish"])
    taken = client.post(session["whip_url"], content=webcam, headers=given | {"Origin": FRIEND})
    assert taken.status_code == 201
    assert taken.headers["Access-Control-Allow-Origin"] == FRIEND
    assert taken.headers["Vary"] == "Origin"
    exposed = taken.headers["Access-Control-Expose-Headers"].split(", ")
    assert set(exposed) == {"Location", "ETag", "Link", "Accept-Patch", "Retry-After"}
    stranger = {"Origin": "https://stranger.example"}
    refused = client.post(session["whip_url"], content=webcam, headers=given | stranger)
    problem(refused, 403)
    assert "Access-Control-Allow-Origin" not in refused.headers


# PATCH on the session


@pytest.fixture
def published(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> Iterator[Callable[..., httpx.Response]]:
    """Patch a publisher's session; its entity-tag is sent unless the test sends another."""
    created = publish(client, session, webcam)

    def patch(body: str, *, kind: str = FRAGMENT, match: str | None = "own") -> httpx.Response:
        given = headers(session["tokens"]["publish"], kind)
        if match is not None:
            given["If-Match"] = created.headers["ETag"] if match == "own" else match
        return client.patch(created.headers["Location"], content=body, headers=given)

    yield patch
    client.delete(created.headers["Location"])


def fragment(offer: str, *candidates: str, ufrag: str = "", end: bool = False) -> str:
    own = {line.partition(":")[0]: line for line in offer.splitlines() if line.startswith("a=ice-")}
    name = f"a=ice-ufrag:{ufrag}" if ufrag else own["a=ice-ufrag"]
    lines = [name, own["a=ice-pwd"], "m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0"]
    lines += [f"a=candidate:{candidate}" for candidate in candidates]
    return "\r\n".join([*lines, *["a=end-of-candidates"] * end]) + "\r\n"


GOOD = "1 1 udp 2113937151 192.0.2.1 5000 typ host"


def test_w18_only_a_well_formed_fragment_is_patched(
    published: Callable[..., httpx.Response], webcam: str
) -> None:
    for kind in ("text/plain", "application/json"):
        refused = published(fragment(webcam, GOOD), kind=kind)
        problem(refused, 415)
        assert refused.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
    for body in ("", "hello", "a=candidate:1", fragment(webcam, GOOD.replace("5000", "port"))):
        problem(published(body), 422)
    problem(published(fragment(webcam, GOOD).replace("a=mid:0", "a=x")), 422)


def test_w19_a_trickled_candidate_is_204_without_body_or_etag(
    published: Callable[..., httpx.Response], webcam: str
) -> None:
    taken = published(fragment(webcam, GOOD))
    assert (taken.status_code, taken.content) == (204, b"")
    assert "ETag" not in taken.headers


def test_w20_candidates_nobody_can_use_are_dropped_and_the_others_taken(
    url: str, session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_reachable(line: str) -> bool:
        # As if this machine had a public address.
        return whip_sdp_is_reachable(line.replace(own_address, "8.8.8.8"))

    async def script(client: httpx.AsyncClient) -> None:
        nonlocal own_address
        caller, token = Caller("sendonly", "video"), session["tokens"]["publish"]
        offer = await caller.offer()
        [own, *_] = [line for line in offer.splitlines() if line.startswith("a=candidate:")]
        own_address = own.split()[4]
        created = await client.post(
            session["whip_url"], content=without_candidates(offer), headers=headers(token)
        )
        # The client is told no address either: the server has to come.
        answer = RTCSessionDescription(without_candidates(created.text), "answer")
        await caller.connection.setRemoteDescription(answer)
        mixed = fragment(
            offer,
            f"1 1 tcp 1 {own_address} 9 typ host tcptype active",
            "1 1 sctp 1 198.51.100.7 9 typ host",
            "1 1 udp 1 9b36eaac-bb2e-49bb-bb78-21c41c499900.local 5000 typ host",
            own.removeprefix("a=candidate:"),
            end=True,
        )
        given = headers(token, FRAGMENT, If_Match=created.headers["ETag"])
        taken = await client.patch(created.headers["Location"], content=mixed, headers=given)
        assert taken.status_code == 204
        await caller.is_connected.wait()
        await caller.connection.close()

    own_address = ""
    whip_sdp_is_reachable = whip_sdp.is_reachable
    monkeypatch.setattr(whip_sdp, "is_reachable", is_reachable)
    play(url, script)


def without_candidates(sdp: str) -> str:
    kept = [
        line
        for line in sdp.splitlines()
        if not line.startswith(("a=candidate:", "a=end-of-candidates"))
    ]
    return "\r\n".join(kept) + "\r\n"


def test_w20_candidates_are_counted_whether_or_not_they_are_used(
    published: Callable[..., httpx.Response], webcam: str
) -> None:
    assert published(fragment(webcam, *[GOOD] * 2)).status_code == 204
    assert "64 candidates" in problem(published(fragment(webcam, *[GOOD] * 63)), 422)


def test_w21_the_entity_tag_must_be_there_and_right(
    published: Callable[..., httpx.Response], webcam: str
) -> None:
    body = fragment(webcam, GOOD)
    problem(published(body, match=None), 428)
    problem(published(body, match='"another"'), 412)
    for match in ("own", "*", '"*"'):
        assert published(body, match=match).status_code == 204


def test_w22_an_ice_restart_is_refused_and_the_session_stays(
    published: Callable[..., httpx.Response], webcam: str
) -> None:
    for match in ("*", "own"):
        refused = published(fragment(webcam, GOOD, ufrag="other"), match=match)
        assert "restart" in problem(refused, 422)
    assert published(fragment(webcam, GOOD)).status_code == 204


def test_w23_an_unknown_session_is_404(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    given = headers(session["tokens"]["publish"], FRAGMENT, If_Match="*")
    for path in (f"{session['whip_url']}/nobody", "/v1/whip/nobody/nobody"):
        problem(client.patch(path, content=fragment(webcam, GOOD), headers=given), 404)
        problem(client.delete(path), 404)
    problem(client.post("/v1/whip/nobody", content=webcam, headers=given), 404)


def test_w24_a_counter_offer_is_415(
    client: httpx.Client, session: dict[str, Any], webcam: str, viewer: str
) -> None:
    publish(client, session, webcam)
    located = watch(client, session, viewer).headers["Location"]
    given = headers(session["tokens"]["watch"], If_Match="*")
    problem(client.patch(located, content=viewer, headers=given), 415)


def test_w25_old_clients_are_told_what_to_patch_with(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    created = publish(client, session, webcam)
    assert created.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"


# DELETE on the session

HUNG_UP_S = 20  # whoever is not told notices after 30 s, when the consent expires


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def decoders() -> int:
    return sum(name.endswith("decoder") for name in names())


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 # threads start without telling anybody
        await asyncio.sleep(0.01)


def test_w26_delete_is_200_hangs_up_and_is_404_after_that(
    url: str, session: dict[str, Any]
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        caller, idle = Caller("sendonly", "video"), decoders()
        token = session["tokens"]["publish"]
        located = (await caller.call(client, session["whip_url"], token)).headers["Location"]
        await caller.is_connected.wait()
        await until(lambda: decoders() == idle + 1)
        given = headers(token, If_Match='"whatever"')
        assert (await client.delete(located, headers=given)).status_code == 200
        assert decoders() == idle, "its thread ended before the answer"
        async with asyncio.timeout(HUNG_UP_S):
            await caller.is_closed.wait()
        assert (await client.delete(located, headers=given)).status_code == 404
        await caller.connection.close()

    play(url, script)


def test_w27_ending_the_session_hangs_up_on_everybody_at_once(
    url: str, session: dict[str, Any]
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        webcam, viewer = Caller("sendonly", "video"), Caller("recvonly", "video")
        tokens, motion_thread = session["tokens"], f"motion-{session['id'][:6]}"
        await webcam.call(client, session["whip_url"], tokens["publish"])
        await viewer.call(client, session["whep_url"], tokens["watch"])
        await webcam.is_connected.wait()
        await viewer.is_connected.wait()
        control = headers(tokens["control"])
        assert motion_thread in names()
        assert (await client.delete(session["control_url"], headers=control)).status_code == 204
        assert motion_thread not in names(), "its thread ended before the answer"
        async with asyncio.timeout(HUNG_UP_S):
            await webcam.is_closed.wait()
            await viewer.is_closed.wait()
        assert (await client.get(session["whep_url"])).status_code == 404
        await webcam.connection.close()
        await viewer.connection.close()

    play(url, script)


# Authorisation


def test_w28_a_token_opens_what_it_names_and_nothing_else(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    path, tokens = session["whip_url"], session["tokens"]

    def post(authorization: str | None) -> httpx.Response:
        given = {"Content-Type": SDP}
        if authorization is not None:
            given["Authorization"] = authorization
        return client.post(path, content=webcam, headers=given)

    grant = Grant(session=session["public_id"], scope="publish", expires_s=1.0)
    invalid = ("Bearer undefined", "Bearer", f"Bearer {sign(grant, SECRET.encode())}")
    for authorization in (None, "Basic eA==", *invalid, f"Bearer {tokens['publish']}x"):
        refused = post(authorization)
        problem(refused, 401)
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    other = Grant(session="other", scope="publish", expires_s=1e12)
    for token in (tokens["watch"], tokens["control"], sign(other, SECRET.encode())):
        problem(post(f"Bearer {token}"), 403)
    created = post(f"bearer {tokens['publish']}")
    assert created.status_code == 201
    located = created.headers["Location"]
    wrong = {"Authorization": f"Bearer {tokens['watch']}"}
    problem(client.delete(located, headers=wrong), 403)
    assert client.delete(located).status_code == 200, "the URL is a capability"
    assert client.get(f"{session['control_url']}/stats").status_code == 401
    stats = client.get(f"{session['control_url']}/stats", headers=headers(tokens["control"]))
    assert stats.json()["viewers"] == 0


def test_w29_urls_cannot_be_guessed_and_requests_are_limited(
    client: httpx.Client, session: dict[str, Any], webcam: str, portrait: Path
) -> None:
    secret = publish(client, session, webcam).headers["Location"].rsplit("/", 1)[1]
    assert len(secret) >= 22  # 128 bits
    assert secret not in (session["id"], session["public_id"])
    assert session["id"] not in session["whip_url"]
    config = ServerConfig(size_px=256, steps=0, requests_per_min=3)
    with serving(config) as url, httpx.Client(base_url=url, timeout=60) as own:
        started = own.post("/v1/sessions", json={"source": portrait.stem}).json()
        located = publish(own, started, webcam).headers["Location"]
        # Without If-Match: many clients leave it out, and this server is not strict.
        given = headers(started["tokens"]["publish"], FRAGMENT)
        for _ in range(3):
            taken = own.patch(located, content=fragment(webcam, GOOD), headers=given)
            assert taken.status_code == 204
        restart = own.patch(located, content=fragment(webcam, ufrag="other"), headers=given)
        problem(restart, 429)
        for _ in range(3):
            problem(own.delete(f"{located}x", headers=given), 404)
        for _ in range(2):
            assert publish(own, started, webcam).status_code == 201
        # Each method has a rate of its own, and each refusal says when to come back.
        limited = own.patch(located, headers=given), own.delete(located)
        for refused in (*limited, publish(own, started, webcam)):
            problem(refused, 429)
            assert int(refused.headers["Retry-After"]) > 0
        assert own.get(started["whip_url"]).status_code == 204, "reading is free"
        told = own.get("/metrics").text
        assert "avatar_whip_missing_if_match_total 3.0" in told
        assert 'avatar_whip_requests_total{code="429",method="DELETE"} 1.0' in told


# What they are for


def test_a_publisher_reconnects_and_the_viewers_go_on(url: str, session: dict[str, Any]) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        tokens = session["tokens"]
        first, second = Caller("sendonly", "audio", "video"), Caller("sendonly", "video")
        viewers = [Caller("recvonly", "audio", "video") for _ in range(MAX_VIEWERS)]
        await first.call(client, session["whip_url"], tokens["publish"])
        for viewer in viewers:
            await viewer.call(client, session["whep_url"], tokens["watch"])
        avatars = []
        for viewer in viewers:
            tracks = [await viewer.tracks.get() for _ in ("audio", "video")]
            avatars += [track for track in tracks if track.kind == "video"]
        for avatar in avatars:
            await avatar.recv()
        await second.call(client, session["whip_url"], tokens["publish"])
        await first.is_closed.wait()
        await second.is_connected.wait()
        for avatar in avatars:
            for _ in range(3):
                frame: Any = await avatar.recv()
            assert (frame.width, frame.height) == (256, 256)
        stats = (await client.get(f"{session['url']}/stats")).json()
        assert stats["viewers"] == MAX_VIEWERS
        for caller in (first, second, *viewers):
            await caller.connection.close()

    play(url, script)


def test_a_bad_offer_leaves_the_publisher_in_place(
    client: httpx.Client, session: dict[str, Any], webcam: str
) -> None:
    located = publish(client, session, webcam).headers["Location"]
    problem(publish(client, session, webcam.replace("a=rtcp-mux\r\n", "")), 422)
    assert client.get(located).status_code == 204
