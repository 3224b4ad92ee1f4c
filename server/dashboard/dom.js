// Elements, tables and figures as text.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function table(head, rows) {
  const cells = (name, row) => row.map((cell) => element(name, name === "th" ? { scope: "col" } : {}, cell));
  return element("div", { class: "table" }, element("table", {},
    element("thead", {}, element("tr", {}, ...cells("th", head))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells("td", row))))));
}

export const percent = (fraction) => (fraction === null || fraction === undefined ? "–" : `${(100 * fraction).toFixed(1)} %`);
export const seconds = (value) => (value === null || value === undefined ? "–" : value < 120 ? `${value.toPrecision(3)} s` : `${(value / 60).toPrecision(3)} min`);
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const unit = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (count >= 1000 && step < 4) { count /= 1000; step += 1; }
  return `${count.toPrecision(3)} ${unit[step]}`;
}
