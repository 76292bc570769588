const ACTIVITY_S = 120, LAST = 60, EVERY_MS = 2000;
const seen = { models: [], live: null, own: [], rates: [], file: null, stop: null, result: null, took: null };

async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  const body = await response.json().catch(() => ({ error: response.statusText }));
  if (response.status === 401) askForToken();
  if (!response.ok) throw new Error(body.error || response.statusText);
  return body;
}

function askForToken() {
  byId("token-form").hidden = false;
  byId("content").hidden = true;
  byId("token").focus();
}

const model = () => seen.models.find((one) => one.name === byId("models").value) || seen.models[0];

// --- asking ---

function request(one, input) {
  const infer = `/v2/models/${one.name}/infer`, type = (kind) => ({ "content-type": kind });
  if (!one.takes) return [infer, { method: "POST", body: input, headers: type("application/json") }];
  if (one.labels.length) {
    const kind = one.takes === "text" ? "text/plain" : input.type || (one.takes === "image" ? "image/jpeg" : "audio/wav");
    return [`/v1/models/${one.name}:classify`, { method: "POST", body: input, headers: type(kind) }];
  }
  const asked = { inputs: [{ name: one.takes, datatype: "BYTES", shape: [1], data: [input] }] };
  return [infer, { method: "POST", body: JSON.stringify(asked), headers: type("application/json") }];
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] || "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

async function ask() {
  const one = model(), isFile = one && (one.takes === "image" || one.takes === "audio");
  let input = isFile ? seen.file : byId("text").value;
  if (!one || !input || (!isFile && !input.trim())) return;
  byId("send").disabled = true;
  byId("send").textContent = word("asking");
  try {
    if (isFile && !one.labels.length) input = await base64(input);
    const start = performance.now();
    seen.result = await call(...request(one, input));
    seen.took = performance.now() - start;
    seen.own = [...seen.own, seen.took].slice(-LAST);
    byId("problem").hidden = true;
    show();
  } catch (error) {
    problem(error.message);
  } finally {
    byId("send").disabled = false;
    byId("send").textContent = word("ask");
    charts();
  }
}

function problem(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = false;
  byId("result").hidden = true;
}

function show() {
  const result = seen.result, classified = result && result.labels;
  byId("result").hidden = !result;
  byId("took").textContent = result ? word("took", milliseconds(seen.took)) : "";
  if (!result) return;
  byId("tensors").hidden = Boolean(classified);
  byId("best").textContent = classified ? result.label : "";
  byId("scope").hidden = !classified;
  if (classified) {
    byId("scope").className = result.in_scope ? "badge" : "badge out";
    byId("scope").textContent = word(result.in_scope ? "in_scope" : "out_of_scope");
  } else {
    byId("tensors").textContent = JSON.stringify(result.outputs, null, 1);
  }
  byId("bars").replaceChildren(...(classified || []).map(bar));
  const spoken = (code) => (code.startsWith(language) ? 0 : 1);
  const answers = Object.entries(result.answers || {}).sort(([a], [b]) => spoken(a) - spoken(b));
  byId("answers").replaceChildren(...answers.map(([code, text]) => {
    const box = element("div");
    box.append(element("dt", "", code), Object.assign(element("dd", "", text), { lang: code }));
    return box;
  }));
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
  const image = model().takes === "image", preview = byId(image ? "preview" : "sound");
  seen.file = file;
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  byId("drop-hint").textContent = file.name || "";
  ask();
}

async function record() {
  try {
    if (seen.stop) {
      const stop = seen.stop;
      seen.stop = null;
      take(await stop());
    } else if (navigator.mediaDevices) {
      seen.stop = await startRecording();
    } else {
      problem(word("no_microphone"));
    }
  } catch (error) {
    seen.stop = null;
    problem(error.message);
  }
  recordButton();
}

function recordButton() {
  byId("record").textContent = word(seen.stop ? "stop" : "record");
  byId("record").setAttribute("aria-pressed", String(Boolean(seen.stop)));
}

// --- the model, and how it does ---

function choose() {
  Object.assign(seen, { file: null, result: null, took: null });
  for (const id of ["preview", "sound", "problem"]) byId(id).hidden = true;
  byId("text").value = "";
  present();
}

function present() {
  const one = model(), isFile = one && ["image", "audio"].includes(one.takes);
  byId("pick").hidden = seen.models.length < 2;
  byId("ask-file").hidden = !isFile;
  byId("ask-text").hidden = !one || isFile;
  byId("send").hidden = !one || isFile;
  if (!one) {
    problem(word("no_models"));
    byId("facts").replaceChildren();
    byId("labels-box").hidden = true;
    return;
  }
  byId("drop-hint").textContent = (seen.file && seen.file.name) || word(one.takes === "audio" ? "audio_hint" : "image_hint");
  byId("file").accept = one.media_types.join(",");
  byId("record").hidden = one.takes !== "audio";
  byId("text").placeholder = word(one.takes ? "text_hint" : "tensor_hint");
  byId("text").className = one.takes ? "" : "code";
  byId("text").rows = one.takes ? 3 : 9;
  if (!one.takes && !byId("text").value) byId("text").value = JSON.stringify(one.example, null, 1);
  byId("examples").replaceChildren(...familiar(one.texts).map((text) => {
    const chip = Object.assign(element("button", "", text), { type: "button" });
    chip.onclick = () => { byId("text").value = text; ask(); };
    return chip;
  }));
  recordButton();
  show();
  card(one);
}

function familiar(texts) {
  // Four examples, those in the reader's script first.
  const isHan = (text) => /\p{Script=Han}/u.test(text), wanted = language === "zh";
  return [...texts.filter((text) => isHan(text) === wanted), ...texts.filter((text) => isHan(text) !== wanted)].slice(0, 4);
}

function card(one) {
  const tensors = (list) => list.map((each) => `${each.name} ${each.datatype} [${each.shape.join(", ")}]`).join("\n");
  const facts = [
    ["name", one.name], ["version", one.version], ["precision", one.precision], ["size", bytes(one.model_bytes)],
    ["inputs", [one.takes, tensors(one.inputs)].filter(Boolean).join(" → ")], ["outputs", tensors(one.outputs)],
    ["threshold", one.threshold === null ? null : `${number(one.threshold * 100, 1)} %`], ["backend", one.backend],
    ["xnnpack", word("of", one.xnnpack_ops, one.total_ops)], ["golden", one.golden_samples || null],
    ["created_by", one.created_by], ["signed_by", one.signed_by], ["sha256", one.sha256 && `${one.sha256.slice(0, 16)}…`],
  ];
  byId("facts").replaceChildren(...facts.filter(([, value]) => value !== null && value !== "").flatMap(([key, value]) =>
    [element("dt", "", word(key)), element("dd", "", String(value))]));
  byId("labels-box").hidden = !one.labels.length;
  byId("labels-count").textContent = word("labels", one.labels.length);
  byId("labels").replaceChildren(...one.labels.flatMap((label) => [element("span", "", label), " "]));
}

function charts() {
  draw(byId("chart-latency"), seen.own, milliseconds);
  draw(byId("chart-load"), seen.rates, (rate) => number(rate, 1));
  byId("own-p50").textContent = seen.own.length ? milliseconds(median(seen.own)) : "–";
  byId("rate").textContent = seen.rates.length ? number(seen.rates[seen.rates.length - 1], 1) : "–";
  const p50 = seen.live && quantile(seen.live.bounds_s, seen.live.counts, 0.5);
  byId("all-p50").textContent = p50 ? milliseconds(p50 * 1000) : "–";
  byId("memory").textContent = seen.live ? bytes(seen.live.resident_bytes) : "–";
}

function state(isUp) {
  byId("state").className = `state ${isUp ? "on" : "off"}`;
  byId("state-text").textContent = word(isUp ? "up" : "down");
}

async function look() {
  try {
    const live = await call("/page/live.json");
    if (seen.live) {
      const seconds = live.uptime_s - seen.live.uptime_s;
      const rate = seconds > 0 ? (live.requests - seen.live.requests) / seconds : 0;
      seen.rates = [...seen.rates, Math.max(0, rate)].slice(-ACTIVITY_S * 1000 / EVERY_MS);
    }
    const isNew = !seen.live || JSON.stringify(live.models) !== JSON.stringify(seen.live.models);
    seen.live = live;
    if (isNew) await learn();
    state(true);
  } catch {
    state(false);
  }
  charts();
}

async function learn() {
  const told = await call("/page/models.json"), before = byId("models").value;
  seen.models = told.models;
  byId("version").textContent = `edgekd-runtime ${told.version}`;
  byId("models").replaceChildren(...seen.models.map((one) => new Option(one.name, one.name, false, one.name === before)));
  byId("token-form").hidden = true;
  byId("content").hidden = false;
  present();
}

// --- wiring ---

byId("try").onsubmit = (event) => { event.preventDefault(); ask(); };
byId("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && model().takes) { event.preventDefault(); ask(); }
};
byId("token-form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value.trim());
  seen.live = null;
  look();
};
byId("models").onchange = choose;
byId("language").onclick = () => { language = language === "zh" ? "en" : "zh"; speak(); state(Boolean(seen.live)); present(); charts(); };
byId("choose").onclick = () => byId("file").click();
byId("file").onchange = () => { if (byId("file").files[0]) take(byId("file").files[0]); };
byId("record").onclick = record;
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  byId("ask-file").addEventListener(name, (event) => {
    event.preventDefault();
    byId("ask-file").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
speak();
look();
setInterval(look, EVERY_MS);
