// The page: takes photos, asks the worker, and shows its answers.

const $ = (id) => document.getElementById(id);
const status = $("status");
const progress = $("progress");
const video = $("video");
const percent = new Intl.NumberFormat(undefined, {
  style: "percent",
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});
// Older answers are removed, for memory.
const MOST_ANSWERS = 20;

let worker;
let count = 0;
const waiting = new Map();

function ask(request, transfer = []) {
  const id = count++;
  worker.postMessage({ id, ...request }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function receive({ data }) {
  if (data.loaded !== undefined) {
    progress.value = data.loaded;
    return;
  }
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error === undefined) resolve(data);
  else reject(new Error(data.error));
}

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

async function start() {
  say("Loading the network …");
  const code = await (await fetch("worker.js")).blob();
  // From a blob, so that the policy of this page holds in it.
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  worker = new Worker(address, { type: "module" });
  worker.onmessage = receive;
  const broken = new Promise((_, reject) => {
    worker.onerror = () => reject(new Error("This browser is too old for this page."));
  });
  const ready = await Promise.race([ask({ base: document.baseURI }), broken]);
  progress.hidden = true;
  const threads = ready.threads === 1 ? "1 thread" : `${ready.threads} threads`;
  say(`Ready, loaded in ${seconds(ready.milliseconds)}. Computes with ${threads}.`);
  for (const control of document.querySelectorAll("[data-needs-network]")) {
    control.disabled = false;
  }
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  document.dispatchEvent(new CustomEvent("keras-cvt-ready", { detail: ready }));
}

function seconds(milliseconds) {
  return milliseconds < 1000
    ? `${Math.round(milliseconds)} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}

async function classify(image, name) {
  if ($("choose").disabled) return;
  say(`Classifying ${name} …`);
  const upright = $("upright").checked;
  const transfer = image instanceof ImageBitmap ? [image] : [];
  let answer;
  try {
    answer = await ask({ image, upright }, transfer);
  } catch (error) {
    say(`${name}: ${error.message}`, true);
    return;
  }
  const { preparation, network } = answer.milliseconds;
  const time = seconds(preparation + network);
  $("answers").prepend(card(answer, name, time));
  while ($("answers").children.length > MOST_ANSWERS) $("answers").lastChild.remove();
  const [{ name: best, score }] = answer.best;
  say(`${name}: ${best}, ${percent.format(score)}, in ${time}.`);
  const detail = { name, ...answer };
  document.dispatchEvent(new CustomEvent("keras-cvt-answer", { detail }));
}

/** Return the article that shows an answer. */
function card(answer, name, time) {
  const article = $("answer").content.firstElementChild.cloneNode(true);
  const part = (selector) => article.querySelector(selector);
  part("h3").textContent = name;
  draw(part("canvas"), answer);
  part("canvas").setAttribute("aria-label", `${name} as the network sees it`);
  for (const { name: label, score } of answer.best) {
    const row = $("row").content.firstElementChild.cloneNode(true);
    row.querySelector(".label").textContent = label;
    row.querySelector(".score").textContent = percent.format(score);
    row.querySelector(".bar > span").style.width = `${100 * score}%`;
    part("ol").append(row);
  }
  const { preparation, network } = answer.milliseconds;
  part(".time").textContent =
    `${time}: ${seconds(preparation)} to read and resize, ${seconds(network)} in the network`;
  return article;
}

function draw(canvas, { pixels, size: [height, width] }) {
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    image.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

async function classifyFiles(files) {
  for (const file of files) await classify(file, file.name || "Pasted photo");
}

async function openCamera() {
  try {
    // The camera at the back of a phone.
    const wanted = { video: { facingMode: "environment" } };
    video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`, true);
    return;
  }
  $("camera-view").hidden = false;
  $("camera").hidden = true;
  await video.play();
  // The first pictures of some cameras are black until they are shown.
  await new Promise((shown) => video.requestVideoFrameCallback?.(shown) ?? shown());
  $("shoot").focus();
}

function closeCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  $("camera-view").hidden = true;
  $("camera").hidden = false;
  $("camera").focus();
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async ({ target }) => {
  await classifyFiles([...target.files]);
  target.value = "";
});
$("camera").addEventListener("click", openCamera);
$("close").addEventListener("click", closeCamera);
$("shoot").addEventListener("click", async () => {
  await classify(await createImageBitmap(video), "Camera");
});

const dropped = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!dropped(event)) return;
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  if (!dropped(event)) return;
  event.preventDefault();
  $("drop").classList.remove("over");
  classifyFiles([...event.dataTransfer.files]);
});
document.addEventListener("paste", ({ clipboardData }) => {
  classifyFiles([...clipboardData.files]);
});

start().catch((error) => {
  progress.hidden = true;
  say(error.message, true);
});
