// Accuracy, or another quality, against memory: every trained configuration, and the front within the budget.

/** The trials of the front within a budget, least memory first: what needs more memory beats nothing that needs less. */
const front = data.front.map((number) => numbered.get(String(number)));
const frontOf = (budget) => front.filter((trial) => trial.bytes <= budget);

/** The least memory whose score cannot be told from the best. */
function recommend(ahead) {
  const best = ahead.at(-1);
  return best && ahead.find((trial) => trial.score >= best.score - best.error);
}

const plot = at("plot");
const tip = make(plot, "div", { class: "tip", hidden: true });
let marks = new Map();

function drawFront() {
  const area = areaOf(plot, 46);
  plot.querySelector("svg")?.remove();
  const svg = make(SVG, "svg", { viewBox: `0 0 ${area.width} ${area.height}`, role: "group", "aria-label": `${capital(data.quality.name)} against memory` });
  plot.prepend(svg);
  const [x, y] = scalesOf(area);
  const across = state.log ? logTicksOf(x, 44) : ticksOf(x, 100);
  const frame = make(svg, "g", { "aria-hidden": "true" });
  drawAxes(frame, area, [x, across, data.axis], [y, ticksOf(y, 60), `validation ${data.quality.column}`]);
  const limit = drawLimits(frame, area, x);
  const ahead = frontOf(state.budget);
  if (ahead.length) {
    let path = `M${x(ahead[0].bytes / 1e6)} ${y(ahead[0].drawn)}`;
    for (const trial of ahead.slice(1)) path += `H${x(trial.bytes / 1e6)}V${y(trial.drawn)}`;
    make(frame, "path", { class: "step", id: "step", d: `${path}H${Math.max(limit, x(ahead.at(-1).bytes / 1e6))}` });
  }
  const list = make(svg, "g", { role: "listbox", "aria-label": "Trained configurations, by memory", "aria-orientation": "horizontal" });
  marks = new Map();
  for (const trial of byBytes) drawPoint(list, trial, x(trial.bytes / 1e6), y(trial.drawn), y);
  const advised = recommend(ahead);
  if (advised) drawAdvice(svg, area, advised, x, y);
  showStates();
}

/** Memory in megabytes across, accuracy in percent (or a perplexity) upwards: room for every trial, both budgets and full fine-tuning. */
function scalesOf(area) {
  const sizes = [...trials.map((trial) => trial.bytes), data.full.bytes, data.budget, state.budget].map((b) => b / 1e6);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const values = state.log ? [least / 1.15, most * 1.12] : [0, most * 1.05];
  const ends = trials.flatMap((t) => [t.drawn - t.spread, t.drawn + t.spread]);
  const room = 0.08 * Math.max(Math.max(...ends) - Math.min(...ends), 0.02 * Math.max(...ends), 1e-6);
  const drawn = [Math.max(0, Math.min(...ends) - room), Math.max(...ends) + room];
  return [scaleOf(state.log, values, [area.left, area.right]), scaleOf(false, drawn, [area.bottom, area.top])];
}

/** The budget with what is beyond it, the study's own budget, and full fine-tuning; returns where the budget stands. */
function drawLimits(frame, { left, right, top, bottom, width }, x) {
  const within = (pixels) => Math.min(Math.max(pixels, left), right);
  const line = (kind, bytes, id = null) => {
    const across = within(x(bytes / 1e6));
    make(frame, "line", { class: kind, id, x1: across, x2: across, y1: top, y2: bottom });
  };
  const limit = within(x(state.budget / 1e6));
  make(frame, "rect", { class: "over", x: limit, width: Math.max(0, right - limit), y: top, height: bottom - top });
  line("limit full", data.full.bytes);
  if (state.budget !== data.budget) line("limit own", data.budget);
  line("limit", state.budget, "limit");
  const words = state.budget === data.budget ? "budget" : `${mb(state.budget, 0)} MB`;
  const side = limit > width * 0.75 ? "end" : limit < width * 0.25 ? "start" : "middle";
  make(frame, "text", { class: "strong", x: limit, y: top - 7, "text-anchor": side }, words);
  return limit;
}

/** The word over what is recommended, or under it where there is no room. */
function drawAdvice(svg, { left, right, top }, advised, x, y) {
  const half = 36; // about half of the word's width
  const across = Math.min(Math.max(x(advised.bytes / 1e6), left + half), right - half);
  const up = y(advised.drawn + advised.spread) - 12;
  const upwards = up > top + 8 ? up : y(advised.drawn) + 24;
  make(svg, "text", { class: "strong", "text-anchor": "middle", "pointer-events": "none", x: across, y: upwards }, "recommended");
}

function drawPoint(list, trial, px, py, y) {
  const group = make(list, "g", {
    class: "point",
    role: "option",
    id: `trial-${trial.number}`,
    "data-trial": trial.number,
    tabindex: -1,
    transform: `translate(${px} ${py})`,
    "aria-label": `Trial ${trial.number}: ${trial.said}, ${bothUnits(trial.bytes)}, ${trial.method}`,
  });
  make(group, "circle", { class: "area", r: 13 });
  if (trial.spread) {
    const [up, down] = [1, -1].map((sign) => y(trial.drawn + sign * trial.spread) - py);
    make(group, "path", { class: "bar", stroke: trial.colour, d: `M0 ${up}V${down}M-3.5 ${up}H3.5M-3.5 ${down}H3.5` });
  }
  make(group, "circle", { class: "ring", r: 10.5 });
  make(group, "path", { class: "mark", d: trial.outline, fill: trial.colour, transform: "scale(11)" });
  group.addEventListener("click", () => choose(trial.number, true));
  group.addEventListener("pointerenter", () => showTip(trial, px, py));
  group.addEventListener("pointerleave", hideTip);
  group.addEventListener("focus", () => {
    state.focused = trial.number;
    showTip(trial, px, py);
    showStates();
  });
  group.addEventListener("blur", hideTip);
  group.addEventListener("keydown", (event) => {
    const here = byBytes.indexOf(trial);
    const goals = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: byBytes.length - 1 };
    if (event.key in goals) {
      const goal = byBytes[Math.min(Math.max(goals[event.key], 0), byBytes.length - 1)];
      marks.get(goal.number).focus();
    } else if (event.key === "Enter" || event.key === " ") {
      choose(trial.number, true);
    } else if (event.key === "Escape") {
      hideTip();
      return;
    } else return;
    event.preventDefault();
  });
  marks.set(trial.number, group);
}

/** Which points are beyond the budget, open, and next to be reached by Tab. */
function showStates() {
  const stop = state.focused ?? state.chosen;
  for (const [key, group] of marks) {
    const trial = numbered.get(String(key));
    group.classList.toggle("beyond", trial.bytes > state.budget);
    group.classList.toggle("chosen", key === state.chosen);
    group.setAttribute("aria-selected", String(key === state.chosen));
    group.setAttribute("tabindex", key === stop ? 0 : -1);
  }
  for (const button of document.querySelectorAll("#trials button.pick")) {
    const here = button.dataset.trial === String(state.chosen);
    button.closest("tr").classList.toggle("chosen", here);
    button.setAttribute("aria-pressed", String(here));
  }
}

function showTip(trial, px, py) {
  tip.replaceChildren();
  make(tip, "strong", {}, trial.said);
  make(tip, "span", {}, `${bothUnits(trial.bytes)}, trial ${trial.number}`);
  make(tip, "code", {}, trial.method);
  tip.hidden = false;
  const left = Math.min(Math.max(0, px - tip.offsetWidth / 2), plot.clientWidth - tip.offsetWidth);
  const above = py - tip.offsetHeight - 18;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > -8 ? above : py + 18}px`;
}

function hideTip() {
  tip.hidden = true;
}

function drawLegend() {
  const legend = at("legend");
  for (const family of data.families) {
    const icon = make(SVG, "svg", { width: 12, height: 12, viewBox: "-6 -6 12 12", "aria-hidden": "true" });
    make(icon, "path", { class: "mark", d: family.outline, fill: family.colour, transform: "scale(10)" });
    make(legend, "li", {}, icon, family.name);
  }
  const lines = [["step", "front"], ["limit", "budget"], ["limit full", `full fine-tuning, ${mb(data.full.bytes, 0)} MB`]];
  for (const [kind, name] of lines) {
    const icon = make(SVG, "svg", { width: 22, height: 12, "aria-hidden": "true" });
    make(icon, "line", { class: kind, x1: 0, x2: 22, y1: 6, y2: 6 });
    make(legend, "li", {}, icon, name);
  }
}
