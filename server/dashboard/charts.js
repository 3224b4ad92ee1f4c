// Charts, by Plotly. Colours are Okabe and Ito's.

import { element } from "./dom.js";

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];
const AXES = { round: "round", sim_s: "simulated time, s", bytes_up: "bytes uploaded", energy_j: "energy, J" };

function chart(where, title, traces, layout = {}) {
  const section = element("section", {}, element("h3", {}, title));
  const holder = element("div", { class: "chart", role: "img", "aria-label": title });
  section.append(holder);
  where.append(section);
  const style = getComputedStyle(document.body);
  const ink = style.color, line = "rgba(128,128,128,0.25)";
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true };
  Plotly.react(holder, traces, {
    colorway: COLOURS, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, family: style.fontFamily },
    margin: { l: 48, r: 12, t: 8, b: 40 }, legend: { orientation: "h", y: -0.25 }, ...layout,
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { responsive: true, displayModeBar: false });
}

/** Values of an axis after each round: the round itself, or a sum so far. */
function along(rounds, key) {
  if (key === "round") return rounds.map((line) => line.round);
  let sum = 0;
  return rounds.map((line) => (sum += line[key] ?? 0));
}

export function accuracyChart(where, rounds, key) {
  const x = along(rounds, key);
  const judged = rounds.map((line, at) => [line, x[at]]).filter(([line]) => line.accuracy_mean !== null);
  const at = judged.map(([, value]) => value);
  const column = (name) => judged.map(([line]) => 100 * line[name]);
  chart(where, "Accuracy over clients, %", [
    { x: at, y: column("accuracy_p90"), mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" },
    { x: at, y: column("accuracy_p10"), mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: "rgba(0,114,178,0.2)", name: "10th to 90th percentile" },
    { x: at, y: column("accuracy_mean"), mode: "lines+markers", name: "mean", line: { color: COLOURS[0] } },
    { x: at, y: column("accuracy_worst"), mode: "lines", name: "worst", line: { color: COLOURS[1], dash: "dot" } },
  ], { xaxis: { title: { text: AXES[key] } } });
  chart(where, "Training loss", [{ x, y: rounds.map((line) => line.train_loss), mode: "lines", name: "loss" }], { xaxis: { title: { text: AXES[key] } } });
}

export function clientsChart(where, clients) {
  const judged = clients.filter((client) => client.accuracy !== null);
  if (!judged.length) return;
  chart(where, "Accuracy of each client, %", [
    { x: judged.map((one) => 100 * one.accuracy), type: "histogram", nbinsx: 20, name: "clients" },
  ], { xaxis: { title: { text: "accuracy, %" } }, yaxis: { title: { text: "clients" } } });
}

/** Who was asked in which round, and whether the update counted; many clients share a row, which then shows their mean. */
export function participation(where, rounds, clients) {
  const known = rounds.filter((line) => line.cohort);
  if (!known.length) return;
  const together = Math.ceil(clients / 100);
  const lost = (line) => new Set([...line.failed, ...(line.dropped ?? []), ...(line.left_out ?? [])].map((one) => one.client));
  const rows = Array.from({ length: Math.ceil(clients / together) }, () => known.map(() => 0));
  known.forEach((line, at) => {
    const without = lost(line);
    for (const client of line.cohort) rows[Math.floor(client / together)][at] += (without.has(client) ? 0.4 : 1) / together;
  });
  const y = rows.map((_, at) => at * together);
  chart(where, "Participation: who trained in which round", [{
    type: "heatmap", x: known.map((line) => line.round), y, z: rows, zmin: 0, showscale: false, colorscale: [[0, "rgba(128,128,128,0.12)"], [0.4, COLOURS[1]], [1, COLOURS[0]]],
    zmax: together === 1 ? 1 : undefined, xgap: 1, ygap: 1,
    hovertemplate: together === 1 ? "client %{y}, round %{x}<extra></extra>" : `clients from %{y}, ${together} of them, round %{x}<extra></extra>`,
  }], { xaxis: { title: { text: "round" } }, yaxis: { title: { text: together === 1 ? "client (orange: its update did not count)" : `client, ${together} a row` } } });
}

export function gantt(where, rounds) {
  const slow = rounds.filter((line) => line.straggler);
  if (!slow.length) return;
  let now = 0;
  const starts = new Map(rounds.map((line) => { const start = now; now += line.sim_s ?? 0; return [line.round, start]; }));
  const base = new Map(starts);
  chart(where, "Last client of each round, on the virtual clock", STEPS.map(([key, name, color]) => ({
    type: "bar", orientation: "h", name, marker: { color }, y: slow.map((line) => line.round), x: slow.map((line) => line.straggler[key]),
    base: slow.map((line) => { const start = base.get(line.round); base.set(line.round, start + line.straggler[key]); return start; }),
    text: slow.map((line) => `client ${line.straggler.client}, ${line.straggler.device}`), hovertemplate: "%{text}: %{x:.3g} s", textposition: "none",
  })), { barmode: "overlay", xaxis: { title: { text: "simulated time, s" } }, yaxis: { title: { text: "round" }, autorange: "reversed" } });
}

const STEPS = [["download_s", "download", COLOURS[5]], ["compute_s", "computing", COLOURS[0]], ["upload_s", "upload", COLOURS[1]]];

/** What simulated time and energy went into. */
export function componentCharts(where, rounds) {
  const known = rounds.filter((line) => line.client_mean);
  if (!known.length) return;
  const x = known.map((line) => line.round);
  const stacked = (name, color, y) => ({ type: "bar", name, x, y, marker: color ? { color } : {} });
  chart(where, "What a client's time goes into, s", STEPS.map(([key, name, color]) => stacked(name, color, known.map((line) => line.client_mean[key]))),
    { barmode: "stack", xaxis: { title: { text: "round" } } });
  const devices = [...new Set(known.flatMap((line) => Object.keys(line.energy_by_device_j)))].sort();
  chart(where, "Energy by device, J, at most", devices.map((device) => stacked(device, null, known.map((line) => line.energy_by_device_j[device] ?? 0))),
    { barmode: "stack", xaxis: { title: { text: "round" } } });
}

export function epsilonChart(where, rounds) {
  if (!rounds.some((line) => line.epsilon !== null)) return;
  chart(where, "Privacy spent: epsilon", [{ x: rounds.map((line) => line.round), y: rounds.map((line) => line.epsilon), mode: "lines", name: "epsilon" }],
    { xaxis: { title: { text: "round" } }, yaxis: { rangemode: "tozero" } });
}

export function overlay(where, rows, rounds) {
  for (const key of ["round", "bytes_up", "sim_s"]) {
    if (key === "sim_s" && !rows.every((row) => row.final.sim_s != null)) continue;
    chart(where, `Accuracy against ${AXES[key]}`, rows.map((row, at) => {
      const x = along(rounds[at], key);
      const judged = rounds[at].map((line, i) => [x[i], line.accuracy_mean]).filter(([, y]) => y !== null);
      return { x: judged.map(([one]) => one), y: judged.map(([, y]) => 100 * y), mode: "lines+markers", name: row.id };
    }), { xaxis: { title: { text: AXES[key] } }, yaxis: { title: { text: "accuracy, %" } } });
  }
}

/** Points, and the front of those that no other is at least as cheap and as accurate as. */
export function pareto(where, rows, key, title) {
  const points = rows.filter((row) => row.final[key] != null && row.final.accuracy_mean != null)
    .map((row) => ({ id: row.id, x: row.final[key], y: 100 * row.final.accuracy_mean })).sort((a, b) => a.x - b.x || b.y - a.y);
  if (points.length < 2) return;
  let best = -Infinity;
  const front = points.filter((point) => point.y > best && ((best = point.y), true));
  chart(where, `Accuracy against ${title}: Pareto front`, [
    { x: points.map((p) => p.x), y: points.map((p) => p.y), text: points.map((p) => p.id), mode: "markers", name: "experiments", marker: { size: 9 } },
    { x: front.map((p) => p.x), y: front.map((p) => p.y), mode: "lines", line: { shape: "hv", dash: "dot" }, name: "front" },
  ], { xaxis: { title: { text: title }, rangemode: "tozero" }, yaxis: { title: { text: "accuracy, %" } } });
}
