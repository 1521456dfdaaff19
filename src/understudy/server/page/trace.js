// "Why did it say that": the parts of the prompt, the lore with its reasons, what stayed out.

import { make, number } from "./dom.js";

const NAMES = {
  persona: "Who it is",
  tools: "Functions",
  lore: "Lore",
  history: "What was said",
  line: "Your line",
  turn: "Calls and results",
};

const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

function details(part) {
  if (part.part === "tools" && part.names.length) return part.names.join(", ");
  if (part.part === "history" && part.lines) return plural(part.lines, "message", "messages");
  return "";
}

function budget(why) {
  const { prompt_tokens: used, context_tokens: room, answer_tokens: kept, cached_tokens: cached } = why.budget;
  const parts = why.parts.filter((part) => part.tokens > 0);
  const told = parts.map((part) => `${NAMES[part.part]} ${part.tokens}`).join(", ");
  const bar = make("div", { class: "bar-of-parts", role: "img", "aria-label": `${used} tokens: ${told}` });
  const rows = [];
  for (const part of parts) {
    const slice = make("span", { class: `slice ${part.part}` });
    slice.style.flexGrow = part.tokens;
    bar.append(slice);
    rows.push(
      make(
        "tr",
        {},
        make("th", { scope: "row" }, make("span", { class: `swatch ${part.part}` }), NAMES[part.part]),
        make("td", { class: "quiet", text: details(part) }),
        make("td", { class: "figure", text: number(part.tokens) }),
      ),
    );
  }
  const meter = make("div", { class: "meter", role: "img", "aria-label": `${used} of ${room} tokens of context` });
  for (const [kind, tokens] of [["used", used], ["kept", kept], ["free", Math.max(room - used - kept, 0)]]) {
    const piece = make("span", { class: kind });
    piece.style.flexGrow = tokens;
    meter.append(piece);
  }
  const fresh = cached === undefined ? "" : ` · ${number(cached)} from cache`;
  return [
    make("h3", { text: "The prompt" }),
    make("p", { class: "sum" }, make("b", { text: number(used) }), ` of ${number(room)} tokens${fresh}`),
    meter,
    bar,
    make("table", { class: "parts" }, make("caption", { class: "hidden", text: "Tokens by part" }), make("tbody", {}, ...rows)),
  ];
}

function passage(found) {
  const facts = [];
  if (found.kept) facts.push(plural(found.tokens, "token", "tokens"));
  if (found.score !== undefined) facts.push(`score ${found.score.toFixed(2)}`);
  if (found.source !== "world") facts.push(found.source);
  return make(
    "li",
    { class: found.kept ? "passage kept" : "passage dropped" },
    make("p", { class: "title" }, make("b", { text: found.title || found.id }), make("span", { class: "quiet", text: facts.join(" · ") })),
    make("p", { class: "reason" }, ...reason(found)),
    found.text ? make("details", {}, make("summary", { text: "Read it" }), make("p", { class: "lore-text", text: found.text })) : null,
  );
}

function reason(found) {
  if (!found.matched) return [found.why];
  const called = ["called up by ", ...found.matched.flatMap((word, at) => [at ? ", " : "", make("mark", { text: word })])];
  return found.kept ? called : [`${found.why}; `, ...called];
}

/** What `/v1/npcs/{id}/why` tells, as elements. */
export function trace(why) {
  const shown = budget(why);
  if (why.dropped_exchanges) {
    const count = plural(why.dropped_exchanges, "exchange", "exchanges");
    shown.push(make("p", { class: "trouble", text: `The oldest ${count} no longer fit and stayed out.` }));
  }
  const kept = why.lore.filter((found) => found.kept);
  const dropped = why.lore.filter((found) => !found.kept);
  shown.push(make("h3", { text: "Lore that went in" }));
  if (kept.length) shown.push(make("ul", { class: "passages" }, ...kept.map(passage)));
  else shown.push(make("p", { class: "quiet", text: "None: nothing that it knows was spoken of." }));
  if (dropped.length) {
    shown.push(make("h3", { text: "Lore that stayed out" }), make("ul", { class: "passages" }, ...dropped.map(passage)));
  }
  return shown;
}
