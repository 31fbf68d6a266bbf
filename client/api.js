// The server's HTTP interface as functions. Nothing here knows the page or the peer connection.

/**
 * @typedef {object} Config
 * @property {string} model
 * @property {number} size_px side of the square avatar
 * @property {number} fps
 * @property {number} max_upload_bytes
 * @property {boolean} is_recorded whether the server keeps the avatar and the voice in a file
 * @property {boolean} is_sent_on whether it sends them on to another server
 *
 * @typedef {object} Portrait
 * @property {string} id
 * @property {string} name
 * @property {string} url
 * @property {Blob} [photo] it was made of, if it was uploaded here
 *
 * @typedef {object} Session
 * @property {string} id
 * @property {string} url
 * @property {RTCIceServer[]} ice_servers
 * @property {string} public_id its name towards viewers
 * @property {{publish: string, watch: string, control: string}} tokens
 */

/** A request the server refused; the message is meant for the person at the page. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {number} status the HTTP status, 0 when no answer came
   * @param {number} [retryAfterMs] how long the server asked to wait
   */
  constructor(message, status, retryAfterMs = 0) {
    super(message);
    this.name = "ServerError";
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * @param {string} url
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} an answer with a 2xx status
 */
async function request(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new ServerError("The server does not answer. Check that it is running.", 0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ServerError(
    body.error ?? body.detail ?? `The server answered ${response.status}.`,
    response.status,
    1000 * (Number(response.headers.get("Retry-After")) || 0), // A proxy's may be a date.
  );
}

/** @returns {Promise<Config>} */
export async function fetchConfig() {
  return (await request("/v1/config")).json();
}

/** @returns {Promise<Portrait[]>} */
export async function fetchPortraits() {
  return (await (await request("/v1/portraits")).json()).portraits;
}

/**
 * Upload a photo to be animated. Call it only after the person has confirmed their right to it.
 *
 * @param {Blob} photo
 * @returns {Promise<{id: string, url: string}>} what the server knows it by
 */
export async function uploadPhoto(photo) {
  const headers = { "Content-Type": photo.type, "X-Consent": "yes" };
  const options = { method: "POST", headers, body: photo };
  const { id, url } = await (await request("/v1/sources", options)).json();
  return { id, url };
}

/**
 * @param {string} source id of a portrait
 * @param {string} continues control token of an earlier session, whose public id the new one is to
 *   have; empty for none
 * @param {AbortSignal} signal
 * @returns {Promise<Session>}
 */
export async function createSession(source, continues, signal) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ source, continues });
  return (await request("/v1/sessions", { method: "POST", headers, body, signal })).json();
}

/**
 * @param {Session} session
 * @param {AbortSignal} signal
 * @returns {Promise<RTCIceServer[]>} the STUN and TURN servers to use with it from now on
 */
export async function fetchSessionIceServers(session, signal) {
  return (await (await request(`${session.url}/ice`, { signal })).json()).ice_servers;
}

/**
 * Offer a peer connection to a session; an earlier one of the same session ends.
 *
 * @param {Session} session
 * @param {string} offer SDP with all its candidates
 * @param {AbortSignal} signal
 * @returns {Promise<string>} the answer's SDP
 */
export async function exchangeSdp(session, offer, signal) {
  const headers = { "Content-Type": "application/sdp" };
  const options = { method: "POST", headers, body: offer, signal };
  return (await request(`${session.url}/rtc`, options)).text();
}

/** @param {Session} session */
export function deleteSession(session) {
  // keepalive lets the request outlive a page that is being closed.
  fetch(session.url, { method: "DELETE", keepalive: true }).catch(() => {});
}

/**
 * @param {string} url of a WHEP endpoint
 * @param {string} token that opens it
 * @param {AbortSignal} signal
 * @returns {Promise<RTCIceServer[]>} the STUN and TURN servers to use with it
 */
export async function fetchIceServers(url, token, signal) {
  const headers = { Authorization: `Bearer ${token}` };
  const { headers: answered } = await request(url, { method: "OPTIONS", headers, signal });
  const links = (answered.get("Link") ?? "").matchAll(/<([^>]+)>; rel="ice-server"([^<]*)/g);
  return [...links].map(([, urls, parameters]) => {
    const parameter = (name) => parameters.match(new RegExp(`; ${name}="([^"]*)"`))?.[1];
    return { urls, username: parameter("username"), credential: parameter("credential") };
  });
}

/**
 * @param {string} url of a WHEP endpoint
 * @param {string} token that opens it
 * @param {string} offer SDP with all its candidates
 * @param {AbortSignal} signal
 * @returns {Promise<{answer: string, leg: string}>} the answer's SDP, and the URL that ends it
 */
export async function startLeg(url, token, offer, signal) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/sdp" };
  const response = await request(url, { method: "POST", headers, body: offer, signal });
  const leg = new URL(response.headers.get("Location"), response.url).href;
  return { answer: await response.text(), leg };
}

/**
 * @param {string} leg URL of what `startLeg` started
 * @param {string} token
 */
export function endLeg(leg, token) {
  const headers = { Authorization: `Bearer ${token}` };
  fetch(leg, { method: "DELETE", headers, keepalive: true }).catch(() => {});
}
