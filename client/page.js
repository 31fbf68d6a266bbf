// The page: shows the call, and turns clicks, keys and dropped files into what a Call can do.

import { fetchConfig, fetchIceServers, fetchPortraits, uploadPhoto } from "./api.js";
import { Call } from "./call.js";
import { helpFor, listCameras, openCamera } from "./camera.js";
import { forget, keep, recall } from "./memory.js";
import { helpFor as helpForMicrophone, openMicrophone } from "./microphone.js";

/** @returns {any} an element that index.html has; which kind it is, its name tells */
const $ = (/** @type {string} */ id) => document.getElementById(id);

const RELAX_MS = 1000;
const COPIED_MS = 2000;
const CHECK_MS = 5000;
const MOST_PHOTO_SIDE = 2048; // A phone's photos are far larger, and gain nothing by it.

/** With ?transport=socket in its address the page tries no peer connection. */
const USES_SOCKET = new URLSearchParams(location.search).get("transport") === "socket";

const PHOTO_TYPES = ["image/jpeg", "image/png", "image/webp"];

/** What the status line says, by phase; in a call, by the avatar's state. */
const STATUS = {
  idle: "Ready",
  asking: "Waiting for the camera",
  connecting: "Connecting",
  reconnecting: "Reconnecting",
  waiting: "Looking for your face",
  calibrating: "Calibrating",
  live: "Live",
  lost: "Face lost",
  paused: "Paused",
};

/** What the person should do, in the avatar's frame. */
const HINT = {
  asking: "Allow the camera in your browser’s prompt",
  reconnecting: "The connection was interrupted. Bringing it back",
  waiting: "Face the camera, with light from the front",
  calibrating: "Look at the camera, relax your face",
  lost: "Your face is out of view. Look at the camera",
  paused: "Paused. Your camera’s picture is not being sent",
};

const PART_NAMES = {
  send: "Encode and send",
  network: "Network, there and back",
  server: "Server: motion and avatar",
  receive: "Receive and decode",
  display: "Screen refresh",
};

/** What a frame goes through on the server, and the whole way. */
const STAGE_NAMES = {
  wait: "Waits to be looked at",
  motion: "Motion and mesh",
  queue: "Waits for the one before",
  render: "Avatar",
  playout: "Waits to be shown",
  server: "Everything",
};

/** @type {import("./api.js").Config} */
let config;
/** @type {import("./api.js").Portrait} */
let portrait;
/** @type {File | null} a photo that waits for consent */
let pendingPhoto = null;
/** @type {Call | null} */
let call = null;
/** @type {MediaStreamTrack | null} */
let camera = null;
let cameraTurn = 0; // Which opening of a camera is the last.
let isOpeningCamera = false;
/** @type {MediaStreamTrack | null} what those who watch hear; null while it is off */
let microphone = null;
let isOpeningMicrophone = false;
/** @type {"idle" | "asking" | "connecting" | "live" | "reconnecting"} */
let phase = "idle";
/** @type {import("./call.js").AvatarState} */
let state = "waiting";
let isPaused = false;
/** @type {Overlay | null} the one of this call */
let overlay = null;
/** @type {"due" | "relaxing" | "done"} where the guided calibration of this call is */
let guidance = "due";
let relaxTimer = 0;

// --- Showing ---------------------------------------------------------------------------------

function show() {
  const seen = guidance === "relaxing" ? "calibrating" : state;
  const now = phase !== "live" ? phase : isPaused ? "paused" : seen;
  document.body.dataset.phase = phase;
  document.body.dataset.state = now;
  const hint = (phase === "live" && !isPaused && cameraHint()) || HINT[now];
  // Unchanged text is left alone, so that a screen reader does not read it again.
  setText($("status"), portrait ? STATUS[now] : "Loading");
  setText($("hint"), hint ?? "");
  setText($("start-label"), phase === "asking" ? "Allow the camera" : "Go live");
  $("start").disabled = !portrait || phase !== "idle";
  setPressed($("pause"), isPaused);
  setPressed($("microphone"), microphone !== null);
  $("overlay-card").hidden = phase !== "live" && phase !== "reconnecting";
  const isSeen = camera?.readyState === "live" && !isPaused;
  $("self-frame").hidden = !isSeen || $("show-self").ariaPressed === "false";
  if (!isMeasuring()) $("readout").hidden = true;
}

/** @returns {string | undefined} why the camera sees nothing */
function cameraHint() {
  if (camera.readyState === "ended") return "There is no camera";
  if (camera.muted) return "Your system has paused the camera";
}

/** Whether figures tell of frames that follow the camera. */
function isMeasuring() {
  return phase === "live" && !isPaused && state !== "lost";
}

/**
 * @param {HTMLElement} element
 * @param {string} text
 */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * @param {HTMLElement} button
 * @param {boolean} isPressed
 */
function setPressed(button, isPressed) {
  button.ariaPressed = String(isPressed);
}

/** @param {{title: string, advice: string} | null} help */
function showHelp(help) {
  $("help").hidden = !help;
  $("help-title").textContent = help?.title ?? "";
  $("help-advice").textContent = help?.advice ?? "";
}

/** @param {number} progress from 0 to 1 */
function showCalibration(progress) {
  $("ring").setAttribute("stroke-dasharray", `${progress} 1`);
}

/** @param {import("./meter.js").Figures & {connection: string}} figures */
function showFigures(figures) {
  const latency = Math.round(figures.latencyMs);
  $("readout").hidden = !isMeasuring();
  setText($("readout-fps"), `${Math.round(figures.avatarFps)} fps`);
  setText($("readout-latency"), `≈ ${latency} ms`);

  setText($("latency"), String(latency));
  let x = 0;
  const bars = Object.entries(figures.parts).map(([part, ms]) => {
    const width = (100 * ms) / figures.latencyMs;
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x, width: Math.max(0, width - 0.6), height: 4, class: part };
    for (const [name, value] of Object.entries(place)) bar.setAttribute(name, String(value));
    x += width;
    return bar;
  });
  $("latency-bar").replaceChildren(...bars);
  listPairs(
    $("latency-parts"),
    Object.entries(figures.parts).map(([part, ms]) => [PART_NAMES[part], `${ms.toFixed(0)} ms`]),
  );
  listPairs($("figures"), [
    ["Avatar", `${figures.avatarFps.toFixed(0)} fps`],
    ["Camera", `${figures.cameraFps.toFixed(0)} fps`],
    ["Shown", `${figures.shownFps.toFixed(0)} fps`],
    ["Dropped", String(figures.dropped)],
    ["Freezes", String(figures.freezes)],
    ["Quality", figures.quality],
    ["Connection", figures.connection],
    ["Sent", figures.sent],
    ["Up", `${figures.upKbps.toFixed(0)} kbps`],
    ["Down", `${figures.downKbps.toFixed(0)} kbps`],
  ]);
  $("stages").replaceChildren(
    ...Object.entries(STAGE_NAMES).map(([stage, name]) => stageRow(name, figures.stages[stage])),
  );
}

/**
 * @param {string} name
 * @param {import("./meter.js").Quantiles} quantiles
 */
function stageRow(name, { p50, p95 }) {
  const row = document.createElement("tr");
  const head = row.appendChild(document.createElement("th"));
  head.scope = "row";
  head.textContent = name;
  for (const ms of [p50, p95]) row.insertCell().textContent = ms?.toFixed(0) ?? "–";
  return row;
}

/**
 * @param {HTMLElement} list a dl
 * @param {[string, string][]} pairs
 */
function listPairs(list, pairs) {
  list.replaceChildren(
    ...pairs.map(([name, value]) => {
      const pair = document.createElement("div");
      const term = pair.appendChild(document.createElement("dt"));
      const detail = pair.appendChild(document.createElement("dd"));
      term.textContent = name;
      detail.textContent = value;
      return pair;
    }),
  );
}

/** @param {MediaStream} stream */
function showAvatar(stream) {
  const video = $("avatar");
  const frame = $("avatar-frame");
  delete frame.dataset.isMoving; // The still portrait shows until the first frame is there.
  video.srcObject = stream;
  video.requestVideoFrameCallback(() => (frame.dataset.isMoving = ""));
}

// --- The call --------------------------------------------------------------------------------

async function start() {
  showHelp(null);
  phase = "asking";
  isPaused = false;
  show();
  try {
    if (!(await useCamera())) {
      if (phase === "asking") stop(); // It ended at once.
      return;
    }
  } catch (error) {
    phase = "idle";
    show();
    showHelp(helpFor(error));
    return;
  }
  phase = "connecting";
  state = "waiting";
  guidance = "due";
  show();
  if (document.activeElement === document.body) $("pause").focus(); // "Go live" has gone.

  const continues = copiedOverlay()?.control;
  const placed = new Call(portrait, camera, { usesSocket: USES_SOCKET, continues });
  call = placed;
  listenTo(placed);
  try {
    await placed.open();
  } catch (error) {
    if (call !== placed) return; // Stopped meanwhile.
    stop();
    showHelp({ title: "The call could not be started", advice: error.message });
  }
}

/** @param {Call} placed */
function listenTo(placed) {
  const handlers = {
    avatar: showAvatar,
    connected() {
      phase = "live";
      showOverlay(placed.session);
      show();
    },
    reconnecting() {
      showHelp(null); // It may have told that the server would restart.
      phase = "reconnecting";
      state = "waiting";
      delete $("avatar-frame").dataset.isMoving; // A lost connection leaves the video black.
      show();
    },
    state(message) {
      state = message.state;
      if (guidance !== "relaxing") showCalibration(message.calibration);
      if (guidance === "due" && state === "calibrating") calibrate();
      show();
    },
    figures: showFigures,
    refused(advice) {
      showHelp({ title: "That did not work", advice });
    },
    restarting(withinS) {
      const seconds = Math.ceil(withinS);
      const advice = `Your call breaks off within ${seconds} seconds and comes back by itself.`;
      showHelp({ title: "The server is about to restart", advice });
    },
    voiceless(advice) {
      muteMicrophone();
      showHelp({ title: "Nobody hears you any more", advice });
    },
    failed(advice) {
      stop();
      showHelp({ title: "The call has ended", advice });
    },
  };
  for (const [type, handle] of Object.entries(handlers)) {
    placed.addEventListener(type, (/** @type {CustomEvent} */ event) => handle(event.detail));
  }
}

function stop() {
  const hadFocus = $("stop").parentElement.contains(document.activeElement);
  phase = "idle";
  cameraTurn++; // A camera that is being opened is not used.
  clearTimeout(relaxTimer);
  call?.end();
  call = null;
  camera?.stop();
  camera = null;
  muteMicrophone();
  $("self").srcObject = null;
  $("avatar").srcObject = null;
  delete $("avatar-frame").dataset.isMoving;
  show();
  if (hadFocus) $("start").focus();
}

/** Guide through two seconds: one to relax the face, one in which the server takes its neutral. */
function calibrate() {
  if (guidance === "relaxing") return;
  guidance = "relaxing";
  showCalibration(0);
  show();
  relaxTimer = setTimeout(() => {
    guidance = "done";
    call?.recalibrate();
    show();
  }, RELAX_MS);
}

function togglePause() {
  isPaused = !isPaused;
  camera.enabled = !isPaused; // The browser then sends black, whatever the server does.
  if (microphone) microphone.enabled = !isPaused;
  call.setPaused(isPaused);
  show();
}

function toggleSelf() {
  setPressed($("show-self"), $("show-self").ariaPressed === "false");
  show();
}

function toggleStats() {
  $("stats").hidden = !$("stats").hidden;
  setPressed($("show-stats"), !$("stats").hidden);
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen();
}

// --- The address for OBS ---------------------------------------------------------------------

/**
 * @typedef {{id: string, control: string, address: string}} Overlay where a session is watched, and
 *   the token of who may continue it
 */

/** @param {import("./api.js").Session} session */
function showOverlay({ public_id: id, tokens }) {
  const address = new URL(`/overlay?session=${id}#t=${tokens.watch}`, location.href).href;
  overlay = { id, control: tokens.control, address };
  $("overlay-url").value = address;
  const copied = copiedOverlay();
  if (copied && copied.id !== id) tellOfChange(copied);
}

/** @returns {Overlay | null} what was copied for OBS last; later calls are seen there, too */
function copiedOverlay() {
  return JSON.parse(recall("overlay") ?? "null");
}

/**
 * Say that an address is of no use any more, unless it is: another page may drive that session.
 *
 * @param {Overlay} copied
 */
async function tellOfChange({ id, address }) {
  const token = new URLSearchParams(new URL(address).hash.slice(1)).get("t") ?? "";
  try {
    await fetchIceServers(`/v1/whep/${id}`, token, AbortSignal.timeout(CHECK_MS));
  } catch (error) {
    if (error.status !== 401) return;
    forget("overlay");
    showHelp({
      title: "The address for OBS has changed",
      advice: "The server no longer knows the one that you copied. Copy the new one.",
    });
  }
}

function keepOverlay() {
  keep("overlay", JSON.stringify(overlay));
}

async function copyOverlay() {
  $("overlay-url").select();
  keepOverlay();
  try {
    await navigator.clipboard.writeText($("overlay-url").value);
  } catch {
    return; // The browser was told not to; it is selected, for the keys.
  }
  setText($("copy-overlay"), "Copied");
  setTimeout(() => setText($("copy-overlay"), "Copy"), COPIED_MS);
}

// --- The camera ------------------------------------------------------------------------------

/**
 * Open a camera, in place of the one before.
 *
 * @param {string | null} [deviceId] of the camera, if it is there; null for any
 * @returns {Promise<boolean>} whether it is used; another one may be wanted, or none, meanwhile
 */
async function useCamera(deviceId = recall("camera")) {
  const turn = ++cameraTurn;
  camera?.stop(); // Phones open one camera at a time.
  let opened;
  isOpeningCamera = true;
  try {
    opened = await openCamera(deviceId);
  } catch (error) {
    if (turn === cameraTurn) throw error;
  } finally {
    if (turn === cameraTurn) isOpeningCamera = false;
  }
  if (turn !== cameraTurn) {
    opened?.stop();
    return false;
  }
  camera = opened;
  camera.enabled = !isPaused;
  // Unplugged, or taken away; a stop from here fires no event.
  camera.addEventListener("ended", reopenCamera);
  camera.addEventListener("mute", show);
  camera.addEventListener("unmute", show);
  $("self").srcObject = new MediaStream([camera]);
  await call?.setCamera(camera);
  await showCameras();
  return turn === cameraTurn;
}

/** Open a camera again. As long as there is none the call goes on, and the avatar rests. */
async function reopenCamera() {
  try {
    if (await useCamera()) showHelp(null);
  } catch (error) {
    showHelp(helpFor(error));
  }
  show();
}

async function chooseCamera() {
  const chosen = $("camera").value;
  if (!call) return keep("camera", chosen);
  try {
    if (!(await useCamera(chosen))) return;
    keep("camera", chosen);
    showHelp(null);
    show();
  } catch (error) {
    await reopenCamera();
    showHelp(helpFor(error));
  }
}

/** Cameras came or went. */
async function lookForCameras() {
  await showCameras();
  if (call && camera.readyState === "ended" && !isOpeningCamera) reopenCamera();
}

async function showCameras() {
  const cameras = await listCameras();
  const chosen = camera?.getSettings().deviceId ?? recall("camera");
  $("camera").replaceChildren(
    ...cameras.map(
      ({ label, deviceId }) => new Option(label, deviceId, false, deviceId === chosen),
    ),
  );
  $("camera-card").hidden = cameras.length === 0;
}

// --- The microphone --------------------------------------------------------------------------

async function toggleMicrophone() {
  if (microphone) return muteMicrophone();
  if (isOpeningMicrophone) return;
  const joined = call;
  let opened;
  isOpeningMicrophone = true;
  try {
    opened = await openMicrophone();
  } catch (error) {
    return showHelp(helpForMicrophone(error));
  } finally {
    isOpeningMicrophone = false;
  }
  if (call !== joined) return opened.stop(); // The call was stopped meanwhile.
  opened.enabled = !isPaused;
  try {
    await call.setMicrophone(opened);
  } catch (error) {
    opened.stop();
    return showHelp({ title: "The microphone stays off", advice: error.message });
  }
  if (call !== joined) return opened.stop();
  microphone = opened;
  microphone.addEventListener("ended", () => {
    muteMicrophone();
    showHelp({
      title: "Nobody hears you any more",
      advice: "The microphone was unplugged or taken away. Switch it on again to use another one.",
    });
  });
  showHelp(null);
  show();
}

function muteMicrophone() {
  microphone?.stop(); // The system then shows that nobody listens.
  microphone = null;
  call?.setMicrophone(null);
  show();
}

// --- The portrait ----------------------------------------------------------------------------

/**
 * @param {import("./api.js").Portrait} choice
 * @returns {HTMLInputElement} its radio button
 */
function addPortrait(choice) {
  const label = document.createElement("label");
  const radio = label.appendChild(document.createElement("input"));
  Object.assign(radio, { type: "radio", name: "portrait", value: choice.id });
  const picture = label.appendChild(document.createElement("img"));
  Object.assign(picture, { src: choice.url, alt: "" });
  label.appendChild(document.createElement("span")).textContent = choice.name;
  radio.addEventListener("change", () => choosePortrait(choice));
  $("portraits").append(label);
  return radio;
}

/** @param {import("./api.js").Portrait} choice */
function choosePortrait(choice) {
  portrait = choice;
  $("still").src = choice.url;
  $("still").alt = choice.name;
  $("ambience").src = choice.url;
  call?.setPortrait(choice);
  showHelp(null);
  show();
}

/** @param {File} photo */
async function usePhoto(photo) {
  pendingPhoto = null;
  if (!PHOTO_TYPES.includes(photo.type)) {
    return sayOfPhoto(`${photo.name} is not a JPEG, PNG or WebP picture.`, "error");
  }
  if (!$("consent").checked) {
    pendingPhoto = photo;
    $("consent").focus();
    return sayOfPhoto(
      "Please tick the box first: use only a photo of yourself, or of somebody who agreed.",
      "error",
    );
  }
  sayOfPhoto("Checking the photo", "busy");
  try {
    const fitted = await fit(photo);
    if (fitted.size > config.max_upload_bytes) {
      const mib = config.max_upload_bytes / 2 ** 20;
      return sayOfPhoto(`${photo.name} is larger than ${mib} MiB. Make it smaller first.`, "error");
    }
    const choice = { ...(await uploadPhoto(fitted)), name: nameOf(photo), photo: fitted };
    $("consent").checked = false; // It was given for this photo.
    addPortrait(choice).checked = true;
    choosePortrait(choice);
    sayOfPhoto("Ready. This part of the photo will move.", "good");
  } catch (error) {
    sayOfPhoto(error.message, "error");
  }
}

/**
 * @param {File} photo
 * @returns {string} what it is called on the page: its name without the ending
 */
function nameOf({ name }) {
  return name.replace(/\.\w+$/, "") || "Yours";
}

/**
 * @param {File} photo
 * @returns {Promise<Blob>} the photo, made smaller if it is larger than can be of use
 */
async function fit(photo) {
  const picture = await createImageBitmap(photo).catch(() => null);
  if (!picture) return photo; // The server says what is wrong with it.
  const scale = MOST_PHOTO_SIDE / Math.max(picture.width, picture.height);
  if (scale >= 1) return photo;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width * scale, picture.height * scale];
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  const type = photo.type === "image/jpeg" ? photo.type : "image/webp"; // It keeps transparency.
  return new Promise((resolve) => {
    canvas.toBlob((blob) => resolve(blob ?? photo), type, 0.92);
  });
}

/**
 * @param {string} text
 * @param {"busy" | "good" | "error"} kind
 */
function sayOfPhoto(text, kind) {
  $("photo-message").hidden = false;
  $("photo-message").dataset.kind = kind;
  $("photo-message").textContent = text;
}

// --- Wiring ----------------------------------------------------------------------------------

const KEYS = {
  p: $("pause"),
  m: $("microphone"),
  r: $("recalibrate"),
  h: $("show-self"),
  s: $("show-stats"),
  f: $("fullscreen"),
};

function wire() {
  $("start").addEventListener("click", start);
  $("stop").addEventListener("click", stop);
  $("pause").addEventListener("click", togglePause);
  $("microphone").addEventListener("click", toggleMicrophone);
  $("recalibrate").addEventListener("click", calibrate);
  $("show-self").addEventListener("click", toggleSelf);
  $("show-stats").addEventListener("click", toggleStats);
  $("fullscreen").addEventListener("click", toggleFullscreen);
  $("copy-overlay").addEventListener("click", copyOverlay);
  $("overlay-url").addEventListener("copy", keepOverlay);
  $("close-help").addEventListener("click", () => showHelp(null));
  $("camera").addEventListener("change", chooseCamera);
  navigator.mediaDevices?.addEventListener("devicechange", lookForCameras);
  addEventListener("pagehide", stop);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === "Escape") showHelp(null);
    if ($("camera").contains(event.target)) return; // Letters choose an entry there.
    if (phase !== "idle" && phase !== "asking") KEYS[event.key.toLowerCase()]?.click();
  });

  $("photo").addEventListener("change", () => {
    const [photo] = $("photo").files;
    if (photo) usePhoto(photo);
    $("photo").value = ""; // The same file can be chosen again.
  });
  $("consent").addEventListener("change", () => {
    if ($("consent").checked && pendingPhoto) usePhoto(pendingPhoto);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", event.dataTransfer.types.includes("Files"));
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [photo] = event.dataTransfer.files;
    if (photo) usePhoto(photo);
  });
}

/** Say so when the avatar and the voice reach more than those who have the address. */
function showWhereItGoes() {
  const ways = [config.is_recorded && "recorded", config.is_sent_on && "sent on to another server"];
  const said = ways.filter(Boolean).join(" and ");
  $("kept").hidden = !said;
  setText($("kept"), `The avatar and your voice are ${said} here.`);
}

async function load() {
  wire();
  $("fullscreen").hidden = !document.fullscreenEnabled; // An iPhone cannot.
  show();
  try {
    const [loaded, portraits] = await Promise.all([fetchConfig(), fetchPortraits()]);
    config = loaded;
    showWhereItGoes();
    const [first] = portraits.map(addPortrait);
    first.checked = true;
    choosePortrait(portraits[0]);
    await showCameras();
  } catch (error) {
    showHelp({ title: "The page could not load", advice: `${error.message} Then reload it.` });
  }
}

load();
