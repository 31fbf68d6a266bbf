// The call: one session on the server, one peer connection at a time, one data channel; where no
// peer connection comes up, a WebSocket instead of both. It keeps itself up when the network changes
// or the server restarts. It knows nothing of the page.

import {
  createSession,
  deleteSession,
  exchangeSdp,
  fetchSessionIceServers,
  uploadPhoto,
} from "./api.js";
import {
  BACKOFF_MS,
  JITTER_MS,
  STABLE_MS,
  UnreachableError,
  established,
  gathered,
  lost,
  waitOrOnline,
} from "./connection.js";
import { Meter } from "./meter.js";
import { SocketPeer } from "./socket.js";

const PING_MS = 1000;

const VOICELESS = "The call goes over a WebSocket, which carries the picture, but not your voice.";

/**
 * @typedef {"waiting" | "calibrating" | "live" | "lost" | "paused"} AvatarState
 *
 * A Call dispatches these CustomEvents:
 * - "avatar", detail MediaStream: the avatar's video, new with each connection;
 * - "connected" and "reconnecting";
 * - "state", detail {state: AvatarState, calibration: number from 0 to 1};
 * - "figures", detail {import("./meter.js").Figures & {connection: string}}: about once a second,
 *   with the name of what the call goes over;
 * - "refused", detail string: the server could not do what was asked; the call goes on;
 * - "restarting", detail number: the server ends within so many seconds, and the call comes back
 *   once it is there again;
 * - "voiceless", detail string: the microphone was on, and what the call now goes over has no sound;
 * - "failed", detail string: the call could not be brought back and is over.
 */
export class Call extends EventTarget {
  #portrait;
  /** @type {import("./api.js").Portrait | null} the one the server surely knows of */
  #told;
  #camera;
  /** @type {MediaStreamTrack | null} */
  #microphone = null;
  #isPaused = false;
  #ended = new AbortController();
  /** @type {import("./api.js").Session | null} */
  #session = null;
  /** @type {RTCPeerConnection | SocketPeer | null} */
  #peer = null;
  /** @type {RTCDataChannel | SocketPeer | null} */
  #ctrl = null;
  #usesSocket;
  #continues;

  /**
   * @param {import("./api.js").Portrait} portrait
   * @param {MediaStreamTrack} camera
   * @param {{usesSocket?: boolean, continues?: string}} [options] usesSocket: try no peer connection
   *   at all; continues: control token of an earlier session, whose viewers are to see this call
   */
  constructor(portrait, camera, { usesSocket = false, continues = "" } = {}) {
    super();
    this.#usesSocket = usesSocket || !("RTCPeerConnection" in globalThis); // Switched off.
    this.#portrait = this.#told = portrait;
    this.#camera = camera;
    this.#continues = continues;
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

  /** @returns {import("./api.js").Session} the session there is now, from "connected" on */
  get session() {
    return this.#session;
  }

  /** @param {boolean} isPaused */
  setPaused(isPaused) {
    this.#isPaused = isPaused;
    this.#send({ type: "pause", paused: isPaused });
  }

  /** @param {import("./api.js").Portrait} portrait to go on with */
  setPortrait(portrait) {
    this.#portrait = portrait;
    this.#tellPortrait();
  }

  /** @param {MediaStreamTrack} camera */
  async setCamera(camera) {
    this.#camera = camera;
    if (this.#peer?.connectionState === "closed") return; // The next one takes it along.
    await this.#peer?.getSenders()[0]?.replaceTrack(camera);
  }

  /**
   * @param {MediaStreamTrack | null} microphone null to send no sound
   * @throws {Error} the call goes over something that has no sound
   */
  async setMicrophone(microphone) {
    if (microphone && this.#peer instanceof SocketPeer) throw new Error(VOICELESS);
    this.#microphone = microphone;
    if (this.#peer?.connectionState === "closed") return; // The next one takes it along.
    await this.#peer?.getSenders()[1]?.replaceTrack(microphone);
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

  /** Make one connection, in place of the one before. */
  async #connect() {
    const { signal } = this.#ended;
    this.#peer?.close();
    const isKept = await this.#haveSession(signal);
    try {
      await this.#carry(signal);
    } catch (error) {
      this.#peer?.close();
      if (error.status !== 404 || !isKept) throw error;
      this.#session = null; // It ended a moment ago.
      return this.#connect();
    }
    // Catch up on what was chosen while there was no connection.
    this.#tellPortrait();
    this.#send({ type: "pause", paused: this.#isPaused });
    this.#emit("connected");
  }

  /**
   * Go on with the session there is, or start one where the server has forgotten it.
   *
   * @param {AbortSignal} signal
   * @returns {Promise<boolean>} whether it is the one there was
   */
  async #haveSession(signal) {
    if (this.#session) {
      try {
        // What opens a TURN server does not last as long as a call may.
        this.#session.ice_servers = await fetchSessionIceServers(this.#session, signal);
        this.#told = null; // What was said last may not have arrived.
        return true;
      } catch (error) {
        if (error.status !== 404) throw error;
      }
    }
    this.#session = await this.#startSession(signal);
    this.#continues = this.#session.tokens.control;
    return false;
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<import("./api.js").Session>}
   */
  async #startSession(signal) {
    this.#told = this.#portrait;
    try {
      return await createSession(this.#told.id, this.#continues, signal);
    } catch (error) {
      if (error.status !== 404 || !this.#told.photo) throw error;
      // The server has forgotten the photo, which this page has still.
      Object.assign(this.#told, await uploadPhoto(this.#told.photo));
      return createSession(this.#told.id, this.#continues, signal);
    }
  }

  /**
   * Carry the session by whatever gets through.
   *
   * @param {AbortSignal} signal
   */
  async #carry(signal) {
    if (!this.#usesSocket) {
      try {
        return await this.#connectPeer(signal);
      } catch (error) {
        if (!(error instanceof UnreachableError)) throw error;
        this.#peer.close();
      }
    }
    await this.#connectSocket(signal);
    this.#usesSocket = true; // What is in WebRTC's way is likely to stay there.
  }

  /** @param {AbortSignal} signal */
  async #connectSocket(signal) {
    const peer = new SocketPeer(this.#session, this.#camera, signal);
    this.#peer = this.#ctrl = peer;
    this.#listen(peer, peer);
    this.#emit("avatar", await peer.opened());
    if (this.#microphone) this.#emit("voiceless", VOICELESS);
  }

  /** @param {AbortSignal} signal */
  async #connectPeer(signal) {
    const peer = new RTCPeerConnection({ iceServers: this.#session.ice_servers });
    this.#peer = peer;
    this.#ctrl = peer.createDataChannel("ctrl");
    const { receiver } = addVideo(peer, this.#camera);
    // Offered from the start: the microphone can then be switched on without another offer.
    peer.addTransceiver(this.#microphone ?? "audio", { direction: "sendonly" });
    this.#listen(this.#ctrl, peer);
    await peer.setLocalDescription();
    await gathered(peer, signal);
    const sdp = await exchangeSdp(this.#session, peer.localDescription.sdp, signal);
    await peer.setRemoteDescription({ type: "answer", sdp });
    this.#emit("avatar", new MediaStream([receiver.track]));
    await established(peer, this.#ctrl, signal);
  }

  /**
   * @param {RTCDataChannel | SocketPeer} ctrl
   * @param {RTCPeerConnection | SocketPeer} peer
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
      else if (message.type === "restarting") this.#emit("restarting", message.within_s);
      else if (message.type === "stats" && message.server_ms.p50 !== null) {
        const connection = peer instanceof SocketPeer ? "WebSocket" : "WebRTC";
        this.#emit("figures", { ...meter.read(await peer.getStats(), message), connection });
      }
    });
  }

  #tellPortrait() {
    if (this.#portrait === this.#told || this.#ctrl?.readyState !== "open") return;
    this.#told = this.#portrait;
    this.#send({ type: "source", source: this.#portrait.id });
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
  transceiver.receiver.jitterBufferTarget = 0; // A late frame is worth less than a lost one.
  return transceiver;
}
