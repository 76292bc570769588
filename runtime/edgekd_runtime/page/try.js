const LAST = 60, SHOWN_VALUES = 64;
const trying = { turn: 0, stop: null, file: null, recording: null, result: null, took: null, problem: "", own: [] };

const isOfFiles = (one) => one.takes === "image" || one.takes === "audio";

function request(one, input) {
  const infer = `/v2/models/${one.name}/infer`, type = (kind) => ({ "content-type": kind });
  if (!one.takes) return [infer, { method: "POST", body: withZeros(input), headers: type("application/json") }];
  if (one.labels.length) {
    const kind = one.takes === "text" ? "text/plain" : input.type || (one.takes === "image" ? "image/jpeg" : "audio/wav");
    return [`/v1/models/${one.name}:classify`, { method: "POST", body: input, headers: type(kind) }];
  }
  const asked = { inputs: [{ name: one.takes, datatype: "BYTES", shape: [1], data: [input] }] };
  return [infer, { method: "POST", body: JSON.stringify(asked), headers: type("application/json") }];
}

function withZeros(text) {
  // Thousands of values are no sight: empty data stand for zeros.
  let asked;
  try { asked = JSON.parse(text); } catch { return text; } // the server says what is wrong with it
  for (const one of (asked && Array.isArray(asked.inputs)) ? asked.inputs : []) {
    if (one && Array.isArray(one.data) && !one.data.length && Array.isArray(one.shape)) {
      const count = one.shape.reduce((a, b) => a * b, 1);
      if (count > 0 && count <= 1e7) one.data = Array(count).fill(0);
    }
  }
  return JSON.stringify(asked);
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] || "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// --- asking: what is asked last counts, and there is an answer or a problem, never both ---

async function ask() {
  const one = model();
  let input = one && isOfFiles(one) ? trying.file : byId("text").value;
  if (!one || !input || (typeof input === "string" && !input.trim())) return;
  const turn = nextTurn(), stop = trying.stop = new AbortController();
  asking(true);
  try {
    if (isOfFiles(one) && !one.labels.length) input = await base64(input);
    const start = performance.now(), result = await call(...request(one, input), ANSWER_MS, stop);
    if (turn === trying.turn) settle({ result, took: performance.now() - start });
  } catch (error) {
    if (turn === trying.turn) settle({ problem: error.message });
  }
}

function nextTurn() {
  if (trying.stop) trying.stop.abort();
  return ++trying.turn;
}

function asking(isOn) {
  byId("send").classList.toggle("busy", isOn);
  byId("send").textContent = word(isOn ? "asking" : "ask");
}

function settle({ result = null, took = null, problem = "" }) {
  nextTurn();
  trying.stop = null;
  Object.assign(trying, { result, took, problem });
  if (took !== null) trying.own = [...trying.own, took].slice(-LAST);
  asking(false);
  show();
  charts();
}

function show() {
  const { result, problem, took } = trying, one = model();
  byId("problem").hidden = !problem;
  say("problem", problem);
  byId("result").hidden = !result;
  say("took", result ? word("took", milliseconds(took)) : "");
  if (!result || !one) return;
  const labels = result.labels || named(result.outputs), outside = result.in_scope === false;
  byId("best").className = outside ? "out" : "";
  byId("best").textContent = outside ? word("out_of_scope") : labels.length ? labels[0].label : "";
  byId("best-line").hidden = !labels.length;
  byId("scope").hidden = !result.in_scope || one.threshold === null;
  byId("bars").replaceChildren(...labels.map(bar));
  byId("tensors").hidden = Boolean(result.labels);
  byId("tensors").textContent = (result.outputs || []).map((output) => JSON.stringify(output)).join("\n");
  const spoken = (code) => (code.startsWith(language) ? 0 : 1);
  const answers = Object.entries(result.answers || {}).sort(([a], [b]) => spoken(a) - spoken(b));
  byId("answers").replaceChildren(...answers.map(([code, text]) => {
    const box = element("div");
    box.append(element("dt", "", code), Object.assign(element("dd", "", text), { lang: code }));
    return box;
  }));
}

function named(outputs) {
  // Of the first row, where a model of tensors has labels.
  const first = (name) => ((outputs || []).find((one) => one.name === name) || { data: [] }).data[0];
  const label = first("label"), score = first("score");
  return typeof label === "string" && typeof score === "number" ? [{ label, score }] : [];
}

function bar({ label, score }) {
  const line = element("li"), track = element("span", "bar"), fill = element("span", "fill");
  fill.style.display = "block";
  requestAnimationFrame(() => { fill.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`; });
  track.append(fill);
  line.append(element("span", "name", label), element("span", "score", `${number(score * 100, 1)} %`), track);
  return line;
}

// --- files ---

function take(file) {
  const preview = byId(model().takes === "image" ? "preview" : "sound");
  trying.file = file;
  byId("file").value = ""; // so that the same one can be chosen again
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  present();
  ask();
}

async function record() {
  const stop = trying.recording;
  if (stop === "starting") return;
  trying.recording = null;
  settle({});
  const turn = trying.turn;
  try {
    if (stop) {
      const sound = await stop();
      if (turn === trying.turn) take(sound);
    } else if (navigator.mediaDevices) {
      trying.recording = "starting";
      const started = await startRecording();
      if (turn === trying.turn) trying.recording = started;
      else started().catch(() => {});
    } else {
      settle({ problem: word("no_microphone") });
    }
  } catch (error) {
    if (turn === trying.turn) {
      trying.recording = null;
      settle({ problem: error.message });
    }
  }
  recordButton();
}

function recordButton() {
  byId("record").textContent = word(trying.recording ? "stop" : "record");
  byId("record").setAttribute("aria-pressed", String(Boolean(trying.recording)));
}

function choose() {
  // Another model: nothing of the one before stays, the microphone least of all.
  if (typeof trying.recording === "function") trying.recording().catch(() => {});
  Object.assign(trying, { file: null, recording: null });
  for (const id of ["preview", "sound"]) byId(id).hidden = true;
  byId("text").value = "";
  present();
  settle({});
}
