// Image files to the pixels that Pillow reads from them.
//
// Pillow applies neither the orientation of EXIF nor a colour profile. Browsers do, and
// not all of them can be told otherwise. So what asks for it is taken out of the file.

import { checkSize } from "./preprocess.js";

// Rows that are read at once: browsers on phones have no large canvases.
const ROWS = 512;

/**
 * Decode an image file.
 *
 * @param {Blob} file - An image file.
 * @param {boolean} upright - Whether the orientation of EXIF is applied.
 * @returns {Promise<{rgba: Uint8ClampedArray, width: number, height: number}>} Pixels
 *   (height, width, 4). Transparency changes no colour.
 */
export async function decode(file, upright) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const plain = new Blob(withoutMetadata(bytes, upright), { type: file.type });
  let bitmap;
  try {
    bitmap = await createImageBitmap(plain, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error("This browser cannot read the file as an image.");
  }
  return readPixels(bitmap);
}

/** Return the pixels of a bitmap, and close it. */
export function readPixels(bitmap) {
  const { width, height } = bitmap;
  try {
    checkSize(width, height);
    const rgba = readOpaque(bitmap) ?? readTransparent(bitmap);
    return { rgba, width, height };
  } finally {
    bitmap.close();
  }
}

/** Return pixels by way of a canvas, or null if that would change their colours. */
function readOpaque(bitmap) {
  const { width, height } = bitmap;
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let top = 0; top < height; top += ROWS) {
    const rows = Math.min(ROWS, height - top);
    const canvas = new OffscreenCanvas(width, rows);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, -top);
    const part = context.getImageData(0, 0, width, rows).data;
    // A canvas multiplies colours by their opacity.
    for (let i = 3; i < part.length; i += 4) if (part[i] < 255) return null;
    rgba.set(part, top * width * 4);
  }
  return rgba;
}

/** Return pixels by way of a texture, which keeps the colours under transparency. */
function readTransparent(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  const size = gl ? gl.getParameter(gl.MAX_TEXTURE_SIZE) : 0;
  if (Math.max(width, height) > size) {
    throw new Error("This browser cannot read so large an image with transparency.");
  }
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.framebufferTexture2D(
    gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0,
  );
  const rgba = new Uint8ClampedArray(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(rgba.buffer));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return rgba;
}

/**
 * Return the parts of a file without its colour profile and its orientation.
 *
 * @param {Uint8Array} bytes - The file. Of other formats than JPEG, PNG and WebP, all
 *   of it is returned.
 * @param {boolean} upright - Whether the orientation stays.
 * @returns {Uint8Array[]} The parts, in order.
 */
export function withoutMetadata(bytes, upright) {
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (text(0, 3) === "\xff\xd8\xff") return plainJpeg(bytes, view, text, upright);
  if (text(0, 8) === "\x89PNG\r\n\x1a\n") return plainPng(bytes, view, text, upright);
  if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") {
    return plainWebp(bytes, view, text, upright);
  }
  return [bytes];
}

function plainJpeg(bytes, view, text, upright) {
  const parts = [bytes.subarray(0, 2)];
  let at = 2;
  // Segments up to the start of the scan, behind which the compressed pixels are.
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const end = at + 2 + view.getUint16(at + 2);
    const orientation = bytes[at + 1] === 0xe1 && text(at + 4, 4) === "Exif";
    const profile = bytes[at + 1] === 0xe2 && text(at + 4, 11) === "ICC_PROFILE";
    if (!profile && (upright || !orientation)) parts.push(bytes.subarray(at, end));
    at = end;
  }
  return [...parts, bytes.subarray(at)];
}

function plainPng(bytes, view, text, upright) {
  const dropped = ["iCCP", "sRGB", "gAMA", "cHRM", "cICP", ...(upright ? [] : ["eXIf"])];
  const parts = [bytes.subarray(0, 8)];
  let at = 8;
  while (at + 12 <= bytes.length) {
    const end = at + 12 + view.getUint32(at);
    if (!dropped.includes(text(at + 4, 4))) parts.push(bytes.subarray(at, end));
    at = end;
  }
  return parts;
}

function plainWebp(bytes, view, text, upright) {
  const dropped = ["ICCP", ...(upright ? [] : ["EXIF"])];
  const head = bytes.slice(0, 12);
  const parts = [head];
  let at = 12;
  while (at + 8 <= bytes.length) {
    const length = view.getUint32(at + 4, true);
    const end = at + 8 + length + (length % 2);
    const chunk = bytes.slice(at, end);
    // What an extended file says about its chunks: 32 for a profile, 8 for EXIF.
    if (text(at, 4) === "VP8X") chunk[8] &= upright ? ~32 : ~(32 | 8);
    if (!dropped.includes(text(at, 4))) parts.push(chunk);
    at = end;
  }
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  new DataView(head.buffer).setUint32(4, size - 8, true);
  return parts;
}
