const ANSWER_MS = 60000, FIGURES_MS = 5000;

class Refused extends Error {} // by the server, whose words it holds

async function call(path, options = {}, limitMs = FIGURES_MS, stop = new AbortController()) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const timer = setTimeout(() => stop.abort(), limitMs);
  try {
    const response = await fetch(path, { ...options, headers, cache: "no-store", signal: stop.signal })
      .catch(() => { throw new Error(word("no_answer")); });
    const body = await response.json().catch(() => {
      if (response.ok) throw new Error(word("no_answer")); // it broke off
      return { error: response.statusText };
    });
    if (response.status === 401) askForToken(Boolean(token));
    if (!response.ok) throw new Refused(body.error || response.statusText);
    return body;
  } finally {
    clearTimeout(timer);
  }
}

// --- the token ---

const isLocked = () => !byId("token-form").hidden;

function askForToken(wasGiven) {
  sessionStorage.removeItem("token");
  if (wasGiven || !isLocked()) byId("token-problem").hidden = !wasGiven;
  if (isLocked()) return;
  clearTimeout(seen.timer);
  byId("token-form").hidden = false;
  byId("content").hidden = true;
  byId("token").focus();
  state("locked");
}

function giveToken() {
  const token = byId("token").value.trim();
  byId("token-problem").hidden = /^[\x21-\x7e]+$/.test(token); // what a header can carry
  if (!byId("token-problem").hidden) return;
  sessionStorage.setItem("token", token);
  look();
}
