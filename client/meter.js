// Figures of a running call, from the browser's counters and the server's own figures.

const DISPLAY_MS = 1000 / 60; // A decoded frame waits for the screen's next refresh and is composed.
const ROUND_TRIPS = 5; // The median of so many, as one may meet a busy moment.
/** @type {Stage[]} */
const STAGES = ["wait", "motion", "queue", "render", "playout", "server"];

/**
 * @typedef {object} Figures
 * @property {number} avatarFps distinct avatar frames a second
 * @property {number} shownFps frames this browser decoded a second
 * @property {number} cameraFps driving frames that reached the server a second
 * @property {number} dropped frames since the start that were left out to stay live
 * @property {number} freezes times the picture stood still since the connection was made
 * @property {string} quality what the server can afford, "1 step, 25 fps" or "0 steps, 15 fps, half size"
 * @property {Record<Stage, Quantiles>} stages where a frame's time on the server goes
 * @property {string} sent size of the picture sent, "640 × 480"
 * @property {number} upKbps
 * @property {number} downKbps
 * @property {number} latencyMs estimated glass to glass: the sum of the parts
 * @property {Latency} parts
 *
 * @typedef {"wait" | "motion" | "queue" | "render" | "playout" | "server"} Stage
 * @typedef {{p50: number | null, p95: number | null}} Quantiles in milliseconds
 *
 * @typedef {object} Latency estimated, in milliseconds
 * @property {number} send encode and pace, in this browser
 * @property {number} network there and back
 * @property {number} server from the driving frame's arrival to the avatar frame's departure, p50
 * @property {number} receive gather, buffer and decode, in this browser
 * @property {number} display one refresh of the screen
 */

/** Turns the browser's ever-growing counters into figures of the last second. */
export class Meter {
  /** @type {Record<string, number>} */
  #before = {};
  /** @type {number[]} */
  #roundTripsMs = [];

  /** @param {number} ms of a message to the server and back */
  addRoundTrip(ms) {
    this.#roundTripsMs = [...this.#roundTripsMs, ms].slice(-ROUND_TRIPS);
  }

  /**
   * @param {RTCStatsReport} report
   * @param {object} server the server's "stats" message
   * @returns {Figures}
   */
  read(report, server) {
    const all = [...report.values()];
    const up = all.find((stats) => stats.type === "outbound-rtp" && stats.kind === "video") ?? {};
    const down = all.find((stats) => stats.type === "inbound-rtp" && stats.kind === "video") ?? {};

    const now = {
      encodeS: up.totalEncodeTime ?? 0,
      encoded: up.framesEncoded ?? 0,
      pacedS: up.totalPacketSendDelay ?? 0,
      packets: up.packetsSent ?? 0,
      upBits: 8 * (up.bytesSent ?? 0),
      receiveS: down.totalProcessingDelay ?? 0,
      decoded: down.framesDecoded ?? 0,
      downBits: 8 * (down.bytesReceived ?? 0),
      ms: down.timestamp ?? up.timestamp ?? 0,
    };
    const before = this.#before;
    this.#before = now;
    const grown = (name) => Math.max(0, now[name] - (before[name] ?? 0));
    const meanMs = (secondsName, countName) =>
      (1000 * grown(secondsName)) / Math.max(1, grown(countName));
    const perSecond = (name) => (1000 * grown(name)) / Math.max(1, grown("ms"));

    const parts = {
      send: meanMs("encodeS", "encoded") + meanMs("pacedS", "packets"),
      network: median(this.#roundTripsMs),
      server: server.server_ms.p50,
      receive: meanMs("receiveS", "decoded"),
      display: DISPLAY_MS,
    };
    return {
      avatarFps: server.fps,
      shownFps: perSecond("decoded"),
      cameraFps: server.driving_fps,
      dropped: server.dropped,
      freezes: down.freezeCount ?? 0,
      quality:
        `${server.steps} ${server.steps === 1 ? "step" : "steps"}, ${server.most_fps} fps` +
        (server.is_half ? ", half size" : ""),
      stages: Object.fromEntries(STAGES.map((stage) => [stage, server[`${stage}_ms`]])),
      sent: up.frameWidth ? `${up.frameWidth} × ${up.frameHeight}` : "–",
      upKbps: perSecond("upBits") / 1000,
      downKbps: perSecond("downBits") / 1000,
      latencyMs: Object.values(parts).reduce((sum, ms) => sum + ms),
      parts,
    };
  }
}

/** @param {number[]} values */
function median(values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
}
