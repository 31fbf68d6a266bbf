// Draws the frames of a video on a canvas: as they are, or cut out by the matte beside them.

/** Luma that a codec makes of no matte and of a full one, at the worst, over 255. */
const NOTHING = 0.02;
const EVERYTHING = 0.98;

const VERTICES = `#version 300 es
void main() {
  // One triangle that covers the whole picture.
  vec2 corner = vec2(gl_VertexID == 1, gl_VertexID == 2) * 4.0 - 1.0;
  gl_Position = vec4(corner, 0.0, 1.0);
}`;

// Texels are fetched and not filtered, which would mix the matte's edge with the person's.
const FRAGMENTS = `#version 300 es
precision highp float;
uniform highp sampler2D both;
out vec4 colour;
void main() {
  ivec2 size = textureSize(both, 0);
  ivec2 at = ivec2(gl_FragCoord.x, float(size.y) - gl_FragCoord.y);
  vec3 person = texelFetch(both, at, 0).rgb;
  vec3 matte = texelFetch(both, at + ivec2(size.x / 2, 0), 0).rgb;
  float luma = dot(matte, vec3(0.299, 0.587, 0.114));
  float alpha = clamp((luma - ${NOTHING}) / (${EVERYTHING} - ${NOTHING}), 0.0, 1.0);
  colour = vec4(min(person, alpha), alpha);
}`;

/** @typedef {(video: HTMLVideoElement) => void} Paint draws the video's frame of now */

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {Paint}
 */
export function paintWhole(canvas) {
  const context = canvas.getContext("2d", { alpha: false });
  return (video) => {
    fit(canvas, video.videoWidth, video.videoHeight);
    context.drawImage(video, 0, 0);
  };
}

/**
 * Paint a person whose premultiplied colours are the video's left half, and whose matte is the
 * right one.
 *
 * @param {HTMLCanvasElement} canvas
 * @returns {Paint}
 * @throws {Error} the browser cannot
 */
export function paintCutOut(canvas) {
  const gl = canvas.getContext("webgl2", { premultipliedAlpha: true, antialias: false });
  if (!gl) {
    throw new Error("There is no WebGL 2: turn on hardware acceleration, or use alpha=key.");
  }
  prepare(gl);
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => prepare(gl));
  return (video) => {
    fit(canvas, video.videoWidth / 2, video.videoHeight);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, video);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  };
}

/** @param {WebGL2RenderingContext} gl */
function prepare(gl) {
  const program = gl.createProgram();
  for (const [type, source] of [
    [gl.VERTEX_SHADER, VERTICES],
    [gl.FRAGMENT_SHADER, FRAGMENTS],
  ]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  // Sizes that are no powers of two, and no smaller copies, are allowed like this.
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
function fit(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}
