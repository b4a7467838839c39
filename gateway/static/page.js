// The page: what is chosen, what is said, and what a person sees of it.

import * as api from "./api.js";
import { show } from "./sources.js";

const $ = (id) => document.getElementById(id);

/** What this browser remembers: `{theme, bots: {id: {conversations: [{id, title}], parameters}}}`. */
const memory = {
  load: () => JSON.parse(localStorage.getItem("godel") ?? "{}"),
  change(change) {
    const all = this.load();
    change(all);
    localStorage.setItem("godel", JSON.stringify(all));
  },
  ofBot: (id) => memory.load().bots?.[id] ?? {},
  changeBot(id, change) {
    this.change((all) => {
      all.bots ??= {};
      all.bots[id] ??= {};
      change(all.bots[id]);
    });
  },
};

const state = { bot: null, knowledge: null, etag: null, read: "", session: null, answering: null, schema: null };

function complain(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) {
    askForKey(error.message);
    return;
  }
  $("problem").querySelector("p").textContent = error.message;
  $("problem").hidden = false;
}

/** Run `work`; show what goes wrong to the person. */
async function attempt(work) {
  $("problem").hidden = true;
  try {
    return await work();
  } catch (error) {
    complain(error);
    return undefined;
  }
}

function openDialog(dialog) {
  dialog.querySelector(".refusal").textContent = "";
  dialog.returnValue = "";
  dialog.showModal();
}

/** Do what a dialog is for and close it; return whether it was done. Else it says why, and keeps what was typed. */
async function carryOut(dialog, work) {
  const button = dialog.querySelector(".buttons > button");
  const refusal = dialog.querySelector(".refusal");
  refusal.textContent = "";
  $("problem").hidden = true;
  button.disabled = true; // once is enough
  try {
    await work();
  } catch (error) {
    if (error.status === 401 || !dialog.open) complain(error);
    else refusal.textContent = error.message;
    return false;
  } finally {
    button.disabled = false;
    refocus(dialog.querySelector("[required]"));
  }
  dialog.close("done");
  return true;
}

/** Give the focus to `place` when what had it is gone; never take it from where a person went. */
function refocus(place) {
  const now = document.activeElement;
  if (now === document.body || now.disabled || !now.checkVisibility()) place.focus();
}

function askForKey(refused) {
  if (!$("key-dialog").open) openDialog($("key-dialog"));
  if (api.key.get()) $("key-dialog").querySelector(".refusal").textContent = refused;
}

// Bots

let loading = 0;

async function loadBots(chosen) {
  const mine = ++loading;
  const bots = await api.listBots();
  if (mine !== loading) return; // a later call knows more
  $("bot").replaceChildren(...bots.map((bot) => new Option(bot.name || bot.bot_id, bot.bot_id)));
  const ids = bots.map((bot) => bot.bot_id);
  const wanted = [chosen, memory.load().last, ids[0]].find((id) => ids.includes(id));
  if (wanted === undefined) {
    selectNothing();
    return;
  }
  $("bot").value = wanted;
  await chooseBot(wanted);
}

function selectNothing() {
  if (!leaveEditor()) return;
  state.bot = state.session = state.knowledge = null;
  $("title").textContent = "godel-serve";
  for (const id of ["message", "send", "new-conversation", "show-knowledge", "show-settings"]) $(id).disabled = true;
  $("conversations").replaceChildren();
  hint("There is no bot yet. Make one, tell it something, and ask it.");
  hideKnowledge();
}

async function chooseBot(id) {
  if (id === state.bot && unsaved()) return; // only the key is another one
  if (!leaveEditor()) {
    $("bot").value = state.bot;
    return;
  }
  state.answering?.abort();
  state.bot = id;
  state.knowledge = null;
  memory.change((all) => { all.last = id; });
  $("title").textContent = $("bot").selectedOptions[0]?.textContent ?? id;
  for (const name of ["message", "send", "new-conversation", "show-knowledge", "show-settings"]) $(name).disabled = false;
  newConversation();
  if (!$("knowledge").hidden) await showKnowledge(null);
}

// Conversations

function hint(text) {
  const item = document.createElement("div");
  item.className = "hint";
  item.textContent = text;
  $("turns").replaceChildren(item);
}

function newConversation() {
  state.answering?.abort();
  state.session = null;
  invite();
  listConversations();
}

function invite() {
  hint("Ask something. The bot answers from its knowledge and remembers this conversation.");
}

function listConversations() {
  const items = (memory.ofBot(state.bot).conversations ?? []).map(({ id, title }) => {
    const item = document.createElement("li");
    const open = document.createElement("button");
    const label = document.createElement("span");
    label.textContent = title;
    open.append(label);
    open.type = "button";
    open.setAttribute("aria-current", String(id === state.session));
    open.addEventListener("click", () => attempt(() => openConversation(id)));
    const forget = document.createElement("button");
    forget.type = "button";
    forget.textContent = "×";
    forget.setAttribute("aria-label", `Forget “${title}”`);
    forget.addEventListener("click", () => attempt(() => forgetConversation(id)));
    item.append(open, forget);
    return item;
  });
  $("conversations").replaceChildren(...items);
}

function dropConversation(bot, id) {
  memory.changeBot(bot, (own) => {
    own.conversations = (own.conversations ?? []).filter((one) => one.id !== id);
  });
  if (bot !== state.bot) return;
  if (state.session === id) newConversation();
  else listConversations();
}

async function openConversation(id) {
  state.answering?.abort();
  showSide(false);
  const bot = state.bot;
  try {
    const turns = await api.readTurns(bot, id);
    if (bot !== state.bot) return;
    state.session = id;
    $("turns").replaceChildren();
    for (const turn of turns) {
      addTurn("you", turn.message);
      addTurn("bot", turn.response);
    }
    listConversations();
  } catch (error) {
    if (error.status === 404) dropConversation(bot, id);
    throw error;
  }
}

async function forgetConversation(id) {
  const bot = state.bot;
  try {
    await api.forgetSession(bot, id);
  } catch (error) {
    if (error.status !== 404) throw error; // over already
  }
  dropConversation(bot, id);
}

function addTurn(who, text) {
  const item = document.createElement("div");
  item.className = who;
  const speaker = document.createElement("span");
  speaker.className = "unseen";
  speaker.textContent = who === "you" ? "You: " : "Bot: ";
  const words = document.createElement("p");
  words.textContent = text;
  item.append(speaker, words);
  $("turns").querySelector(".hint")?.remove();
  $("turns").append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

// Asking

async function ask(message) {
  const bot = state.bot;
  let session = state.session;
  const stopping = new AbortController();
  state.answering = stopping;
  busy(true);
  const question = addTurn("you", message);
  const item = addTurn("bot", "");
  item.setAttribute("aria-busy", "true");
  const words = item.querySelector("p");
  try {
    if (session === null) {
      const { session_id: id } = await api.beginSession(bot);
      stopping.signal.throwIfAborted(); // meanwhile another bot or conversation may have been chosen
      state.session = session = id;
      memory.changeBot(bot, (own) => {
        own.conversations = [{ id, title: message.slice(0, 80) }, ...(own.conversations ?? [])].slice(0, 100);
      });
      listConversations();
    }
    const answer = await api.chat(
      bot,
      { message, session_id: session, parameters: memory.ofBot(bot).parameters ?? {} },
      {
        signal: stopping.signal,
        onPart(text) {
          words.textContent += text;
          item.scrollIntoView({ block: "end" });
        },
      },
    );
    words.textContent = answer.response;
    addFooter(item, answer);
  } catch (error) {
    if (error.name === "AbortError") words.textContent += " (stopped; not remembered)";
    else if ($("message").value) words.textContent += " (failed; not remembered)"; // the next one is being written
    else {
      // To be said again: two of it would look as if it had been said before.
      $("message").value = message;
      question.remove();
      item.remove();
      if (!$("turns").hasChildNodes()) invite();
    }
    if (error.status === 404 && session !== null) dropConversation(bot, session);
    throw error;
  } finally {
    item.removeAttribute("aria-busy");
    if (state.answering === stopping) {
      state.answering = null;
      busy(false);
    }
  }
}

function busy(is) {
  const stopped = document.activeElement === $("stop");
  $("send").hidden = is;
  $("stop").hidden = !is;
  if (is || stopped) refocus($("message")); // the button that was used is gone
}

function addFooter(item, answer) {
  const footer = document.createElement("footer");
  if (answer.passages.length) {
    const sources = document.createElement("button");
    sources.type = "button";
    sources.textContent = "Show where it comes from";
    sources.addEventListener("click", () =>
      attempt(async () => {
        if (!leaveEditor()) return;
        await showKnowledge(answer);
        item.scrollIntoView({ block: "nearest" }); // the column is narrower now
      }),
    );
    footer.append(sources);
  }
  const note = document.createElement("span");
  note.className = "note";
  const seconds = ((answer.timing.queue_ms + answer.timing.compute_ms) / 1000).toFixed(2);
  note.textContent = `${seconds} s, ${answer.usage.completion_tokens} tokens`;
  if (answer.finish_reason !== "stop") note.textContent += ", cut short";
  if (answer.left_out.message_characters) note.textContent += "; your message was too long, its start was left out";
  footer.append(note);
  item.append(footer);
  item.scrollIntoView({ block: "end" });
}

// Knowledge

function toggleKnowledge(shown) {
  $("knowledge").hidden = !shown;
  $("show-knowledge").setAttribute("aria-expanded", String(shown));
}

function hideKnowledge() {
  if ($("knowledge").hidden || !leaveEditor()) return;
  toggleKnowledge(false);
  refocus($("show-knowledge"));
}

/** Show it, and where `answer` comes from. Closes the editor: whoever calls has asked whether it may. */
async function showKnowledge(answer) {
  toggleKnowledge(true);
  closeEditor();
  if (state.knowledge === null) {
    mayChange(false);
    $("passages").replaceChildren();
    $("measure").textContent = "Reading …";
    const bot = state.bot;
    try {
      const [{ knowledge, etag }, size] = await Promise.all([api.readBot(bot), api.measure(bot)]);
      if (bot !== state.bot) return;
      state.knowledge = knowledge;
      state.etag = etag;
      mayChange(true);
      $("measure").textContent = knowledge
        ? `${size.characters} characters, ${size.tokens} tokens, ${size.passages} passages`
        : "Nothing yet: edit it, or upload a document (text, Markdown, HTML, PDF).";
    } catch (error) {
      $("measure").textContent = error.status === 403 ? "Your key may not read it." : "";
      throw error;
    }
  }
  show($("passages"), state.knowledge, answer)?.scrollIntoView({ block: "center" });
}

/** What has not been read is not changed: an editor that is empty for want of an answer would empty the bot. */
function mayChange(may) {
  $("edit-knowledge").disabled = $("document").disabled = !may;
}

function openEditor() {
  if ($("editor").hidden) {
    $("editor").hidden = false;
    $("passages").hidden = true;
    $("text").value = state.knowledge ?? "";
    state.read = $("text").value; // not the knowledge: an editor has its own ends of lines
  }
  $("text").focus();
}

function closeEditor() {
  if ($("editor").hidden) return;
  $("editor").hidden = true;
  $("passages").hidden = false;
  refocus($("edit-knowledge"));
}

const unsaved = () => !$("editor").hidden && $("text").value !== state.read;

/** Close the editor, also when the person gives up what it has; return whether it is closed. */
function leaveEditor() {
  if (unsaved() && !confirm("What you wrote is not saved. Leave it?")) return false;
  closeEditor();
  return true;
}

/** Do `work`, then show what the bot knows now. When it fails what was written stays in the editor. */
async function learn(work) {
  const bot = state.bot;
  const measured = $("measure").textContent;
  $("measure").textContent = "Saving …";
  $("text").readOnly = true; // what is written now would be neither saved nor kept
  try {
    await work();
  } catch (error) {
    $("measure").textContent = measured;
    if (error.status !== 412) throw error;
    state.etag = null;
    throw new Error("Somebody has changed this bot since you read it. Copy what you wrote, then cancel to see theirs.");
  } finally {
    $("text").readOnly = false;
  }
  if (bot === state.bot) await reread();
}

async function reread() {
  state.knowledge = null;
  await showKnowledge(null);
  refocus($("edit-knowledge"));
}

// Settings

/** The bot's own parameters; null when the key may only chat with it. */
async function ownParameters(bot) {
  try {
    return (await api.readBot(bot)).parameters;
  } catch (error) {
    if (error.status === 403) return null;
    throw error;
  }
}

async function showSettings() {
  const bot = state.bot;
  const [schema, own, model] = await Promise.all([
    state.schema ?? api.parameterSchema(),
    ownParameters(bot),
    api.modelParameters(),
  ]);
  state.schema = schema;
  if (bot !== state.bot) return;
  $("empty-note").textContent = own
    ? "Empty: what the bot says."
    : "Empty: what the bot says. Your key may not read it: shown is what holds where the bot says nothing.";
  const chosen = memory.ofBot(bot).parameters ?? {};
  const fields = Object.entries(state.schema).map(([name, shape]) => {
    const label = document.createElement("label");
    label.textContent = name.replaceAll("_", " ");
    label.title = shape.description;
    const kind = Array.isArray(shape.type) ? shape.type[0] : shape.type;
    const otherwise = own?.[name] ?? model[name] ?? shape.default ?? "";
    let field;
    if (kind === "boolean") {
      field = document.createElement("select");
      const empty = new Option(`(${otherwise ? "yes" : "no"})`, "");
      field.append(empty, new Option("yes", "true"), new Option("no", "false"));
    } else {
      field = document.createElement("input");
      field.type = "number";
      field.min = shape.minimum;
      field.max = shape.maximum;
      field.step = kind === "integer" ? 1 : "any";
      field.placeholder = otherwise;
    }
    field.name = name;
    field.value = chosen[name] === undefined ? "" : String(chosen[name]);
    label.append(field);
    return label;
  });
  $("parameters").replaceChildren(...fields);
  $("theme").value = memory.load().theme ?? "light dark";
  $("settings-dialog").showModal();
}

function saveSettings() {
  const parameters = {};
  for (const field of $("parameters").querySelectorAll("input, select")) {
    if (field.value !== "") parameters[field.name] = JSON.parse(field.value);
  }
  memory.changeBot(state.bot, (bot) => { bot.parameters = parameters; });
  memory.change((all) => { all.theme = $("theme").value; });
  applyTheme();
}

function applyTheme() {
  document.documentElement.style.colorScheme = memory.load().theme ?? "light dark";
}

function showSide(shown) {
  $("side").classList.toggle("shown", shown);
  $("show-side").setAttribute("aria-expanded", String(shown));
}

// What a person does

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const message = $("message").value.trim();
  if (!message || state.answering || !state.bot) return;
  $("message").value = "";
  attempt(() => ask(message));
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => state.answering?.abort());
$("bot").addEventListener("change", () => attempt(() => chooseBot($("bot").value)));
$("new-conversation").addEventListener("click", () => {
  newConversation();
  showSide(false);
  $("message").focus();
});
$("new-bot").addEventListener("click", () => {
  if (leaveEditor()) openDialog($("bot-dialog"));
});
$("bot-name").addEventListener("input", () => {
  // A browser by itself would say only that there is a rule.
  $("bot-name").setCustomValidity($("bot-name").validity.patternMismatch ? $("bot-name-rule").textContent : "");
});
$("bot-dialog").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = $("bot-name").value;
  const wanted = {
    bot_id: id,
    knowledge: $("bot-knowledge").value,
    instruction: $("bot-instruction").value || null,
    parameters: { do_sample: !$("bot-steady").checked },
  };
  if (!(await carryOut($("bot-dialog"), () => api.createBot(wanted)))) return;
  event.target.reset();
  attempt(async () => {
    await loadBots(id);
    showSide(false);
    $("message").focus();
  });
});
$("show-side").addEventListener("click", () => showSide(!$("side").classList.contains("shown")));
$("show-knowledge").addEventListener("click", () => {
  if ($("knowledge").hidden) attempt(() => showKnowledge(null));
  else hideKnowledge();
});
$("hide-knowledge").addEventListener("click", hideKnowledge);
$("edit-knowledge").addEventListener("click", openEditor);
$("cancel-edit").addEventListener("click", () => {
  if (leaveEditor() && state.etag === null) attempt(reread);
});
$("editor").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value;
  attempt(() => learn(() => api.saveKnowledge(state.bot, text, state.etag)));
});
$("document").addEventListener("change", () => {
  const [file] = $("document").files;
  $("document").value = "";
  if (file && leaveEditor()) attempt(() => learn(() => api.uploadKnowledge(state.bot, file, state.etag)));
});
$("show-settings").addEventListener("click", () => attempt(showSettings));
$("settings-dialog").querySelector("form").addEventListener("submit", saveSettings);
$("delete-bot").addEventListener("click", () => {
  if (!confirm(`Delete the bot ${state.bot} with its knowledge and all its conversations?`)) return;
  $("settings-dialog").close();
  attempt(async () => {
    const id = state.bot;
    await api.deleteBot(id);
    closeEditor(); // what was written for it has nowhere to go
    memory.change((all) => { delete all.bots?.[id]; });
    await loadBots();
  });
});
for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
$("problem").querySelector("button").addEventListener("click", () => { $("problem").hidden = true; });
$("key-dialog").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  api.key.set($("key").value.trim());
  if (!(await carryOut($("key-dialog"), api.listBots))) return;
  $("key").value = "";
  attempt(() => loadBots(state.bot));
});
// Nothing works without a key. Browsers let a second Escape through whatever the first was told: hence both.
$("key-dialog").addEventListener("cancel", (event) => event.preventDefault());
$("key-dialog").addEventListener("close", () => {
  if ($("key-dialog").returnValue !== "done") $("key-dialog").showModal();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  showSide(false);
  if ($("editor").hidden) hideKnowledge();
  else if (!unsaved()) closeEditor();
});
addEventListener("beforeunload", (event) => {
  if (unsaved()) event.preventDefault(); // the browser asks
});

applyTheme();
attempt(() => loadBots());
