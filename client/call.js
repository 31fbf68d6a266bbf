// The call: one session on the server, one peer connection at a time, one data channel. It keeps
// itself up when the network changes or the server restarts. It knows nothing of the page.

import { createSession, deleteSession, exchangeSdp } from "./api.js";
import { Meter } from "./meter.js";

/** Waits before each attempt to reconnect; after the last one the call gives up. */
const BACKOFF_MS = [0, 300, 1200, 2700, 4800, 7000, 7000, 7000, 7000, 7000];
const JITTER_MS = 1000; // Keeps the callers of a restarted server from coming back all at once.
const STABLE_MS = 5000; // A connection lost earlier than this is not retried without a wait.
const GATHER_MS = 3000; // An unreachable STUN server must not hold the offer back for longer.
const ESTABLISH_MS = 10_000;
const DISCONNECTED_MS = 3000; // Shorter interruptions heal by themselves.
const PING_MS = 1000;

/**
 * @typedef {"waiting" | "calibrating" | "live" | "lost" | "paused"} AvatarState
 *
 * A Call dispatches these CustomEvents:
 * - "avatar", detail MediaStream: the avatar's video, new with each connection;
 * - "connected" and "reconnecting";
 * - "state", detail {state: AvatarState, calibration: number from 0 to 1};
 * - "figures", detail {import("./meter.js").Figures}: about once a second;
 * - "refused", detail string: the server could not do what was asked; the call goes on;
 * - "failed", detail string: the call could not be brought back and is over.
 */
export class Call extends EventTarget {
  #source;
  #camera;
  #isPaused = false;
  #ended = new AbortController();
  /** @type {import("./api.js").Session | null} */
  #session = null;
  /** @type {RTCPeerConnection | null} */
  #peer = null;
  /** @type {RTCDataChannel | null} */
  #ctrl = null;

  /**
   * @param {string} source id of the portrait
   * @param {MediaStreamTrack} camera
   */
  constructor(source, camera) {
    super();
    this.#source = source;
    this.#camera = camera;
  }

  /**
   * Place the call. Once this resolves, media flows and the call keeps itself up.
   *
   * @throws {Error} the call could not be placed and is over; the message says why
   */
  async open() {
    try {
      await this.#connect();
    } catch (error) {
      this.end();
      throw error;
    }
    this.#stayUp();
  }

  /** End the call and free its place on the server. */
  end() {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort();
    this.#peer?.close();
    if (this.#session) deleteSession(this.#session);
  }

  recalibrate() {
    this.#send({ type: "recalibrate" });
  }

  /** @param {boolean} isPaused */
  setPaused(isPaused) {
    this.#isPaused = isPaused;
    this.#send({ type: "pause", paused: isPaused });
  }

  /** @param {string} source id of the portrait to go on with */
  setSource(source) {
    this.#source = source;
    this.#send({ type: "source", source });
  }

  /** @param {MediaStreamTrack} camera */
  async setCamera(camera) {
    this.#camera = camera;
    await this.#peer?.getSenders()[0]?.replaceTrack(camera);
  }

  async #stayUp() {
    const { signal } = this.#ended;
    for (;;) {
      const since = performance.now();
      await lost(this.#peer, this.#ctrl, signal);
      if (signal.aborted) return;
      this.#emit("reconnecting");
      const wasStable = performance.now() - since > STABLE_MS;
      try {
        await this.#reconnect(wasStable ? BACKOFF_MS : BACKOFF_MS.slice(1));
      } catch (error) {
        this.#emit("failed", error.message);
        return this.end();
      }
    }
  }

  /**
   * @param {number[]} waitsMs
   * @throws {Error} the call cannot be brought back
   */
  async #reconnect(waitsMs) {
    const { signal } = this.#ended;
    let failure;
    for (const waitMs of waitsMs) {
      const jitterMs = waitMs && Math.random() * JITTER_MS;
      await waitOrOnline(Math.max(waitMs + jitterMs, failure?.retryAfterMs ?? 0), signal);
      try {
        return await this.#connect();
      } catch (error) {
        // A full or restarting server is worth another try, a refusal is not.
        if (signal.aborted || (error.status >= 400 && error.status < 500)) throw error;
        failure = error;
      }
    }
    throw failure;
  }

  /** Make one peer connection, in place of the one before. */
  async #connect() {
    const { signal } = this.#ended;
    this.#peer?.close();
    const isKnown = this.#session !== null;
    this.#session ??= await createSession(this.#source, signal);

    const peer = new RTCPeerConnection({ iceServers: this.#session.ice_servers });
    this.#peer = peer;
    this.#ctrl = peer.createDataChannel("ctrl");
    const { receiver } = addVideo(peer, this.#camera);
    this.#listen(this.#ctrl, peer);
    try {
      await peer.setLocalDescription();
      await gathered(peer, signal);
      const sdp = await exchangeSdp(this.#session, peer.localDescription.sdp, signal);
      await peer.setRemoteDescription({ type: "answer", sdp });
      this.#emit("avatar", new MediaStream([receiver.track]));
      await established(peer, this.#ctrl, signal);
    } catch (error) {
      peer.close();
      if (error.status !== 404 || !isKnown) throw error;
      this.#session = null; // The server has forgotten it: we were away for too long.
      return this.#connect();
    }
    // Catch up on what was chosen while the connection was down.
    if (isKnown) this.#send({ type: "source", source: this.#source });
    if (this.#isPaused) this.#send({ type: "pause", paused: true });
    this.#emit("connected");
  }

  /**
   * @param {RTCDataChannel} ctrl
   * @param {RTCPeerConnection} peer
   */
  #listen(ctrl, peer) {
    const meter = new Meter();
    const timer = setInterval(() => {
      if (ctrl.readyState === "open") this.#send({ type: "ping", t: performance.now() });
      // A channel closed from this side fires no event, so the timer itself looks.
      if (ctrl.readyState === "closed") clearInterval(timer);
    }, PING_MS);
    ctrl.addEventListener("message", async ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "pong") meter.addRoundTrip(performance.now() - message.t);
      else if (message.type === "state") this.#emit("state", message);
      else if (message.type === "error") this.#emit("refused", message.error);
      else if (message.type === "stats" && message.server_ms.p50 !== null) {
        this.#emit("figures", meter.read(await peer.getStats(), message));
      }
    });
  }

  /** @param {object} message dropped while there is no connection; #connect() catches up */
  #send(message) {
    if (this.#ctrl?.readyState === "open") this.#ctrl.send(JSON.stringify(message));
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
 * @param {RTCPeerConnection} peer
 * @param {MediaStreamTrack} camera
 * @returns {RTCRtpTransceiver}
 */
function addVideo(peer, camera) {
  const transceiver = peer.addTransceiver(camera, { direction: "sendrecv" });
  // VP8 costs a CPU server half of what H.264 does, and its encoder there never queues.
  const { codecs } = RTCRtpReceiver.getCapabilities("video");
  const rank = (codec) => (codec.mimeType === "video/VP8" ? 0 : 1);
  transceiver.setCodecPreferences(codecs.toSorted((a, b) => rank(a) - rank(b)));
  transceiver.receiver.jitterBufferTarget = 0; // A late frame is worth less than a lost one.
  return transceiver;
}

/**
 * Wait until `isDone`, looked at again at each of the events.
 *
 * @param {() => boolean} isDone
 * @param {[EventTarget, string][]} events
 * @param {AbortSignal} signal
 * @returns {Promise<void>} rejects when the signal comes first
 */
function until(isDone, events, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    if (isDone()) return resolve();
    const listening = new AbortController();
    const settle = (finish) => {
      listening.abort();
      finish();
    };
    for (const [target, type] of events) {
      const look = () => isDone() && settle(resolve);
      target.addEventListener(type, look, { signal: listening.signal });
    }
    const giveUp = () => settle(() => reject(signal.reason));
    signal.addEventListener("abort", giveUp, { signal: listening.signal });
  });
}

/**
 * @param {AbortSignal} signal
 * @param {number} ms
 * @returns {AbortSignal} the same, but at the latest after so long
 */
const within = (signal, ms) => AbortSignal.any([signal, AbortSignal.timeout(ms)]);

/**
 * Wait for the local candidates, and go on with those there are when it takes too long.
 *
 * @param {RTCPeerConnection} peer
 * @param {AbortSignal} signal
 */
async function gathered(peer, signal) {
  const isDone = () => peer.iceGatheringState === "complete";
  const enough = within(signal, GATHER_MS);
  await until(isDone, [[peer, "icegatheringstatechange"]], enough).catch(() =>
    signal.throwIfAborted(),
  );
}

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel} ctrl
 */
const isUp = (peer, ctrl) => peer.connectionState === "connected" && ctrl.readyState === "open";

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel} ctrl
 */
const isOver = (peer, ctrl) =>
  ["failed", "closed"].includes(peer.connectionState) || ctrl.readyState === "closed";

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel} ctrl
 * @returns {[EventTarget, string][]} after which the two above may have changed
 */
const changes = (peer, ctrl) => [
  [peer, "connectionstatechange"],
  [ctrl, "open"],
  [ctrl, "close"],
];

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel} ctrl
 * @param {AbortSignal} signal
 */
async function established(peer, ctrl, signal) {
  const isDecided = () => isUp(peer, ctrl) || isOver(peer, ctrl);
  const inTime = within(signal, ESTABLISH_MS);
  await until(isDecided, changes(peer, ctrl), inTime).catch(() => signal.throwIfAborted());
  if (!isUp(peer, ctrl)) {
    throw new Error("The server answers, but no video gets through. A firewall may block UDP.");
  }
}

/**
 * Wait until the connection is gone; a short interruption that heals does not count.
 *
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel} ctrl
 * @param {AbortSignal} signal
 */
async function lost(peer, ctrl, signal) {
  const isDecided = () => isUp(peer, ctrl) || isOver(peer, ctrl);
  try {
    while (!isOver(peer, ctrl)) {
      await until(() => !isUp(peer, ctrl), changes(peer, ctrl), signal);
      await until(isDecided, changes(peer, ctrl), within(signal, DISCONNECTED_MS));
    }
  } catch {
    // The call was ended, or the interruption took too long.
  }
}

/**
 * Wait, but not once the network is back.
 *
 * @param {number} ms
 * @param {AbortSignal} signal
 */
async function waitOrOnline(ms, signal) {
  const over = within(signal, ms);
  await new Promise((resolve) => {
    if (over.aborted) return resolve();
    over.addEventListener("abort", resolve);
    globalThis.addEventListener("online", resolve, { signal: over });
  });
}
