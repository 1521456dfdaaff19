// The playground: a character, a line, an answer, and what is behind it.

import * as api from "./api.js";
import { acceptFiles, edit, markPerson, readFile, showPeople } from "./cast.js";
import { note, program } from "./code.js";
import { byId, make, number, portray, tabs } from "./dom.js";
import { Speech, addLine, addNote, clear } from "./lines.js";
import { trace } from "./trace.js";

const DIALS = ["temperature", "top_p", "max_tokens", "seed"];
const FIRST_LINE = "Good evening. Who are you?";
const people = []; // of the server, and those who came by a card
let source = null; // what the character was made from, for a new conversation
let npc = null;
let functions = []; // schemas that the character may call
let speaking = null; // an AbortController while an answer comes
let request = null; // the chat completion on screen
let language = "python";

const where = () => `/v1/npcs/${npc.id}`;
const base = `${location.origin}/v1`;

function complain(error) {
  const box = byId("trouble");
  box.textContent = error ? error.message : "";
  box.hidden = !error;
  if (error && error.status === 401) byId("door").showModal();
}

/** Run an action of the person; what goes wrong is told. */
const guarded = (action) => async (...given) => {
  complain(null);
  try {
    return await action(...given);
  } catch (error) {
    complain(error);
    return undefined;
  }
};

let hasDials = false; // until the server has told how this model is drawn from by default
const settings = () =>
  Object.fromEntries(DIALS.slice(hasDials ? 0 : 2).map((name) => [name, Number(byId(name).value)]));

function showDials() {
  for (const name of DIALS) byId(`${name}-now`).textContent = byId(name).value;
}

const chosenTools = () =>
  functions.filter((tool) => byId("function-list").querySelector(`[value="${CSS.escape(tool.function.name)}"]`)?.checked);

function showFunctions(chosen) {
  byId("function-list").replaceChildren(
    ...functions.map(({ function: one }) =>
      make(
        "label",
        { class: "check", title: one.description },
        make("input", { type: "checkbox", value: one.name, checked: chosen.has(one.name), onchange: changeTools }),
        one.name,
      ),
    ),
  );
  byId("functions").hidden = functions.length === 0;
}

/** Put a character on stage, with what was said already. */
async function enter(made, { picture = null, id = null } = {}) {
  if (npc) api.leave(where());
  npc = made;
  const { name, role } = npc.character;
  byId("name").textContent = name;
  byId("role").textContent = role || "";
  byId("scene").textContent = people.find((one) => one.id === id)?.scenario || source.card?.scenario || source.card?.data?.scenario || "";
  portray(byId("portrait"), name, picture);
  markPerson(id);
  clear();
  if (npc.greeting) addLine(name, npc.greeting, "character");
  for (const message of npc.history) {
    if (message.role === "user") addLine(npc.player, message.content, "player");
    else if (message.role === "assistant" && message.content) addLine(name, message.content, "character");
    for (const call of message.tool_calls || []) addNote(`${call.function.name} ${call.function.arguments}`);
  }
  await look({ line: FIRST_LINE, ...settings() });
}

const settle = (made) => ({ picture: source.picture, id: source.id, ...made });

async function create() {
  const { character, card, card_file, world } = source;
  const player = byId("player").value.trim() || "traveller";
  const made = await api.post("/v1/npcs", { character, card, card_file, world, player, tools: chosenTools() });
  await enter(made, settle({}));
}

const choose = guarded(async (id) => {
  stop();
  const person = people.find((one) => one.id === id);
  source = person.source;
  const shown = source.character ? await api.get(`/v1/characters/${encodeURIComponent(source.character)}`) : null;
  functions = shown ? shown.tools : source.functions || [];
  showFunctions(new Set());
  source = { ...source, id, original: shown ? shown.card : source.card };
  await create();
  show("talk");
});

/** A card from a file or the editor becomes a person of the cast. */
async function welcome(found, tools = []) {
  const id = `card-${people.length}`;
  const held = { ...found, id, functions: tools };
  const made = await api.post("/v1/npcs", { card: found.card, card_file: found.card_file, world: found.world });
  api.leave(`/v1/npcs/${made.id}`);
  people.push({ id, name: made.character.name, role: made.character.role, picture: found.picture, source: held });
  showPeople(people, choose);
  await choose(id);
}

const takeFile = guarded(async (file) => {
  const found = await readFile(file);
  if (!found.session) return welcome(found);
  stop();
  functions = [];
  showFunctions(new Set());
  source = { card: found.session.card, original: found.session.card, world: found.session.world || undefined };
  return enter(await api.post("/v1/npcs/load", { session: found.session }));
});

/** Other functions, the same conversation. */
const changeTools = guarded(async () => {
  stop();
  const session = await api.post(`${where()}/save`);
  await enter(await api.post("/v1/npcs/load", { session, tools: chosenTools() }), settle({}));
});

/** Ask what would go in, or what went in, and show it. */
async function look(preview) {
  const mine = npc;
  const why = preview ? await api.post(`${where()}/why`, preview) : await api.get(`${where()}/why`);
  if (npc !== mine) return;
  request = why.request;
  if (!hasDials) setDials(request);
  if (!preview) byId("why").replaceChildren(...trace(why));
  showCode();
}

function setDials(values) {
  for (const name of DIALS) if (values[name] !== undefined) byId(name).value = values[name];
  hasDials = true;
  showDials();
}

function showCode() {
  if (!request) return;
  byId("code").textContent = program(language, request, { base, hasKey: api.hasKey() });
  byId("code").setAttribute("aria-labelledby", `tab-${language}`);
  byId("code-note").textContent = note(language);
}

function figures(end) {
  const { timing, usage } = end;
  const facts = [`first token ${Math.round(timing.first_token_s * 1000)} ms`];
  if (timing.tokens_per_s) facts.push(`${number(Math.round(timing.tokens_per_s))} tokens/s`);
  facts.push(`${usage.completion_tokens} tokens`, `seed ${end.seed}`);
  if (end.finish_reason === "length") facts.push("cut: longest answer reached");
  return facts.join(" · ");
}

const say = guarded(async () => {
  const line = byId("line").value.trim();
  if (!line || speaking || !npc) return;
  const mine = npc;
  const who = npc.character.name;
  speaking = new AbortController();
  busy(true);
  addLine(npc.player, line, "player");
  byId("line").value = "";
  grow();
  const speech = new Speech(who);
  try {
    for await (const event of api.stream(`${where()}/say`, { line, stream: true, ...settings() }, speaking.signal)) {
      if (event.type === "words") speech.push(event.text);
      else if (event.type === "call") speech.call(event, (content) => giveResult(event.id, content));
      else if (event.type === "result") speech.result(event);
      else speech.end(figures(event));
    }
    byId("heard").textContent = `${who}: ${speech.text}`;
  } catch (error) {
    speech.end(error.name === "AbortError" ? "stopped" : "broken off");
    if (error.name !== "AbortError") throw error;
  } finally {
    speaking = null;
    busy(false);
  }
  // A line that was stopped may belong to a character who has left the stage.
  if (npc === mine) await look(null);
});

const giveResult = guarded(async (id, content) => {
  await api.post(`${where()}/calls/${id}`, { content });
  byId("line").focus();
});

const stop = () => speaking?.abort();

function busy(is) {
  byId("say").hidden = is;
  byId("stop").hidden = !is;
  byId("lines").setAttribute("aria-busy", is);
  if (!is && matchMedia("(pointer: fine)").matches) byId("line").focus();
}

function grow() {
  const line = byId("line");
  line.style.height = "auto";
  line.style.height = `${Math.min(line.scrollHeight, 160)}px`;
}

function show(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll(".views button")) {
    button.toggleAttribute("aria-current", button.dataset.view === view);
    if (button.dataset.view === view) button.setAttribute("aria-current", "true");
  }
}

const keep = guarded(async () => {
  const text = JSON.stringify(await api.post(`${where()}/save`), null, 1);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: `${npc.character.id || "character"}.npc.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("understudy-theme", theme);
}

function wire() {
  byId("speak").addEventListener("submit", (event) => (event.preventDefault(), say()));
  byId("line").addEventListener("input", grow);
  byId("line").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), say());
  });
  byId("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
  byId("dials").addEventListener("submit", (event) => event.preventDefault());
  for (const name of DIALS) byId(name).addEventListener("input", showDials);
  byId("player").addEventListener("change", guarded(async () => (stop(), source && (await create()))));
  byId("anew").addEventListener("click", guarded(async () => (stop(), source && (await create()))));
  byId("save").addEventListener("click", () => npc && keep());
  byId("edit").addEventListener("click", () => {
    if (source?.original) edit(source.original, guarded((card) => welcome({ card, world: npc.world || undefined }, functions)));
    else complain(new Error("This card came as a picture; its text cannot be edited here. Drop its JSON instead."));
  });
  byId("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    paint((document.documentElement.dataset.theme || dark) === "dark" ? "light" : "dark");
  });
  for (const button of document.querySelectorAll(".views button")) button.addEventListener("click", () => show(button.dataset.view));
  tabs(byId("inspector"), (tab) => {
    for (const pane of ["why", "dials", "code"]) byId(`pane-${pane}`).hidden = tab.id !== `tab-${pane}`;
  });
  tabs(byId("languages"), (tab) => ((language = tab.id.slice(4)), showCode()));
  byId("copy").addEventListener("click", guarded(async () => {
    await navigator.clipboard.writeText(byId("code").textContent);
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy"), 1500);
  }));
  byId("door-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.setKey(byId("key").value);
    byId("door").close();
    open();
  });
  addEventListener("pagehide", () => npc && api.leave(where()));
  acceptFiles(takeFile);
}

const open = guarded(async () => {
  const [models, characters] = await Promise.all([api.get("/v1/models"), api.get("/v1/characters")]);
  byId("model").textContent = models.data[0].id;
  people.splice(0, people.length, ...characters.data.map((one) => ({ ...one, source: { character: one.id, picture: one.picture } })));
  byId("place").textContent = characters.data[0]?.world_name || "Cast";
  showPeople(people, choose);
  await choose(people.some((one) => one.id === "minnow") ? "minnow" : people[0].id);
});

const theme = localStorage.getItem("understudy-theme");
if (theme) paint(theme);
byId("seed").value = 7;
byId("max_tokens").value = 120;
byId("player").value = "traveller";
wire();
open();
