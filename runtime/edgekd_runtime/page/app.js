const ACTIVITY_S = 120, EVERY_MS = 2000;
const seen = { models: [], known: "", live: null, rates: [], state: "", timer: 0 };

const model = () => seen.models.find((one) => one.name === byId("models").value) || seen.models[0];

function say(id, text) {
  // Only what changes: screen readers tell of everything that is written.
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

// --- the model, and how it does ---

function present() {
  const one = model(), ofFiles = one && isOfFiles(one);
  byId("pick").hidden = seen.models.length < 2;
  byId("none").hidden = Boolean(one);
  byId("ask-file").hidden = !ofFiles;
  byId("ask-text").hidden = !one || ofFiles;
  byId("send").hidden = !one || (ofFiles && !trying.file);
  byId("about").hidden = !one;
  if (!one) return;
  say("drop-hint", trying.file ? trying.file.name || "" : word(one.takes === "audio" ? "audio_hint" : "image_hint"));
  byId("file").accept = one.media_types.join(",");
  byId("record").hidden = one.takes !== "audio";
  byId("text").placeholder = one.takes ? word("text_hint") : "";
  byId("text").className = one.takes ? "" : "code";
  byId("text").rows = one.takes ? 3 : 9;
  byId("tensor-hint").hidden = Boolean(one.takes);
  if (!one.takes && !byId("text").value) byId("text").value = written(one.example);
  examples(familiar(one.texts));
  recordButton();
  show();
  card(one);
}

function written(example) {
  // A line for each input, without the data where nobody would read them.
  const inputs = example.inputs.map((one) => (one.data.length > SHOWN_VALUES ? { ...one, data: [] } : one));
  return `{"inputs": [\n  ${inputs.map((one) => JSON.stringify(one)).join(",\n  ")}\n]}`;
}

function examples(texts) {
  const chips = [...byId("examples").children];
  if (chips.length === texts.length && chips.every((chip, i) => chip.textContent === texts[i])) return;
  byId("examples").replaceChildren(...texts.map((text) => {
    const chip = Object.assign(element("button", "", text), { type: "button" });
    chip.onclick = () => { byId("text").value = text; ask(); };
    return chip;
  }));
}

function familiar(texts) {
  // Four examples, those in the reader's script first.
  const isHan = (text) => /\p{Script=Han}/u.test(text), wanted = language === "zh";
  return [...texts.filter((text) => isHan(text) === wanted), ...texts.filter((text) => isHan(text) !== wanted)].slice(0, 4);
}

function card(one) {
  const shape = (sizes) => sizes.map((size) => (size < 0 ? "n" : size)).join(", ");
  const tensors = (list) => list.map((each) => `${each.name} ${each.datatype} [${shape(each.shape)}]`).join("\n");
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
  const { own } = trying, { rates, live } = seen, p50 = live && quantile(live.bounds_s, live.counts, 0.5);
  draw(byId("chart-latency"), own, LAST, milliseconds);
  draw(byId("chart-load"), rates, ACTIVITY_S * 1000 / EVERY_MS, (rate) => number(rate, 1));
  say("own-p50", own.length ? milliseconds(median(own)) : "–");
  say("rate", rates.length ? number(rates[rates.length - 1], 1) : "–");
  say("all-p50", p50 ? milliseconds(p50 * 1000) : "–");
  say("memory", live ? bytes(live.resident_bytes) : "–");
}

function state(now = seen.state) {
  // "up", "down" or "locked", until a token has been given.
  if (now === "up" && seen.state !== "up" && trying.problem) settle({}); // it is over
  seen.state = now;
  byId("state").className = `state ${now}`;
  say("state-text", now && word(now));
}

async function look() {
  clearTimeout(seen.timer);
  try {
    if (!seen.known) await learn();
    const live = await call("/page/live.json");
    unlock();
    if (JSON.stringify(live.models) !== seen.known) await learn();
    if (seen.live) {
      const seconds = live.uptime_s - seen.live.uptime_s;
      const rate = seconds > 0 ? (live.requests - seen.live.requests) / seconds : 0;
      seen.rates = [...seen.rates, Math.max(0, rate)].slice(-ACTIVITY_S * 1000 / EVERY_MS);
    }
    seen.live = live;
    state("up");
  } catch (error) {
    state(isLocked() ? "locked" : error instanceof Refused ? "up" : "down");
  }
  charts();
  if (!isLocked()) seen.timer = setTimeout(look, EVERY_MS);
}

function unlock() {
  byId("token-form").hidden = true;
  byId("content").hidden = false;
}

async function learn() {
  const told = await call("/page/models.json"), before = byId("models").value;
  unlock();
  seen.models = told.models;
  seen.known = JSON.stringify(Object.fromEntries(told.models.map((one) => [one.name, [one.version, one.sha256]])));
  say("version", `edgekd-runtime ${told.version}`);
  byId("models").replaceChildren(...seen.models.map((one) => new Option(one.name, one.name, false, one.name === before)));
  if (before && byId("models").value !== before) choose(); // what was being tried is gone
  else present();
}

// --- wiring ---

byId("try").onsubmit = (event) => { event.preventDefault(); ask(); };
byId("text").onkeydown = (event) => {
  const composes = event.isComposing || event.keyCode === 229; // Enter then chooses a word
  if (event.key === "Enter" && !event.shiftKey && !composes && model().takes) { event.preventDefault(); ask(); }
};
byId("token-form").onsubmit = (event) => { event.preventDefault(); giveToken(); };
byId("models").onchange = choose;
byId("language").onclick = () => { language = language === "zh" ? "en" : "zh"; speak(); asking(Boolean(trying.stop)); state(); present(); charts(); };
byId("choose").onclick = () => byId("file").click();
byId("file").onchange = () => { if (byId("file").files[0]) take(byId("file").files[0]); };
byId("record").onclick = record;
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // beside the box, too: the browser would leave the page for the file
    const box = event.target.closest && event.target.closest("#ask-file");
    byId("ask-file").classList.toggle("over", over && Boolean(box));
    if (name === "drop" && box && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
speak();
look();
