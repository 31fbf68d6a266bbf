// The webcam: opening it, choosing one, and what to do when it cannot be had.

/**
 * @param {string | null} deviceId of the camera to open, if it is there; null for the one that the
 *   browser prefers
 * @returns {Promise<MediaStreamTrack>} what the camera sees, never mirrored
 * @throws {DOMException} see `helpFor`
 */
export async function openCamera(deviceId) {
  if (!navigator.mediaDevices) throw new DOMException("no camera access", "SecurityError");
  try {
    return await open(deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" });
  } catch (error) {
    if (!deviceId || !["OverconstrainedError", "NotFoundError"].includes(error.name)) throw error;
    return open({ facingMode: "user" });
  }
}

/** @param {MediaTrackConstraints} which */
async function open(which) {
  const size = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
  const stream = await navigator.mediaDevices.getUserMedia({ video: { ...size, ...which } });
  const [track] = stream.getVideoTracks();
  track.contentHint = "motion"; // Rather a coarser picture than a late one.
  return track;
}

/** @returns {Promise<MediaDeviceInfo[]>} the cameras; without names before permission is given */
export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices.filter((device) => device.kind === "videoinput" && device.deviceId);
}

/**
 * Say what keeps the camera from opening and what to do about it.
 *
 * @param {Error} error thrown by `openCamera`
 * @returns {{title: string, advice: string}}
 */
export function helpFor(error) {
  if (!isSecureContext) {
    return {
      title: "Browsers open a camera on secure pages only",
      advice: "Open this page through https://, or on this machine through http://localhost.",
    };
  }
  return (
    HELP[error.name] ?? {
      title: "The camera could not be opened",
      advice: `The browser says: ${error.message}`,
    }
  );
}

const HELP = {
  NotAllowedError: {
    title: "The camera is blocked for this page",
    advice:
      "Click the camera or lock symbol beside the address, allow the camera, and try again. " +
      "If it is allowed there, look at the camera permissions of your system.",
  },
  NotFoundError: {
    title: "No camera was found",
    advice: "Plug one in, or switch on the one in your computer, and try again.",
  },
  NotReadableError: {
    title: "Another program is using the camera",
    advice: "Close other calls and camera programs, then try again.",
  },
  OverconstrainedError: {
    title: "This camera cannot deliver a suitable picture",
    advice: "Choose another camera in the list and try again.",
  },
  SecurityError: {
    title: "This browser gives pages no access to a camera",
    advice: "Use a current Chrome, Edge, Firefox or Safari, outside of a private frame.",
  },
};
