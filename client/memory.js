// What this browser keeps for the page from visit to visit. Where pages may keep nothing, each visit
// is the first.

/**
 * @param {string} name
 * @returns {string | null} what was kept under it
 */
export function recall(name) {
  try {
    return localStorage.getItem(`mimaface.${name}`);
  } catch {
    return null; // The browser was told to block it.
  }
}

/**
 * @param {string} name
 * @param {string} value
 */
export function keep(name, value) {
  try {
    localStorage.setItem(`mimaface.${name}`, value);
  } catch {
    // Blocked, or full.
  }
}

/** @param {string} name of what is to be kept no more */
export function forget(name) {
  try {
    localStorage.removeItem(`mimaface.${name}`);
  } catch {
    // Blocked: there is nothing.
  }
}
