// The pixels of keras_cvt.preprocess_input: Pillow's antialiased bicubic resize of 8-bit
// images, then the centre crop. All numbers are those of Pillow, rounding included.

// Bits after the binary point of Pillow's coefficients.
const PRECISION = 22;
// Pillow reads no larger images.
const MAX_PIXELS = 178_956_970;
const MAX_SIDE = 65_535;

/**
 * Resize and crop an image.
 *
 * @param {Uint8Array|Uint8ClampedArray} rgba - Pixels (height, width, 4). The fourth
 *   channel does not count.
 * @param {number} width - Width in pixels.
 * @param {number} height - Height in pixels.
 * @param {{image_size: number[], crop_ratio: ?number}} evalTransform - As in the
 *   metadata of the model.
 * @param {boolean} tallFirst - Whether a tall image is resized in height first, as by
 *   Pillow since version 13.
 * @returns {Uint8Array} Pixels (image_size[0], image_size[1], 3).
 */
export function preprocess(rgba, width, height, evalTransform, tallFirst) {
  checkSize(width, height);
  const [cropHeight, cropWidth] = evalTransform.image_size;
  const [newHeight, newWidth] = resizedSize(evalTransform, height, width);
  const rows = filter(height, newHeight, cropOffset(newHeight, cropHeight), cropHeight);
  const columns = filter(width, newWidth, cropOffset(newWidth, cropWidth), cropWidth);
  const image = { data: rgba, width, height, channels: 4 };
  const shrinks = height > newHeight;
  if (tallFirst && shrinks && height - newHeight > 2 * (width - newWidth)) {
    return resizeWidth(resizeHeight(image, rows), columns).data;
  }
  return resizeHeight(resizeWidth(image, columns), rows).data;
}

/** Throw a RangeError for an image that Pillow refuses, or that has no pixels. */
export function checkSize(width, height) {
  const fits = width * height <= MAX_PIXELS && Math.max(width, height) <= MAX_SIDE;
  if (!fits || width * height === 0) {
    throw new RangeError(
      `Expected an image of at most ${MAX_PIXELS.toLocaleString("en")} pixels. ` +
        `Received: ${width} x ${height}`,
    );
  }
}

function resizedSize({ image_size: size, crop_ratio: ratio }, height, width) {
  if (ratio === null) return size;
  const [coverHeight, coverWidth] = size.map((side) => Math.trunc(side / ratio));
  // The scale of either side covers that side; the larger result covers both.
  return [
    Math.max(Math.floor((coverWidth * height) / width), coverHeight),
    Math.max(Math.floor((coverHeight * width) / height), coverWidth),
  ];
}

/** Return half of what the crop leaves, where half a pixel rounds to even. */
function cropOffset(size, crop) {
  const half = Math.floor((size - crop) / 2);
  return half + ((size - crop) % 2) * (half % 2);
}

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/**
 * Return the weights that make `count` pixels of a side, from `first` on.
 *
 * Pixel i is the sum of weights[i * taps + j] * old[begins[i] + j] over j < counts[i].
 * Without weights, the side keeps its size, and pixel i is old[begins[i]].
 */
function filter(oldSize, newSize, first, count) {
  const begins = new Int32Array(count);
  const counts = new Int32Array(count).fill(1);
  if (oldSize === newSize) {
    return { begins: begins.map((_, i) => first + i), counts, count, weights: null };
  }
  const scale = oldSize / newSize;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const taps = Math.ceil(support) * 2 + 1;
  const weights = new Int32Array(count * taps);
  const exact = new Float64Array(taps);
  for (let i = 0; i < count; i++) {
    const centre = (first + i + 0.5) * scale;
    const begin = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), oldSize);
    let total = 0;
    for (let j = 0; j < end - begin; j++) {
      exact[j] = bicubic((j + begin - centre + 0.5) * (1 / stretch));
      total += exact[j];
    }
    begins[i] = begin;
    counts[i] = end - begin;
    for (let j = 0; j < end - begin; j++) {
      const weight = (exact[j] / total) * 2 ** PRECISION;
      weights[i * taps + j] = Math.trunc(weight + (weight < 0 ? -0.5 : 0.5));
    }
  }
  return { begins, counts, count, weights, taps };
}

function to8Bits(sum) {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function resizeWidth({ data, width, height, channels }, columns) {
  const { begins, counts, count, weights, taps } = columns;
  const resized = new Uint8Array(height * count * 3);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let i = 0; i < count; i++) {
      let from = (y * width + begins[i]) * channels;
      if (weights === null) {
        resized[to++] = data[from];
        resized[to++] = data[from + 1];
        resized[to++] = data[from + 2];
        continue;
      }
      let red = 1 << (PRECISION - 1);
      let green = red;
      let blue = red;
      const end = i * taps + counts[i];
      for (let j = i * taps; j < end; j++, from += channels) {
        const weight = weights[j];
        red += data[from] * weight;
        green += data[from + 1] * weight;
        blue += data[from + 2] * weight;
      }
      resized[to++] = to8Bits(red);
      resized[to++] = to8Bits(green);
      resized[to++] = to8Bits(blue);
    }
  }
  return { data: resized, width: count, height, channels: 3 };
}

function resizeHeight({ data, width, channels }, rows) {
  const { begins, counts, count, weights, taps } = rows;
  const resized = new Uint8Array(count * width * 3);
  const sums = new Int32Array(width * 3);
  for (let i = 0; i < count; i++) {
    sums.fill(weights === null ? 0 : 1 << (PRECISION - 1));
    for (let j = 0; j < counts[i]; j++) {
      const weight = weights === null ? 1 << PRECISION : weights[i * taps + j];
      let from = (begins[i] + j) * width * channels;
      for (let to = 0; to < sums.length; to += 3, from += channels) {
        sums[to] += data[from] * weight;
        sums[to + 1] += data[from + 1] * weight;
        sums[to + 2] += data[from + 2] * weight;
      }
    }
    for (let k = 0; k < sums.length; k++) resized[i * sums.length + k] = to8Bits(sums[k]);
  }
  return { data: resized, width, height: count, channels: 3 };
}
