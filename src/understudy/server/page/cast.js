// Who can come on stage: the server's characters, cards from files, cards edited here.

import { byId, make, portray } from "./dom.js";

const MAX_FILE_BYTES = 3 * 1024 * 1024;
const FIELDS = [
  ["name", "Name", 1],
  ["role", "Role", 1],
  ["description", "Looks and history", 5],
  ["personality", "Personality", 2],
  ["speech_style", "How it speaks", 2],
  ["scenario", "Scene", 2],
  ["first_mes", "Greeting", 2],
  ["system_prompt", "Own instructions", 2],
];

/** The radio buttons of the cast; arrows move through them as in any group. */
export function showPeople(people, onChoose) {
  byId("people").replaceChildren(
    ...people.map((one) => {
      const medal = make("span", { class: "medal", "aria-hidden": "true" });
      portray(medal, one.name, one.picture);
      return make(
        "label",
        { class: "person" },
        make("input", { type: "radio", name: "person", value: one.id, onchange: () => onChoose(one.id) }),
        medal,
        make("span", { class: "person-name" }, make("b", { text: one.name }), make("small", { text: one.role || "from a card" })),
      );
    }),
  );
}

export function markPerson(id) {
  for (const input of byId("people").querySelectorAll("input")) input.checked = input.value === id;
}

function base64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(binary);
}

/** What a file holds: `{session}`, or `{card}` or `{card_file, picture}`. */
export async function readFile(file) {
  if (file.size > MAX_FILE_BYTES) throw new Error(`${file.name} is larger than 3 MiB. Take pictures and other data out of it.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const isPng = bytes[0] === 0x89 && bytes[1] === 0x50;
  if (isPng || (bytes[0] === 0x50 && bytes[1] === 0x4b)) {
    return { card_file: base64(bytes), picture: isPng ? URL.createObjectURL(file) : null };
  }
  let value;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new Error(`${file.name} is neither a picture with a card nor JSON. Export the character again.`);
  }
  if (value && value.format === "understudy-session") return { session: value };
  return { card: value };
}

/** Take files that are dropped anywhere on the page, or chosen. */
export function acceptFiles(onFile) {
  const chooser = byId("file");
  const open = () => chooser.click();
  byId("drop").addEventListener("click", open);
  byId("open").addEventListener("click", open);
  chooser.addEventListener("change", () => {
    if (chooser.files[0]) onFile(chooser.files[0]);
    chooser.value = "";
  });
  let depth = 0;
  const over = (by) => {
    depth = Math.max(depth + by, 0);
    document.body.classList.toggle("dropping", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    if (event.dataTransfer.files[0]) onFile(event.dataTransfer.files[0]);
  });
}

/** The card's fields in a dialogue; `onDone` is given the changed card. */
export function edit(card, onDone) {
  const dialog = byId("editor");
  const inside = card.spec && card.data ? card.data : card;
  byId("editor-fields").replaceChildren(
    ...FIELDS.map(([name, label, rows]) => {
      const value = typeof inside[name] === "string" ? inside[name] : "";
      const field = rows > 1 ? make("textarea", { rows, text: value }) : make("input", { type: "text", value });
      field.id = `field-${name}`;
      field.required = name === "name";
      return make("p", {}, make("label", { for: field.id, text: label }), field);
    }),
  );
  byId("editor-cancel").onclick = () => dialog.close();
  byId("editor-form").onsubmit = (event) => {
    event.preventDefault();
    const changed = { ...inside };
    for (const [name] of FIELDS) {
      const value = byId(`field-${name}`).value.trim();
      if (value || name in changed) changed[name] = value;
    }
    dialog.close();
    onDone(inside === card ? changed : { ...card, data: changed });
  };
  dialog.showModal();
}
