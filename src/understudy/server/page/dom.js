// Elements from data: texts are always text, never markup.

export const byId = (id) => document.getElementById(id);

/** An element; `on...` functions become listeners, `text` its words, other names attributes. */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A row of tabs as the ARIA practices describe them: arrows move, the chosen one alone is a tab stop. */
export function tabs(list, onChange) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const one of all) {
      one.setAttribute("aria-selected", one === tab);
      one.tabIndex = one === tab ? 0 : -1;
    }
    onChange(tab);
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const now = all.indexOf(document.activeElement);
    const next = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : step && now + step;
    if (next === undefined || now < 0) return;
    event.preventDefault();
    const tab = all[(next + all.length) % all.length];
    tab.focus();
    choose(tab);
  });
  return choose;
}

/** A letter in a circle, or the card's own picture. */
export function portray(medal, name, picture) {
  medal.replaceChildren();
  if (picture) medal.append(make("img", { src: picture, alt: "" }));
  else medal.textContent = [...name.replace(/^(Sergeant|Old|Sir|Lady|The|Brother|Sister|Captain|Doctor) /, "")][0] || "?";
}

export const number = (value) => value.toLocaleString("en");
