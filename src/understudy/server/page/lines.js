// What was said, as a play is printed: who, and the words; calls of functions as stage directions.

import { byId, make } from "./dom.js";

const lines = byId("lines");
const isAtEnd = () => lines.scrollHeight - lines.scrollTop - lines.clientHeight < 80;

function add(element) {
  const follow = isAtEnd();
  lines.append(element);
  if (follow) lines.scrollTop = lines.scrollHeight;
  return element;
}

export const clear = () => lines.replaceChildren();

export function addLine(who, text, kind) {
  const words = make("p", { class: "words", text });
  add(make("article", { class: `said ${kind}` }, make("h3", { class: "who", text: who }), words));
  return words;
}

export function addNote(text) {
  add(make("p", { class: "note quiet", text }));
}

/** A line that is being said. */
export class Speech {
  constructor(who) {
    this.who = who;
    this.article = add(make("article", { class: "said character speaking" }, make("h3", { class: "who", text: who })));
    this.words = null;
    this.text = "";
  }

  push(text) {
    const follow = isAtEnd();
    if (!this.words) {
      this.words = make("p", { class: "words" });
      this.article.append(this.words);
      text = text.replace(/^\n/, "");
    }
    this.words.append(text);
    this.text += text;
    if (follow) lines.scrollTop = lines.scrollHeight;
  }

  /** A call; `answer` is told what the game gives. */
  call(event, answer) {
    const input = make("input", { type: "text", value: '{"ok": true}', "aria-label": `Result of ${event.name}`, spellcheck: "false" });
    const form = make(
      "form",
      {
        class: "give",
        onsubmit: (submitted) => {
          submitted.preventDefault();
          form.querySelectorAll("input, button").forEach((one) => (one.disabled = true));
          answer(input.value);
        },
      },
      input,
      make("button", { type: "submit", text: "Give the result" }),
    );
    const card = make(
      "div",
      { class: "call", "data-call": event.id },
      make("p", { class: "direction" }, make("b", { text: event.name }), " ", make("code", { text: pretty(event.arguments) })),
      form,
    );
    this.article.append(card);
    this.words = null;
    lines.scrollTop = lines.scrollHeight;
    input.focus();
    input.select();
  }

  result(event) {
    const card = this.article.querySelector(`[data-call="${CSS.escape(event.id)}"]`);
    const given = make("p", { class: event.status === "ok" ? "given" : "given wrong" }, "gave ", make("code", { text: event.content }));
    card?.querySelector("form")?.replaceWith(given);
  }

  end(facts) {
    this.article.classList.remove("speaking");
    this.article.querySelectorAll(".give").forEach((form) => form.remove());
    this.article.append(make("p", { class: "figures", text: facts }));
    if (isAtEnd() || lines.scrollHeight - lines.scrollTop - lines.clientHeight < 200) lines.scrollTop = lines.scrollHeight;
  }
}

function pretty(text) {
  try {
    return Object.entries(JSON.parse(text || "{}"))
      .map(([name, value]) => `${name}: ${JSON.stringify(value)}`)
      .join(", ");
  } catch {
    return text;
  }
}
