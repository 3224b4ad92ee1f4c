// The dashboard: a table of experiments, one experiment live, several compared, and a form that launches one.
// Everything it shows comes from the REST API; a page is a function that fills <main>.

import { api, follow, onUnauthorised } from "./api.js";
import { accuracyChart, clientsChart, componentCharts, epsilonChart, gantt, overlay, pareto, participation } from "./charts.js";
import { form } from "./form.js";
import { bytes, element, percent, seconds, table } from "./dom.js";

const main = document.getElementById("main");
const status = document.getElementById("status");
let leave = new AbortController();

onUnauthorised(async () => {
  const dialog = document.getElementById("login");
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return document.getElementById("token").value;
});

const ENDED = ["finished", "stopped", "failed", "cancelled"];

async function experiments(signal) {
  const chosen = new Set();
  const body = element("div", { class: "table" });
  const compare = element("button", { disabled: "", onclick: () => (location.hash = `#/compare/${[...chosen].join(",")}`) }, "Compare chosen");
  main.replaceChildren(element("h2", {}, "Experiments"), element("div", { class: "actions" }, compare), body);
  while (!signal.aborted) {
    const { experiments: rows } = await api("GET", "experiments?limit=100", undefined, signal);
    const focused = document.activeElement?.dataset?.id;
    body.replaceChildren(
      rows.length
        ? table(["", "experiment", "status", "rounds", "accuracy", "uploaded", "owner", "submitted"], rows.map((row) => [
            element("input", {
              type: "checkbox", "aria-label": `compare ${row.id}`, "data-id": row.id, checked: chosen.has(row.id) ? "" : null,
              onchange: (event) => {
                event.target.checked ? chosen.add(row.id) : chosen.delete(row.id);
                compare.disabled = chosen.size < 2;
              },
            }),
            element("a", { href: `#/e/${row.id}` }, row.id), state(row.status), `${row.rounds}/${row.rounds_wanted}`,
            percent(row.accuracy), bytes(row.bytes_up), row.owner, row.created.slice(0, 19).replace("T", " "),
          ]))
        : element("p", {}, "None yet. ", element("a", { href: "#/new" }, "Launch one.")));
    if (focused) body.querySelector(`[data-id="${focused}"]`)?.focus();
    await pause(2000, signal);
  }
}

async function experiment(signal, id) {
  const head = element("h2", {}, id);
  const told = element("p", { id: "told" });
  const actions = element("div", { class: "actions" });
  const cards = element("dl", { class: "cards" });
  const charts = element("div", { class: "charts" });
  const failures = element("section");
  const gallery = element("section");
  const spec = element("pre", { tabindex: "0" });
  const log = element("pre", { tabindex: "0", id: "log" });
  const axis = element("select", { id: "axis", onchange: () => draw() },
    ...[["round", "round"], ["sim_s", "simulated time"], ["bytes_up", "bytes uploaded"], ["energy_j", "energy"]]
      .map(([value, text]) => element("option", { value }, text)));
  main.replaceChildren(head, told, actions, cards, element("div", { class: "actions" }, element("label", {}, "Against ", axis)), charts,
    failures, gallery, fold("Specification", spec), fold("Log", log));
  const rounds = [];
  let row = await api("GET", `experiments/${id}`, undefined, signal);
  spec.textContent = JSON.stringify(row.spec, null, 2);

  const act = (name, what) => element("button", {
    onclick: async () => {
      const made = await api("POST", `experiments/${id}/${what}`, {}, signal);
      say(`${made.id}: ${made.status}`);
      if (made.id !== id) location.hash = `#/e/${made.id}`;
      else watch().catch(unlessLeft(signal));
    },
  }, name);

  const show = () => {
    told.replaceChildren(state(row.status), row.reason ? `: ${row.reason}` : "");
    actions.replaceChildren(ENDED.includes(row.status) ? act("Resume", "resume") : act("Stop", "stop"), act("Run again", "clone"),
      element("button", { onclick: async () => open(URL.createObjectURL(await api("GET", `experiments/${id}/artifacts/report.html`, undefined, signal))) }, "Report"));
    const f = row.final;
    cards.replaceChildren(...[
      ["rounds", `${row.rounds}/${row.rounds_wanted}`], ["accuracy, mean", percent(f.accuracy_mean)], ["worst client", percent(f.accuracy_worst)],
      ["uploaded", bytes(f.bytes_up)], ["had it been dense", bytes(f.bytes_up_dense)], ["simulated", seconds(f.sim_s)],
      ["energy, at most", f.energy_j == null ? "–" : `${f.energy_j.toPrecision(3)} J`], ["epsilon", f.epsilon?.toPrecision(3) ?? "–"],
    ].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  };

  const draw = async () => {
    const clients = row.rounds ? await api("GET", `experiments/${id}/clients`, undefined, signal) : [];
    charts.replaceChildren();
    accuracyChart(charts, rounds, axis.value);
    clientsChart(charts, clients);
    participation(charts, rounds, clients.length);
    gantt(charts, rounds);
    componentCharts(charts, rounds);
    epsilonChart(charts, rounds);
    const failed = rounds.flatMap((line) => line.failed.map((one) => [String(line.round), String(one.client), fold(one.error.trim().split("\n").at(-1), element("pre", {}, one.error))]));
    failures.replaceChildren(...(failed.length ? [element("h3", {}, "Failures"), table(["round", "client", "error"], failed)] : []));
  };

  const refresh = async () => {
    row = await api("GET", `experiments/${id}`, undefined, signal);
    show();
    await draw();
  };

  const watch = async () => {
    let due = false;
    for await (const event of follow(`experiments/${id}/events`, rounds.at(-1)?.seq ?? 0, signal)) {
      if (event.event === "round" && !rounds.some((line) => line.round === event.data.round)) rounds.push({ ...event.data, seq: event.id });
      if (event.event === "end") break;
      if (!due) {
        due = true;
        setTimeout(() => { due = false; refresh().catch(unlessLeft(signal)); }, 300);
      }
    }
    await refresh();
    await samples(id, gallery, signal);
  };
  const print = async () => {
    for await (const event of follow(`experiments/${id}/logs/stream`, 0, signal)) {
      if (event.event === "line") log.append(`${event.data}\n`);
      if (event.event === "end") return;
    }
  };
  show();
  await Promise.all([watch(), print()]);
}

async function samples(id, where, signal) {
  const files = await api("GET", `experiments/${id}/artifacts`, undefined, signal);
  if (!files.some((file) => file.name === "samples.png")) return;
  const picture = await api("GET", `experiments/${id}/artifacts/samples.png`, undefined, signal);
  where.replaceChildren(element("h3", {}, "Generated samples"), element("img", { src: URL.createObjectURL(picture), alt: "Synthetic images, a row a class and client" }));
}

async function comparison(signal, ids) {
  const rows = await Promise.all(ids.split(",").map((id) => api("GET", `experiments/${id}`, undefined, signal)));
  const rounds = await Promise.all(rows.map((row) => api("GET", `experiments/${row.id}/rounds`, undefined, signal)));
  const charts = element("div", { class: "charts" });
  const specs = rows.map((row) => flat(row.spec));
  const keys = [...new Set(specs.flatMap(Object.keys))].sort();
  const differing = keys.filter((key) => new Set(specs.map((spec) => JSON.stringify(spec[key]))).size > 1);
  main.replaceChildren(
    element("h2", {}, "Comparison"),
    table(["experiment", "status", "rounds", "accuracy", "worst", "uploaded", "simulated", "energy, J", "epsilon"], rows.map((row) => [
      element("a", { href: `#/e/${row.id}` }, row.id), state(row.status), String(row.rounds), percent(row.final.accuracy_mean),
      percent(row.final.accuracy_worst), bytes(row.final.bytes_up), seconds(row.final.sim_s), row.final.energy_j?.toPrecision(3) ?? "–",
      row.final.epsilon?.toPrecision(3) ?? "–",
    ])),
    charts,
    element("h3", {}, "What differs"),
    table(["field", ...rows.map((row) => row.id)], differing.map((key) => [key, ...specs.map((spec) => JSON.stringify(spec[key]) ?? "–")])));
  overlay(charts, rows, rounds);
  pareto(charts, rows, "bytes_up", "bytes uploaded");
  pareto(charts, rows, "energy_j", "energy, J");
}

async function launch(signal) {
  await form(main, signal, async (spec) => {
    const made = await api("POST", "experiments", spec, signal);
    location.hash = `#/e/${made.id}`;
  });
}

const PAGES = [[/^#\/e\/(.+)$/, experiment], [/^#\/compare\/(.+)$/, comparison], [/^#\/new$/, launch], [/^/, experiments]];

async function route() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const [pattern, page] = PAGES.find(([one]) => one.test(location.hash));
  main.replaceChildren(element("p", { class: "muted" }, "Loading"));
  say("");
  try {
    await page(signal, location.hash.match(pattern)[1]);
  } catch (error) {
    if (!signal.aborted) main.append(element("p", { class: "problems", role: "alert" }, error.message));
  }
}

const state = (name) => element("span", { class: `state state-${name}` }, name);
const unlessLeft = (signal) => (error) => { if (!signal.aborted) say(error.message); };
const fold = (name, content) => element("details", {}, element("summary", {}, name), content);
const pause = (ms, signal) => new Promise((done) => { setTimeout(done, ms); signal.addEventListener("abort", done, { once: true }); });
const say = (text) => (status.textContent = text);

function flat(value, prefix = "") {
  return Object.assign({}, ...Object.entries(value).map(([key, one]) =>
    one && typeof one === "object" && !Array.isArray(one) ? flat(one, `${prefix}${key}.`) : { [prefix + key]: one }));
}

addEventListener("hashchange", route);
route();
