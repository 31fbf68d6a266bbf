// The overlay: shows one call's avatar and nothing else, for as long as it is there.

import { readSettings } from "./overlay-settings.js";
import { paintCutOut, paintWhole } from "./painter.js";
import { Viewer } from "./whep.js";

const LOST_MS = 2000; // Without a frame for so long the avatar is gone.

/** @returns {any} an element that overlay.html has; which kind it is, its name tells */
const $ = (/** @type {string} */ id) => document.getElementById(id);

/** @type {import("./overlay-settings.js").Settings} */
let settings;
/** @type {Viewer} */
let viewer;
let lostTimer = 0;
// It is never shown itself: the canvas keeps the last frame, where a lost video turns black.
const video = Object.assign(document.createElement("video"), { playsInline: true });

/** @param {string} line */
function showMessage(line) {
  for (const element of document.body.children) element.hidden = true;
  $("message").textContent = line;
  $("message").hidden = false;
}

/** @param {boolean} isThere */
function showAvatar(isThere) {
  $("avatar").hidden = !isThere && settings.fallback !== "freeze";
  $("image").hidden = isThere || settings.fallback !== "image";
}

/** @param {import("./painter.js").Paint} paint */
function paintFrames(paint) {
  // A closed connection leaves one more frame, a black one.
  if (video.srcObject.active) {
    paint(video);
    showAvatar(true);
    clearTimeout(lostTimer);
    lostTimer = setTimeout(() => showAvatar(false), LOST_MS);
  }
  video.requestVideoFrameCallback(() => paintFrames(paint));
}

/** @param {MediaStream} stream */
async function play(stream) {
  video.srcObject = stream;
  try {
    await video.play();
  } catch (error) {
    if (error.name !== "NotAllowedError") return; // A newer stream took its place.
    video.muted = true; // OBS lets sound play at once, other browsers wait for a click.
    await video.play().catch(() => {});
  }
}

function resume() {
  if (document.hidden) return;
  viewer.wake();
  video.play().catch(() => {}); // There is no stream yet.
}

/** @param {Error & {status?: number}} error */
function giveUp(error) {
  if (error.status === 422 && settings.alpha !== "none") {
    console.warn(`${error.message} The avatar is shown with its background.`);
    const address = new URL(location.href);
    address.searchParams.set("alpha", "none");
    location.replace(address);
  } else if (video.srcObject) {
    console.error(error.message); // On air there is a better time to say it.
  } else {
    showMessage(error.message);
  }
}

async function showStats() {
  const stats = [...((await viewer.stats())?.values() ?? [])];
  const of = stats.find(({ type, kind }) => type === "inbound-rtp" && kind === "video") ?? {};
  const heldMs = (1000 * of.jitterBufferDelay) / of.jitterBufferEmittedCount;
  $("stats").textContent = of.framesPerSecond
    ? `${of.frameWidth} × ${of.frameHeight}, ${of.framesPerSecond} fps, ` +
      `${heldMs.toFixed(0)} ms buffered, ${of.framesDropped} dropped`
    : "No avatar";
}

function start() {
  settings = readSettings(location.href);
  if (!("RTCPeerConnection" in globalThis)) {
    throw new Error("The overlay needs WebRTC, which this browser has switched off.");
  }
  const { session, token, alpha, chroma, bg, fit, isMirrored, isMuted } = settings;
  document.body.style.background = bg;
  for (const element of [$("avatar"), $("image")]) {
    element.style.objectFit = fit;
    if (isMirrored) element.style.transform = "scaleX(-1)";
  }
  if (settings.fallback === "image") $("image").src = settings.image;
  showAvatar(false);
  $("avatar").hidden = true; // There is no last frame yet.

  const paint = alpha === "sbs" ? paintCutOut($("avatar")) : paintWhole($("avatar"));
  video.muted = isMuted;
  video.requestVideoFrameCallback(() => paintFrames(paint));

  const endpoint = `/v1/whep/${session}?${new URLSearchParams({ alpha, chroma })}`;
  viewer = new Viewer(endpoint, token, { hasSound: !isMuted, bufferMs: settings.bufferMs });
  viewer.addEventListener("stream", (/** @type {CustomEvent} */ { detail }) => play(detail));
  viewer.addEventListener("failed", (/** @type {CustomEvent} */ { detail }) => giveUp(detail));
  addEventListener("pagehide", () => viewer.end());
  addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
  // OBS shows the source again. What was sent meanwhile is not kept, so it goes on with the newest.
  document.addEventListener("visibilitychange", resume);
  if (window.obsstudio) window.obsstudio.onVisibilityChange = resume;
  if (settings.hasStats) {
    $("stats").hidden = false;
    setInterval(showStats, 1000);
  }
  viewer.watch();
}

try {
  start();
} catch (error) {
  showMessage(error.message);
}
