// What the overlay's address asks for; `overlay.html` lists the parameters.

/**
 * @typedef {object} Settings
 * @property {string} session public id of the call
 * @property {string} token that opens it to viewers
 * @property {"sbs" | "key" | "none"} alpha
 * @property {string} chroma RGB in hexadecimal
 * @property {string} bg CSS colour
 * @property {"contain" | "cover" | "fill"} fit
 * @property {boolean} isMirrored
 * @property {number} bufferMs
 * @property {boolean} isMuted
 * @property {boolean} hasStats
 * @property {"hide" | "freeze" | "image"} fallback
 * @property {string} image URL
 */

/** @type {Record<string, string[]>} the first one is the default */
const CHOICES = {
  alpha: ["sbs", "key", "none"],
  fit: ["contain", "cover", "fill"],
  mirror: ["0", "1"],
  muted: ["1", "0"],
  stats: ["0", "1"],
  fallback: ["hide", "freeze", "image"],
};

/** @type {Record<string, {usual: string, isRight: (value: string) => boolean, rule: string}>} */
const VALUES = {
  session: { usual: "", isRight: (id) => /^[\w-]+$/.test(id), rule: "the id of a call" },
  token: { usual: "", isRight: (token) => token !== "", rule: "a token to watch it, as #t=" },
  chroma: {
    usual: "00ff00",
    isRight: (colour) => /^[0-9a-f]{6}$/i.test(colour),
    rule: "a colour like 00ff00",
  },
  bg: {
    usual: "transparent",
    isRight: (colour) => CSS.supports("background-color", colour),
    rule: "a CSS colour",
  },
  buffer: {
    usual: "0",
    isRight: (ms) => /^\d+$/.test(ms) && Number(ms) <= 4000,
    rule: "0 to 4000 milliseconds",
  },
  image: { usual: "", isRight: () => true, rule: "" },
};

/**
 * @param {string} address
 * @returns {Settings}
 * @throws {Error} with a line that says which parameter is wrong, and how it has to be
 */
export function readSettings(address) {
  const { searchParams, hash } = new URL(address);
  const given = Object.fromEntries(searchParams);
  const { t, ...misplaced } = Object.fromEntries(new URLSearchParams(hash.slice(1)));
  given.token = t ?? given.token ?? "";
  for (const name of Object.keys(misplaced)) throw new Error(`${name} belongs before the #.`);

  for (const name of Object.keys(given)) {
    if (!(name in CHOICES) && !(name in VALUES)) {
      throw new Error(`There is no parameter ${name}.`);
    }
  }
  for (const [name, choices] of Object.entries(CHOICES)) {
    given[name] ??= choices[0];
    if (!choices.includes(given[name])) {
      throw new Error(`${name} must be ${choices.join(" or ")}, found “${given[name]}”.`);
    }
  }
  for (const [name, { usual, isRight, rule }] of Object.entries(VALUES)) {
    given[name] ??= usual;
    if (!isRight(given[name])) throw new Error(`${name} must be ${rule}.`);
  }
  if (given.fallback === "image" && !given.image) {
    throw new Error("fallback=image needs image, the address of a picture.");
  }
  const { mirror, buffer, muted, stats, ...others } = given;
  return /** @type {any} */ ({
    ...others,
    isMirrored: mirror === "1",
    bufferMs: Number(buffer),
    isMuted: muted === "1",
    hasStats: stats === "1",
  });
}
