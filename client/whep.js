// A WHEP viewer: one connection to an avatar at a time, made again for as long as it is watched. It
// knows nothing of the page, and of the server only what WHEP says.

import { fetchIceServers, endLeg, startLeg } from "./api.js";
import {
  BACKOFF_MS,
  JITTER_MS,
  STABLE_MS,
  established,
  gathered,
  lost,
  waitOrOnline,
} from "./connection.js";

/**
 * A Viewer dispatches these CustomEvents:
 * - "stream", detail MediaStream: the avatar, new with each connection;
 * - "failed", detail Error: the server refuses for good, and the viewer has ended.
 */
export class Viewer extends EventTarget {
  #url;
  #token;
  #hasSound;
  #bufferMs;
  #ended = new AbortController();
  #waiting = new AbortController();
  /** @type {RTCPeerConnection | null} */
  #peer = null;
  /** @type {string | null} where the connection can be ended */
  #leg = null;

  /**
   * @param {string} url of the WHEP endpoint
   * @param {string} token that opens it
   * @param {{hasSound: boolean, bufferMs: number}} options bufferMs of 0 to 4000: how much of the
   *   stream is held back, against stutter
   */
  constructor(url, token, { hasSound, bufferMs }) {
    super();
    this.#url = url;
    this.#token = token;
    this.#hasSound = hasSound;
    this.#bufferMs = bufferMs;
  }

  /** Watch until `end` is called or the server refuses for good. */
  async watch() {
    const { signal } = this.#ended;
    for (let attempt = 1; !signal.aborted; attempt++) {
      const since = performance.now();
      let retryAfterMs = 0;
      try {
        await this.#connect();
        await lost(this.#peer, null, signal);
        if (performance.now() - since > STABLE_MS) attempt = 0;
      } catch (error) {
        if (isFinal(error)) {
          this.#emit("failed", error);
          return this.end();
        }
        retryAfterMs = error.retryAfterMs ?? 0;
      }
      this.#hangUp();
      const waitMs = BACKOFF_MS[Math.min(attempt, BACKOFF_MS.length - 1)];
      const jitterMs = waitMs && Math.random() * JITTER_MS;
      this.#waiting = new AbortController();
      const soonest = AbortSignal.any([signal, this.#waiting.signal]);
      await waitOrOnline(Math.max(waitMs + jitterMs, retryAfterMs), soonest);
    }
  }

  /** Try again now, if it is waiting to. */
  wake() {
    this.#waiting.abort();
  }

  /** End the connection and free its place on the server. */
  end() {
    this.#ended.abort();
    this.#hangUp();
  }

  /** @returns {Promise<RTCStatsReport | undefined>} of the connection there is */
  async stats() {
    return this.#peer?.getStats();
  }

  async #connect() {
    const { signal } = this.#ended;
    const iceServers = await fetchIceServers(this.#url, this.#token, signal);
    const peer = new RTCPeerConnection({ iceServers });
    this.#peer = peer;
    const stream = new MediaStream();
    for (const kind of this.#hasSound ? ["video", "audio"] : ["video"]) {
      const { receiver } = peer.addTransceiver(kind, { direction: "recvonly" });
      receiver.jitterBufferTarget = this.#bufferMs;
      stream.addTrack(receiver.track);
    }
    await peer.setLocalDescription();
    await gathered(peer, signal);
    const { answer, leg } = await startLeg(
      this.#url,
      this.#token,
      peer.localDescription.sdp,
      signal,
    );
    this.#leg = leg;
    await peer.setRemoteDescription({ type: "answer", sdp: answer });
    this.#emit("stream", stream);
    await established(peer, null, signal);
  }

  #hangUp() {
    this.#peer?.close();
    this.#peer = null;
    if (this.#leg) endLeg(this.#leg, this.#token);
    this.#leg = null;
  }

  /**
   * @param {string} type
   * @param {unknown} [detail]
   */
  #emit(type, detail) {
    if (!this.#ended.signal.aborted) this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * A session that has ended and may be continued, nobody driving yet, and too many requests are worth
 * another try.
 *
 * @param {Error & {status?: number}} error
 */
const isFinal = ({ status = 0 }) =>
  status >= 400 && status < 500 && ![404, 409, 429].includes(status);
