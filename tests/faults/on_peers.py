"""Rows of the other sides: a driver who vanishes, a slow viewer, the server itself."""

from __future__ import annotations

import asyncio
import math
import time

import httpx
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from tests.browser_setup import run_server
from tests.faults.bench import Bench, Outcome, elapse, judge, settle
from tests.faults.link import CLEAR, DEAD, Link, Weather
from tests.faults.watched import watched


async def client_vanishes(bench: Bench) -> Outcome:
    async with bench.call(ttl_s=1.0) as call:
        url = f"{call.session['url']}/stats"
        start_s = time.monotonic()
        call.link.set(DEAD)
        moved, free_s, ended_s = -1.0, 0.0, math.inf
        while ended_s == math.inf and time.monotonic() - start_s < 40:
            shown = await bench.count("playout", "out")
            if shown != moved:
                moved, free_s = shown, time.monotonic() - start_s
            if (await bench.client.get(url)).status_code == 404:
                ended_s = time.monotonic() - start_s
            await asyncio.sleep(0.1)
    return Outcome(
        measured=f"last avatar frame made after {free_s:.1f} s; session over after {ended_s:.1f} s,"
        " of which it waited 1 s for a reconnect",
        holds=free_s <= 3.0 and ended_s <= 15.0,
        figures={"free_s": free_s, "ended_s": ended_s},
    )


async def slow_viewer(bench: Bench) -> Outcome:
    """Narrow the link of somebody who watches, and see what the driver has of it."""
    async with bench.call() as call:
        viewer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        came: list[float] = []

        @viewer.on("track")  # type: ignore[untyped-decorator]
        async def watch(track: MediaStreamTrack) -> None:
            try:
                while True:
                    await track.recv()
                    came.append(time.monotonic())
            except MediaStreamError:
                pass

        viewer.addTransceiver("video", direction="recvonly")
        await viewer.setLocalDescription(await viewer.createOffer())
        session = call.session
        answered = await bench.client.post(
            session["whep_url"],
            content=viewer.localDescription.sdp,
            headers={
                "Authorization": f"Bearer {session['tokens']['watch']}",
                "Content-Type": "application/sdp",
            },
        )
        answered.raise_for_status()
        link = await Link.to_the_server_of(answered.text)
        await viewer.setRemoteDescription(RTCSessionDescription(link.answer, "answer"))
        await call.until(lambda: came)
        base = await elapse(call, 2.0)  # with a viewer, but a quick one
        link.set(Weather(bits_per_s=100_000, most_wait_s=0.5))
        seen = await elapse(call, 6.0)
        link.set(CLEAR)
        back_s = await settle(call, base)
        await viewer.close()
        link.close()
    return judge(seen, base, back_s, share=0.95)


async def restart(bench: Bench) -> Outcome:
    """Ask a server of its own to end while a call is on."""
    arguments = ("--size-px", "256", "--steps", "0", "--latency-marker")
    with run_server(*arguments, MIMAFACE_DRAIN_S="3") as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=60) as client,
            watched(client, bench.portrait, bench.face) as call,
        ):
            base = await elapse(call, 1.0)
            start_s = time.monotonic()
            server.process.terminate()
            told_s = await call.until(lambda: call.has_heard("restarting"), within_s=5) - start_s
            refused = await client.post("/v1/sessions", json={"source": bench.portrait})
            seen = await elapse(call, 1.5)
            broken_s = await call.until(call.is_closed.is_set) - start_s
            status = await asyncio.to_thread(server.process.wait, 30)
    has_refused = refused.status_code == 503 and "Retry-After" in refused.headers
    return Outcome(
        measured=f"told after {told_s:.1f} s, new calls {refused.status_code}, "
        f"{seen.share / base.share:.0%} of the frames until it ends after {broken_s:.1f} s, "
        f"status {status}",
        holds=told_s <= 1 and has_refused and seen.share >= 0.9 * base.share and status == 0,
        figures={"told_s": told_s, "broken_s": broken_s, "status": status},
    )
