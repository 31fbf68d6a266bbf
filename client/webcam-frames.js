// The frames of a camera's track one by one, always the newest.

/**
 * @typedef {object} Frame
 * @property {CanvasImageSource} picture valid until the next one is asked for
 * @property {number} width
 * @property {number} height
 */

/**
 * Yield the track's frames; those that come while one is being worked on are left out.
 *
 * @param {MediaStreamTrack} track
 * @param {AbortSignal} signal ends it
 * @returns {AsyncGenerator<Frame>}
 */
export function webcamFrames(track, signal) {
  return "MediaStreamTrackProcessor" in globalThis
    ? processedFrames(track, signal)
    : presentedFrames(track, signal);
}

/**
 * Frames as they come from the camera, also while the page is hidden.
 *
 * @param {MediaStreamTrack} track
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Frame>}
 */
async function* processedFrames(track, signal) {
  const { readable } = new MediaStreamTrackProcessor({ track, maxBufferSize: 1 });
  const reader = readable.getReader();
  const stop = () => reader.cancel().catch(() => {});
  signal.addEventListener("abort", stop);
  try {
    for (;;) {
      const { done, value: frame } = await reader.read();
      if (done) return;
      try {
        yield { picture: frame, width: frame.displayWidth, height: frame.displayHeight };
      } finally {
        frame.close();
      }
    }
  } finally {
    signal.removeEventListener("abort", stop);
    await stop();
  }
}

/**
 * Frames as a video element presents them, which browsers stop while the page is hidden.
 *
 * @param {MediaStreamTrack} track
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Frame>}
 */
async function* presentedFrames(track, signal) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, srcObject: new MediaStream([track]) });
  await video.play().catch(() => {}); // Aborted when the track is replaced at once.
  const over = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  while (!signal.aborted) {
    await Promise.race([over, new Promise((resolve) => video.requestVideoFrameCallback(resolve))]);
    if (!signal.aborted) {
      yield { picture: video, width: video.videoWidth, height: video.videoHeight };
    }
  }
  video.srcObject = null;
}
