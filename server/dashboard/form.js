// The form that builds a spec from the schemas of its parts. Fields left empty are left out: the server's defaults hold.

import { api } from "./api.js";
import { element } from "./dom.js";

const FORBIDDEN = new Set(["path"]);

export async function form(main, signal, submit) {
  const [schema, ...catalogues] = await Promise.all([
    api("GET", "schema", undefined, signal), ...["data", "model", "strategy", "codec"].map((kind) =>
      api("GET", `catalogue/${{ data: "data", model: "models", strategy: "strategies", codec: "codecs" }[kind]}`, undefined, signal)),
  ]);
  const [data, models, strategies, codecs] = catalogues;
  const problems = element("ul", { class: "problems", role: "alert" });
  const sections = [
    fieldset("Experiment", "", { name: schema.properties.name, seed: schema.properties.seed }),
    fieldset("Federation", "federation", schema.$defs.FederationOptions.properties),
    chooser("Data", "data", "source", data, "digits"),
    chooser("Model", "model", "name", models, "lenet"),
    chooser("Strategy", "strategy", "name", strategies, "fedavg"),
    fieldset("Training", "train", schema.$defs.TrainOptions.properties),
    chooser("Upload", "upload", "codec", [{ name: "", summary: "Uncompressed.", options: {} }, ...codecs], ""),
    fieldset("Evaluation", "evaluate", schema.$defs.EvaluateOptions.properties),
  ];
  const more = element("textarea", { id: "more", spellcheck: "false", placeholder: '{"hardware": {"devices": {"raspberry-pi-5": 1}}}' });
  const launch = element("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      problems.replaceChildren();
      try {
        await submit(merge(read(launch), more.value.trim() ? JSON.parse(more.value) : {}));
      } catch (error) {
        problems.replaceChildren(...(error.problems ?? [error.message]).map((one) => element("li", {}, one)));
        problems.scrollIntoView();
      }
    },
  }, ...sections, element("label", {}, "Anything else, as JSON (hardware, privacy, nested options)", more),
  element("div", { class: "actions" }, element("button", { class: "main" }, "Launch")));
  main.replaceChildren(element("h2", {}, "New experiment"), problems, launch);
}

function fieldset(title, section, properties) {
  return element("fieldset", {}, element("legend", {}, title), ...fields(section, properties));
}

function chooser(title, section, key, entries, first) {
  const made = element("fieldset");
  const choice = element("select", { name: section ? `${section}.${key}` : key, onchange: () => show() },
    ...entries.map((entry) => element("option", { value: entry.name, selected: entry.name === first ? "" : null }, entry.name || "none")));
  const show = () => {
    const entry = entries.find((one) => one.name === choice.value);
    made.replaceChildren(element("legend", {}, title), element("label", {}, key, choice, element("small", {}, entry.summary)), ...fields(section, entry.options));
  };
  show();
  return made;
}

function fields(section, properties) {
  return Object.entries(properties).filter(([key, one]) => !FORBIDDEN.has(key) && simple(one)).map(([key, one]) => {
    const kind = simple(one);
    const name = section ? `${section}.${key}` : key;
    const input = kind.enum || kind.type === "boolean"
      ? element("select", { name }, element("option", { value: "" }, `default: ${one.default ?? "none"}`),
          ...(kind.enum ?? [true, false]).map((value) => element("option", { value: JSON.stringify(value) }, String(value))))
      : element("input", {
          name, type: kind.type === "string" ? "text" : "number", step: kind.type === "integer" ? "1" : "any", "data-type": kind.type,
          min: kind.minimum ?? null, max: kind.maximum ?? null, placeholder: one.default ?? "", pattern: kind.pattern ?? null,
        });
    return element("label", {}, key, input, element("small", {}, one.description ?? ""));
  });
}

/** The scalar kind of a field; undefined for what a form has no control for. */
function simple(one) {
  const candidates = one.anyOf ?? [one];
  return candidates.find((kind) => ["string", "number", "integer", "boolean"].includes(kind.type) || kind.enum);
}

function read(formElement) {
  const spec = {};
  for (const control of formElement.elements) {
    if (!control.name || control.value === "") continue;
    const path = control.name.split(".");
    const last = path.pop();
    let section = spec;
    for (const part of path) section = section[part] ??= {};
    section[last] = control.type === "number" ? Number(control.value) : control.tagName === "SELECT" ? parsed(control.value) : control.value;
  }
  return spec;
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return text; }
}

function merge(one, other) {
  const both = { ...one };
  for (const [key, value] of Object.entries(other)) {
    both[key] = value && typeof value === "object" && !Array.isArray(value) && typeof both[key] === "object" ? merge(both[key], value) : value;
  }
  return both;
}
