// The network, beside the page, which stays responsive meanwhile.
//
// The page starts this file from a blob, so that the page's Content-Security-Policy
// holds here too. A blob has no folder: addresses come with the first message.

let decoding, preprocessing, ort, session, page, model;
let last = Promise.resolve();

self.onmessage = ({ data }) => {
  // One after the other: the network computes one image at a time.
  last = last.then(() => answer(data));
};

async function answer({ id, ...request }) {
  try {
    const answered = id === 0 ? await start(request) : await classify(request);
    self.postMessage({ id, ...answered });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
}

async function start({ base }) {
  const begin = performance.now();
  const at = (name) => new URL(name, base).href;
  decoding = await import(at("decode.js"));
  preprocessing = await import(at("preprocess.js"));
  [page, model] = await Promise.all(["page.json", "keras_cvt.json"].map(async (name) =>
    (await get(at(name))).json(),
  ));
  const { folder, script, binary } = page.runtime;
  const [code, wasm, network] = await Promise.all([
    verified(at(folder + script.name), script),
    verified(at(folder + binary.name), binary),
    download(at(page.model.name), page.model.bytes),
  ]);
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  ort = await import(address);
  ort.env.wasm.wasmBinary = wasm;
  // Threads need a page that the server's headers isolate.
  const processors = navigator.hardwareConcurrency || 1;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(processors, 4) : 1;
  session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  // The first call is slower than the others.
  const [height, width] = model.input.eval_transform.image_size;
  await run(new Uint8Array(height * width * 3));
  return {
    classNames: model.class_names,
    threads: ort.env.wasm.numThreads,
    milliseconds: performance.now() - begin,
  };
}

async function get(address, options) {
  const response = await fetch(address, options);
  if (!response.ok) {
    throw new Error(`${address} is missing: the server answered ${response.status}.`);
  }
  return response;
}

/** Return a file of the runtime, whose hash the browser compares. */
async function verified(address, { name, integrity }) {
  try {
    return await (await get(address, { integrity })).arrayBuffer();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new Error(`${name} cannot be loaded, or is not what this page was made with.`);
  }
}

/** Return the network, and tell the page how much of it has arrived. */
async function download(address, size) {
  const reader = (await get(address)).body.getReader();
  const content = new Uint8Array(size);
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > size) break;
    content.set(value, at);
    at += value.length;
    self.postMessage({ loaded: at / size });
  }
  if (at !== size) throw new Error("The network did not arrive whole. Load the page again.");
  return content;
}

async function run(pixels) {
  const [height, width] = model.input.eval_transform.image_size;
  const images = new ort.Tensor("float32", Float32Array.from(pixels), [1, height, width, 3]);
  const outputs = await session.run({ images });
  return outputs[session.outputNames[0]].data;
}

/**
 * Classify a file, or a bitmap of the camera.
 *
 * The answer has the best classes with their scores, best first, all outputs of the
 * network, and the pixels (height, width, 3) that it took.
 */
async function classify({ image, upright }) {
  const begin = performance.now();
  const bitmap = image instanceof ImageBitmap;
  const { rgba, width, height } = bitmap
    ? decoding.readPixels(image)
    : await decoding.decode(image, upright);
  const transform = model.input.eval_transform;
  const pixels = preprocessing.preprocess(rgba, width, height, transform, page.tall_first);
  const prepared = performance.now();
  const outputs = await run(pixels);
  const end = performance.now();
  const scores = toScores(outputs, page.activation);
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a]);
  return {
    best: order.slice(0, page.top).map((index) => ({
      name: model.class_names?.[index] ?? `class ${index}`,
      score: scores[index],
    })),
    outputs,
    pixels,
    size: transform.image_size,
    milliseconds: { preparation: prepared - begin, network: end - prepared },
  };
}

function toScores(outputs, activation) {
  const logits = Array.from(outputs);
  if (activation === "sigmoid") return logits.map((x) => 0.5 + 0.5 * Math.tanh(x / 2));
  if (activation !== "softmax") return logits;
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}
