// What keeps a connection up, whoever it belongs to: waits for what becomes of it, and for a retry.

/** Waits before each attempt to reconnect. */
export const BACKOFF_MS = [0, 300, 1200, 2700, 4800, 7000, 7000, 7000, 7000, 7000];
export const STABLE_MS = 5000; // A connection lost earlier than this is not retried without a wait.
export const JITTER_MS = 1000; // Keeps the clients of a restarted server from coming all at once.
const GATHER_MS = 3000; // An unreachable STUN server must not hold the offer back for longer.
const ESTABLISH_MS = 6000; // A firewall that drops packets says nothing.
const DISCONNECTED_MS = 3000; // Shorter interruptions heal by themselves.

/** The server answers, but nothing gets through to it by WebRTC. */
export class UnreachableError extends Error {
  constructor() {
    super("The server answers, but no video gets through. A firewall may block UDP.");
  }
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
 * @throws {UnreachableError} there are none
 */
export async function gathered(peer, signal) {
  const isDone = () => peer.iceGatheringState === "complete";
  const enough = within(signal, GATHER_MS);
  await until(isDone, [[peer, "icegatheringstatechange"]], enough).catch(() =>
    signal.throwIfAborted(),
  );
  if (!peer.localDescription.sdp.includes("a=candidate:")) throw new UnreachableError();
}

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel | null} ctrl a channel that has to be open as well
 */
const isUp = (peer, ctrl) => peer.connectionState === "connected" && (ctrl?.readyState ?? "open") === "open";

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel | null} ctrl a channel that has to be open as well
 */
const isOver = (peer, ctrl) =>
  ["failed", "closed"].includes(peer.connectionState) || ctrl?.readyState === "closed";

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel | null} ctrl a channel that has to be open as well
 * @returns {[EventTarget, string][]} after which the two above may have changed
 */
const changes = (peer, ctrl) => [
  [peer, "connectionstatechange"],
  ...(ctrl ? [[ctrl, "open"], [ctrl, "close"]] : []),
];

/**
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel | null} ctrl a channel that has to be open as well
 * @param {AbortSignal} signal
 */
export async function established(peer, ctrl, signal) {
  const isDecided = () => isUp(peer, ctrl) || isOver(peer, ctrl);
  const inTime = within(signal, ESTABLISH_MS);
  await until(isDecided, changes(peer, ctrl), inTime).catch(() => signal.throwIfAborted());
  if (!isUp(peer, ctrl)) {
    throw new UnreachableError();
  }
}

/**
 * Wait until the connection is gone; a short interruption that heals does not count.
 *
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel | null} ctrl a channel that has to be open as well
 * @param {AbortSignal} signal
 */
export async function lost(peer, ctrl, signal) {
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
export async function waitOrOnline(ms, signal) {
  const over = within(signal, ms);
  await new Promise((resolve) => {
    if (over.aborted) return resolve();
    over.addEventListener("abort", resolve);
    globalThis.addEventListener("online", resolve, { signal: over });
  });
}
