"""A thousand malformed offers, fragments, tokens and uploads beside a call that goes on."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aiortc.exceptions import InvalidStateError
from PIL import Image

from mimaface.types import Pixels
from mimaface.video import VideoReader
from server.auth import Grant, sign
from server.config import ServerConfig
from server.whip import FRAGMENT
from tests.mutations import spoil_bytes, spoil_characters, spoil_lines
from tests.page import Page
from tests.serving import serving
from tests.test_whip import GOOD, fragment, headers, make_offer

SECRET = "a secret that the tests know as well"
OFFERS, FRAGMENTS, TOKENS, UPLOADS = 350, 300, 300, 50
FPS = 5  # of the call, to leave the processor to the attack
PER_LEG = 10  # fragments sent to one connection, which takes 64 candidates and seconds


class Attack:
    """Sends malformed requests and counts what they were answered."""

    def __init__(self, client: httpx.AsyncClient, source: str) -> None:
        self.random = random.Random(4096)
        self.client = client
        self.source = source
        self.answers: Counter[tuple[str, int]] = Counter()

    async def send(self, kind: str, method: str, path: str, **request: Any) -> httpx.Response:
        answer = await self.client.request(method, path, **request)
        assert answer.status_code < 500, (kind, answer.status_code, answer.text, request)
        self.answers[kind, answer.status_code] += 1
        return answer

    @asynccontextmanager
    async def victim(self) -> AsyncIterator[dict[str, Any]]:
        created = await self.client.post("/v1/sessions", json={"source": self.source})
        yield created.json()
        assert (await self.client.delete(created.json()["url"])).status_code == 204

    async def send_offers(self, driven: dict[str, Any], offers: dict[str, str]) -> None:
        async with self.victim() as session:
            ways = (
                ("rtc", f"{session['url']}/rtc", "none"),
                ("whip", session["whip_url"], session["tokens"]["publish"]),
                ("whep", driven["whep_url"], driven["tokens"]["watch"]),
            )
            for number in range(OFFERS):
                kind, path, token = ways[number % len(ways)]
                spoilt = spoil_lines(self.random, offers[kind])
                content = spoilt.encode()
                if self.random.random() < 0.05:
                    content = spoil_bytes(self.random, content)
                await self.send("offer", "POST", path, content=content, headers=headers(token))

    async def send_fragments(self, offer: str) -> None:
        async with self.victim() as session:
            token = session["tokens"]["publish"]
            valid = fragment(offer, GOOD, GOOD, end=True)
            for number in range(FRAGMENTS):
                if number % PER_LEG == 0:
                    created = await self.client.post(
                        session["whip_url"], content=offer, headers=headers(token)
                    )
                    assert created.status_code == 201
                await self.send(
                    "fragment",
                    "PATCH",
                    created.headers["Location"],
                    content=spoil_lines(self.random, valid).encode(),
                    headers=headers(token, FRAGMENT, If_Match="*"),
                )

    async def send_tokens(self, offer: str) -> None:
        async with self.victim() as session:
            valid: str = session["tokens"]["publish"]
            grant = {"session": session["public_id"], "scope": "publish", "expires_s": 1e12}
            wrong = [
                sign(Grant(**grant), b"another server's secret"),
                sign(Grant(**grant | {"expires_s": 1.0}), SECRET.encode()),
                sign(Grant(**grant | {"session": "another"}), SECRET.encode()),
                sign(Grant(**grant | {"scope": "watch"}), SECRET.encode()),
                *("-", ".", "..", "null", "undefined", valid * 4, valid.partition(".")[0]),
            ]
            while len(wrong) < TOKENS:
                spoilt = spoil_characters(self.random, valid).strip()
                wrong += [spoilt] * (spoilt != valid)
            for token in wrong:
                answer = await self.send(
                    "token", "POST", session["whip_url"], content=offer, headers=headers(token)
                )
                assert answer.status_code in (401, 403), token
                assert "WWW-Authenticate" in answer.headers

    async def send_uploads(self, photos: dict[str, bytes]) -> None:
        for number in range(UPLOADS):
            kind = ("image/jpeg", "image/png", "image/webp")[number % 3]
            photo = spoil_bytes(self.random, photos[kind])
            if number % 2:
                photo = self.random.randbytes(self.random.randint(0, 4096))
            given = {"Content-Type": kind, "X-Consent": "yes"}
            await self.send("upload", "POST", "/v1/sources", content=photo, headers=given)


def is_aiortcs(record: logging.LogRecord) -> bool:
    """Whether it tells of aiortc's own task that connects what was closed meanwhile."""
    error = record.exc_info[1] if record.exc_info else None
    return record.name == "asyncio" and isinstance(error, InvalidStateError)


def held() -> tuple[int, int]:
    """Return how many files, and threads beside the encoders', this process has."""
    names = [thread.name for thread in threading.enumerate()]
    return len(os.listdir("/proc/self/fd")), sum(not name.startswith("encode") for name in names)


async def watch(page: Page, seen: list[Pixels]) -> None:
    while True:
        seen.append(await page.frame())
        del seen[:-50]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 # the server is in another thread, and tells nobody
        await asyncio.sleep(0.1)


def is_moving(seen: list[Pixels]) -> bool:
    return len(seen) > 10 and any(
        np.abs(frame.astype(int) - seen[0]).mean() > 1 for frame in seen[1:]
    )


def test_a_thousand_malformed_requests_break_nothing_and_disturb_nobody(
    portrait: Path, driving_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with VideoReader(driving_clip) as video:
        driver = [rgb for _, rgb in video]
    with Image.open(portrait) as picture:
        small = picture.resize((96, 96))
    photos = {}
    for kind in ("jpeg", "png", "webp"):
        file = io.BytesIO()
        small.save(file, kind)
        photos[f"image/{kind}"] = file.getvalue()
    offers = {
        "rtc": make_offer("sendrecv", "audio", "video"),
        "whip": make_offer("sendonly", "audio", "video"),
        "whep": make_offer("recvonly", "audio", "video"),
    }
    answers: Counter[tuple[str, int]] = Counter()

    async def main(url: str) -> None:
        async with asyncio.timeout(600), httpx.AsyncClient(base_url=url, timeout=60) as client:
            attack = Attack(client, portrait.stem)
            driven = (await client.post("/v1/sessions", json={"source": portrait.stem})).json()
            page = Page(driver, FPS)
            await page.call(client, driven["url"])
            await page.message(type="state", state="live")
            seen: list[Pixels] = []
            watching = asyncio.create_task(watch(page, seen))
            # First, for the threads that stay for the next upload and the next end of a call.
            await attack.send_uploads(photos)
            async with attack.victim():
                pass
            base = held()
            await attack.send_offers(driven, offers)
            await attack.send_fragments(offers["whip"])
            await attack.send_tokens(offers["whip"])
            answers.update(attack.answers)
            # Viewers who never came are given up.
            await until(lambda: all(now <= then for now, then in zip(held(), base, strict=True)))
            seen.clear()
            await until(lambda: is_moving(seen))
            stats = (await client.get(f"{driven['url']}/stats")).json()
            assert stats["viewers"] == 0
            assert not page.is_closed.is_set()
            assert not watching.done()
            watching.cancel()
            await page.connection.close()

    config = ServerConfig(
        size_px=256,
        steps=0,
        fps=FPS,
        latency_budget_s=5.0,
        admission_fps=0,
        max_viewers=1000,
        requests_per_min=100_000,
        connect_timeout_s=10.0,
        session_ttl_s=600.0,  # however slow the machine is, sessions stay
        token_secret=SECRET,
    )
    with caplog.at_level(logging.WARNING), serving(config) as url:
        uvicorn_log = logging.getLogger("uvicorn")  # hands nothing on to the root's
        uvicorn_log.addHandler(caplog.handler)
        asyncio.run(main(url))
        uvicorn_log.removeHandler(caplog.handler)
    gc.collect()  # a task whose error nobody saw tells of it when it goes
    told = [
        record
        for record in caplog.records
        if (record.exc_info or record.levelno >= logging.ERROR) and not is_aiortcs(record)
    ]
    assert not told, [record.getMessage() for record in told]
    assert answers.total() == OFFERS + FRAGMENTS + TOKENS + UPLOADS == 1000
    for kind, taken in (("offer", 201), ("offer", 422), ("fragment", 204), ("fragment", 422)):
        assert answers[kind, taken] > 20, answers
    assert answers["upload", 422] > UPLOADS / 2, answers
