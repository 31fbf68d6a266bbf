// A call's connection over one WebSocket, for networks that let no UDP through: the webcam up as
// JPEG, the avatar down as H.264 that WebCodecs decodes. server/socket.py tells the protocol.
//
// Both sides send a picture only when the other has given credit for it, and then the newest.

import { ServerError } from "./api.js";
import { webcamFrames } from "./webcam-frames.js";

const OPEN_MS = 10_000;
const GONE = 4404; // The server closes the socket of a session it does not know with it.
const HEADER_BYTES = 9;
const MOST_WIDTH = 640;
const MOST_HEIGHT = 480;
const BEST_QUALITY = 0.8; // Of the JPEGs.
const LEAST_QUALITY = 0.4; // A face is found in them, and its movement as well.
const FPS = 30;
const MOST_CREDIT = 8;
const MOST_WAITING = 2; // Frames in the decoder; with more the next keyframe is waited for.
const MOST_FAULTS = 3; // In a row; then this browser cannot decode the video.
const DECODER = { codec: "avc1.42E01F", optimizeForLatency: true };

/**
 * Speaks as much of RTCPeerConnection and of an RTCDataChannel as a call uses of them. It carries
 * nothing until `opened` resolves.
 */
export class SocketPeer extends EventTarget {
  /** @type {"connecting" | "connected" | "closed"} */
  connectionState = "connecting";
  #socket;
  #signal;
  #ended = new AbortController();
  #stopFilming = new AbortController();
  /** @type {CloseEvent | null} */
  #closing = null;
  /** @type {VideoDecoder | null} */
  #decoder = null;
  #canvas = document.createElement("canvas");
  #context = this.#canvas.getContext("2d", { alpha: false });
  #needsKeyframe = true;
  #faults = 0;
  #showFirst = () => {}; // Called with each frame.
  #credit = 0; // Webcam pictures the server waits for.
  #granted = 0; // Avatar frames that may still come.
  #leastRoundTripMs = 0;
  /** @type {Map<number, number>} when the frames in the decoder arrived, by their timestamps */
  #arrivals = new Map();
  #up = { framesEncoded: 0, totalEncodeTime: 0, bytesSent: 0, frameWidth: 0, frameHeight: 0 };
  #down = { framesDecoded: 0, totalProcessingDelay: 0, bytesReceived: 0 };

  /**
   * @param {import("./api.js").Session} session
   * @param {MediaStreamTrack} camera
   * @param {AbortSignal} signal
   */
  constructor(session, camera, signal) {
    super();
    this.#signal = AbortSignal.any([signal, this.#ended.signal]);
    const url = new URL(`${session.url}/socket`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.addEventListener("message", ({ data }) => {
      if (this.connectionState === "closed") return; // Some may have been on their way.
      if (typeof data === "string") this.#hear(data);
      else this.#decode(data);
    });
    this.#socket.addEventListener("open", () => this.#grant());
    this.#socket.addEventListener("close", (event) => {
      this.#closing = event;
      this.close();
    });
    this.#film(camera);
  }

  /**
   * Wait until the avatar is there.
   *
   * @returns {Promise<MediaStream>} the avatar
   * @throws {Error} it does not; the message says why
   */
  async opened() {
    const support = "VideoDecoder" in globalThis && (await VideoDecoder.isConfigSupported(DECODER));
    if (!support?.supported) {
      throw new Error(
        "Video gets through neither over UDP, which a firewall may block, nor over a WebSocket, " +
          "whose video (H.264) this browser does not decode. Try Chrome, Edge or Safari.",
      );
    }
    const within = AbortSignal.any([this.#signal, AbortSignal.timeout(OPEN_MS)]);
    await new Promise((resolve, reject) => {
      this.#showFirst = resolve;
      const giveUp = () => reject(refusal(this.#closing));
      if (within.aborted) giveUp();
      within.addEventListener("abort", giveUp);
    });
    this.connectionState = "connected";
    this.dispatchEvent(new Event("connectionstatechange"));
    return this.#canvas.captureStream();
  }

  get readyState() {
    return ["connecting", "open", "closing", "closed"][this.#socket.readyState];
  }

  /** @param {string} text a message to the server */
  send(text) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  close() {
    if (this.connectionState === "closed") return;
    this.connectionState = "closed";
    this.#ended.abort();
    this.#stopFilming.abort();
    this.#socket.close();
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    this.dispatchEvent(new Event("close"));
    this.dispatchEvent(new Event("connectionstatechange"));
  }

  getSenders() {
    return [{ replaceTrack: async (/** @type {MediaStreamTrack} */ track) => this.#film(track) }];
  }

  /** @returns {Promise<Map<string, object>>} the same figures as of a peer connection */
  async getStats() {
    const timestamp = performance.now();
    return new Map([
      ["up", { type: "outbound-rtp", kind: "video", timestamp, ...this.#up }],
      ["down", { type: "inbound-rtp", kind: "video", timestamp, ...this.#down }],
    ]);
  }

  /** @param {string} text */
  #hear(text) {
    const message = JSON.parse(text);
    if (message.type === "credit") this.#credit += message.n;
    else if (message.type === "ping") this.send(JSON.stringify({ type: "pong", t: message.t }));
    else this.dispatchEvent(new MessageEvent("message", { data: text }));
    if (message.type === "stats" && message.rtt_ms !== null) {
      // What queues on the way makes others longer.
      this.#leastRoundTripMs = Math.min(this.#leastRoundTripMs || Infinity, message.rtt_ms);
    }
  }

  /** Give credit for what is under way during a round trip, and for one frame to spare. */
  #grant() {
    const wanted = 2 + Math.ceil((this.#leastRoundTripMs * FPS) / 1000);
    const more = Math.min(wanted, MOST_CREDIT) - this.#granted;
    if (more <= 0) return;
    this.#granted += more;
    this.send(JSON.stringify({ type: "credit", n: more }));
  }

  /**
   * Send the camera's frames as pictures from now on.
   *
   * @param {MediaStreamTrack} camera
   */
  async #film(camera) {
    this.#stopFilming.abort();
    const stop = new AbortController();
    this.#stopFilming = stop;
    const canvas = new OffscreenCanvas(1, 1);
    const context = canvas.getContext("2d", { alpha: false });
    let [quality, sent, skipped, sinceMs] = [BEST_QUALITY, 0, 0, performance.now()];
    for await (const { picture, width, height } of webcamFrames(camera, stop.signal)) {
      if (!camera.enabled || this.readyState !== "open") continue; // A paused camera's are black.
      const startMs = performance.now();
      if (startMs - sinceMs > 1000) {
        quality = nextQuality(quality, sent, skipped);
        [sent, skipped, sinceMs] = [0, 0, startMs];
      }
      if (!this.#credit) {
        skipped++;
        continue;
      }
      sent++;
      this.#credit--;
      const scale = Math.min(1, MOST_WIDTH / width, MOST_HEIGHT / height);
      const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
      if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
      context.drawImage(picture, 0, 0, w, h);
      const jpeg = await canvas.convertToBlob({ type: "image/jpeg", quality });
      if (stop.signal.aborted) return;
      this.#socket.send(jpeg);
      this.#up.framesEncoded++;
      this.#up.totalEncodeTime += (performance.now() - startMs) / 1000;
      this.#up.bytesSent += jpeg.size;
      [this.#up.frameWidth, this.#up.frameHeight] = [w, h];
    }
  }

  /** @param {ArrayBuffer} data a header and an access unit */
  #decode(data) {
    this.#granted--;
    this.#grant();
    this.#down.bytesReceived += data.byteLength;
    const header = new DataView(data);
    const isKeyframe = header.getUint8(0) === 1;
    const timestamp = Number(header.getBigUint64(1));
    if (this.#decoder?.state !== "configured") this.#restartDecoder();
    if (this.#decoder.decodeQueueSize > MOST_WAITING) this.#askForKeyframe();
    if (this.#needsKeyframe && !isKeyframe) return;
    if (isKeyframe) this.#arrivals.clear();
    this.#needsKeyframe = false;
    this.#arrivals.set(timestamp, performance.now());
    const type = isKeyframe ? "key" : "delta";
    const unit = new Uint8Array(data, HEADER_BYTES);
    this.#decoder.decode(new EncodedVideoChunk({ type, timestamp, data: unit }));
  }

  #restartDecoder() {
    this.#decoder = new VideoDecoder({
      output: (frame) => this.#show(frame),
      error: () => {
        if (++this.#faults > MOST_FAULTS) this.close();
        else this.#askForKeyframe();
      },
    });
    this.#decoder.configure(DECODER);
    this.#needsKeyframe = true;
  }

  #askForKeyframe() {
    if (!this.#needsKeyframe) this.send(JSON.stringify({ type: "keyframe" }));
    this.#needsKeyframe = true;
  }

  /** @param {VideoFrame} frame */
  #show(frame) {
    const { displayWidth: width, displayHeight: height } = frame;
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      [this.#canvas.width, this.#canvas.height] = [width, height];
    }
    this.#context.drawImage(frame, 0, 0);
    const { timestamp } = frame;
    frame.close();
    this.#faults = 0;
    this.#showFirst();
    this.#down.framesDecoded++;
    this.#down.totalProcessingDelay +=
      (performance.now() - (this.#arrivals.get(timestamp) ?? performance.now())) / 1000;
    this.#arrivals.delete(timestamp);
  }
}

/**
 * @param {number} quality of the last second's pictures
 * @param {number} sent how many there were
 * @param {number} skipped frames that found no credit: the way was too narrow for the ones before
 * @returns {number} quality for the coming second
 */
function nextQuality(quality, sent, skipped) {
  if (skipped > (sent + skipped) / 10) return Math.max(LEAST_QUALITY, quality * 0.8);
  return Math.min(BEST_QUALITY, quality * 1.1);
}

/**
 * @param {CloseEvent | null} event null when nothing came in time
 * @returns {Error} why the server did not carry the call
 */
function refusal(event) {
  if (event?.code === GONE) return new ServerError(event.reason, 404);
  return new ServerError("The server answers, but no video gets through, not even by WebSocket.", 0);
}
