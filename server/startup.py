"""From the settings to a warm server, and back to nothing: the model, threads, portraits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Literal

import cv2

from mimaface.animate import animate
from mimaface.model import Model, load
from mimaface.motion import FaceMeshExtractor, RelativeMotion
from mimaface.photo import built_in_portraits
from mimaface.types import ClipRequest, Motion
from server.auth import SECRET_BYTES
from server.config import ServerConfig
from server.drain import Drain
from server.metrics import Metrics
from server.portraits import encode_built_in
from server.registry import Calls, Source, Sources
from server.services import Services, now_s, offered_steps
from streaming.admission import Admission
from streaming.backend import LocalBackend

logger = logging.getLogger(__name__)

_SWEEP_S: Final = 1.0
_MOST_CLIPS_AT_ONCE: Final = 8


def load_model(config: ServerConfig) -> Model:
    """Load the model that the settings name.

    Raises:
        WeightsError: its weights cannot be used.
        UnsupportedStepsError: it cannot do the steps that the settings name.
    """
    weights: Path | Literal["none"] | None = Path(config.weights) if config.weights else None
    if weights is None and not config.steps:
        weights = "none"  # nothing else is needed
    model = load(config.model, size_px=config.size_px, weights=weights)
    model.check_steps(config.steps)
    if model.needs_torch:
        import torch

        # A core stays free for tracking and encoding: torch's threads wait for the slowest one.
        torch.set_num_threads(max((os.cpu_count() or 1) - 1, 1))
    return model


@contextlib.asynccontextmanager
async def run_services(config: ServerConfig, model: Model, drain: Drain) -> AsyncIterator[Services]:
    """Encode the portraits and get ready; at the end close every call and every thread."""
    loop = asyncio.get_running_loop()
    # aiortc encodes on the loop's default executor, which is left to it; the loop looks up there
    # the name of a server that the call is sent to, with one lookup that is late and the next one.
    encoders = ThreadPoolExecutor(config.max_sessions + 2, thread_name_prefix="encode")
    loop.set_default_executor(encoders)
    # Its workers spin while they wait, which costs the other threads more than it gains.
    cv2.setNumThreads(1)
    with (
        ThreadPoolExecutor(2, thread_name_prefix="worker") as workers,
        ThreadPoolExecutor(1, thread_name_prefix="ending") as endings,
    ):
        sources = Sources(max_uploads=config.max_uploads, upload_ttl_s=config.upload_ttl_s)
        admission = Admission(
            lowest_steps=min(offered_steps(model, config)),
            new_frames=model.config.new_frames,
            cores=os.cpu_count() or 1,
            has_gpu=model.is_on_gpu,
            fps=config.admission_fps,
        )
        backend = LocalBackend(
            partial(animate, model),
            clock=loop.time,
            gather_s=model.config.new_frames / config.fps / 4,
            # A processor makes a batch no sooner than its clips one by one.
            max_batch=_MOST_CLIPS_AT_ONCE if model.is_on_gpu else 1,
            on_made=admission.add,
        )
        with contextlib.closing(backend):
            encoding = [
                loop.run_in_executor(workers, encode_built_in, model, backend, path)
                for path in built_in_portraits()
            ]
            for portrait in await asyncio.gather(*encoding):
                sources.add_portrait(portrait)
            await loop.run_in_executor(
                workers, _warm_up, backend, sources.portraits(), model, config
            )
            calls = Calls(max_sessions=config.max_sessions)
            services = Services(
                config=config,
                model=model,
                backend=backend,
                workers=workers,
                endings=endings,
                sources=sources,
                calls=calls,
                admission=admission,
                metrics=Metrics(calls, model, clock=loop.time),
                drain=drain,
                secret=config.token_secret.encode() or secrets.token_bytes(SECRET_BYTES),
            )
            is_ending = asyncio.Event()
            sweeper = asyncio.create_task(_sweep(services, is_ending))
            try:
                yield services
            finally:
                is_ending.set()
                await sweeper  # it may be ending a call
                for call in services.calls:
                    await services.close_call(call)


def _warm_up(
    backend: LocalBackend, portraits: Sequence[Source], model: Model, config: ServerConfig
) -> None:
    # What is slow the first time (imports, compiled code, kernels of a clip's shape) must not be
    # so for the first caller, nor when the first one goes down a rung.
    extractor = FaceMeshExtractor()
    relative = RelativeMotion()
    for portrait in portraits:
        motion = relative.push(extractor.extract(0.0, portrait.appearance.source))
        still = Motion.concatenate([motion] * model.config.new_frames)
        for steps in offered_steps(model, config):
            ica = None
            for _ in ("a first clip", "a later one"):
                request = ClipRequest(
                    appearance=portrait.appearance, motion=still, ica=ica, steps=steps
                )
                ica = backend.submit(request, due_s=math.inf).result().ica
    extractor.close()


async def _sweep(services: Services, is_ending: asyncio.Event) -> None:
    while not is_ending.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SWEEP_S):
                await is_ending.wait()
        connected = sum(call.peer is not None for call in services.calls)
        services.drain.look(now_s(), calls=connected)
        services.sources.sweep(now_s(), used=[call.source for call in services.calls])
        for call in services.calls.expired(now_s()):
            try:
                await services.close_call(call, "expired")
            except Exception:
                logger.exception("call %s did not end cleanly", call.id[:6])
