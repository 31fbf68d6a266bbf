// The microphone: opening it, and what to do when it cannot be had.

/**
 * @returns {Promise<MediaStreamTrack>} the microphone the browser prefers
 * @throws {DOMException} see `helpFor`
 */
export async function openMicrophone() {
  if (!navigator.mediaDevices) throw new DOMException("no microphone access", "SecurityError");
  const cleaned = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: cleaned });
  const [track] = stream.getAudioTracks();
  track.contentHint = "speech";
  return track;
}

/**
 * Say what keeps the microphone from opening and what to do about it.
 *
 * @param {Error} error thrown by `openMicrophone`
 * @returns {{title: string, advice: string}}
 */
export function helpFor(error) {
  return (
    HELP[error.name] ?? {
      title: "The microphone could not be opened",
      advice: `The browser says: ${error.message}`,
    }
  );
}

const HELP = {
  NotAllowedError: {
    title: "The microphone is blocked for this page",
    advice:
      "Click the microphone or lock symbol beside the address, allow the microphone, and try " +
      "again. If it is allowed there, look at the microphone permissions of your system.",
  },
  NotFoundError: {
    title: "No microphone was found",
    advice: "Plug one in, or switch on the one in your computer, and try again.",
  },
  NotReadableError: {
    title: "Another program is using the microphone",
    advice: "Close other calls and recorders, then try again.",
  },
};
