// The gateway's interface, as the page needs it. Failures are problems (RFC 9457), thrown as Problem.

const KEY = "godel-key";

/** What a person is told of what is gone: the gateway's own words are for programs, and name requests. */
const GONE = {
  "urn:godel-serve:bot-not-found": "This bot is not there any more.",
  "urn:godel-serve:session-not-found": "This conversation is not there any more.",
};

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** Send a request; return its response. Throws Problem for whatever is no success. */
async function send(method, path, { body, headers = {}, signal } = {}) {
  const token = key.get();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined && !(body instanceof Blob) && !(body instanceof FormData)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The gateway cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  let detail = `The gateway answered with status ${response.status}.`;
  try {
    const problem = await response.json();
    detail = GONE[problem.type] ?? problem.detail ?? detail;
  } catch {
    // no JSON: somebody between us and the gateway spoke
  }
  throw new Problem(response.status, detail);
}

async function json(method, path, options) {
  return (await send(method, path, options)).json();
}

const bot = (id) => `v1/bots/${encodeURIComponent(id)}`;
const session = (id, sessionId) => `${bot(id)}/sessions/${encodeURIComponent(sessionId)}`;

export async function listBots() {
  const bots = [];
  for (let after = ""; after !== null; ) {
    const page = await json("GET", `v1/bots?limit=200&after=${encodeURIComponent(after)}`);
    bots.push(...page.bots);
    after = page.next_after;
  }
  return bots;
}

export const createBot = (wanted) => json("POST", "v1/bots", { body: wanted });
/** Return a bot, and the tag of what it is now: to change just that, and nobody else's newer one. */
export async function readBot(id) {
  const response = await send("GET", bot(id));
  return { ...(await response.json()), etag: response.headers.get("ETag") };
}

export const deleteBot = (id) => send("DELETE", bot(id));
export const measure = (id) => json("GET", `${bot(id)}/knowledge`);
export const saveKnowledge = (id, text, etag) =>
  json("PATCH", bot(id), { body: { knowledge: text }, headers: { "If-Match": etag } });
export const beginSession = (id) => json("POST", `${bot(id)}/sessions`);
export const forgetSession = (id, sessionId) => send("DELETE", session(id, sessionId));

export function uploadKnowledge(id, file, etag) {
  const form = new FormData();
  form.append("file", file);
  return json("PUT", `${bot(id)}/knowledge`, { body: form, headers: { "If-Match": etag } });
}

export async function readTurns(id, sessionId) {
  const turns = [];
  for (let after = 0; after !== null; ) {
    const page = await json("GET", `${session(id, sessionId)}?limit=200&after=${after}`);
    turns.push(...page.turns);
    after = page.next_after;
  }
  return turns;
}

/** The generation parameters with their bounds and meanings, as the OpenAPI document has them. */
export async function parameterSchema() {
  const document = await json("GET", "openapi.json");
  return document.components.schemas.ChatInput.properties.parameters.properties;
}

/** The model's own defaults; none while it cannot be asked. */
export async function modelParameters() {
  try {
    return (await json("GET", "v1/model")).parameters;
  } catch (error) {
    if (error.status === 401) throw error;
    return {};
  }
}

/** Ask; call `onPart` with each piece of text as it comes; return the whole answer. */
export async function chat(id, said, { onPart, signal }) {
  const response = await send("POST", `${bot(id)}/chat`, { body: { ...said, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Problem(0, "The answer stopped before its end.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const name = /^event: (.*)$/m.exec(event)?.[1];
      const data = /^data: (.*)$/m.exec(event)?.[1];
      if (name === "part") onPart(JSON.parse(data).text);
      if (name === "answer") return JSON.parse(data);
      if (name === "problem") {
        const problem = JSON.parse(data);
        throw new Problem(problem.status, problem.detail);
      }
    }
  }
}
