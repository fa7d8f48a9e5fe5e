"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const trials = data.trials;
  const byBytes = [...trials].sort((a, b) => a.bytes - b.bytes || a.accuracy - b.accuracy || a.number - b.number);
  const numbered = new Map(trials.map((trial) => [String(trial.number), trial]));
  const state = {
    budget: data.budget,
    log: true,
    chosen: data.recommended,
    picked: false, // until something is, the recommended configuration is shown
    focused: null,
  };

  // --- small things ------------------------------------------------------------------------------------

  const at = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  /** An element with attributes and children; text is only ever text. */
  function make(parent, name, attributes = {}, ...children) {
    const svg = parent === SVG || parent instanceof SVGElement;
    const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    if (parent instanceof Element) parent.append(made);
    return made;
  }

  /** With so many decimals, or as many more as its first two digits take: see format_number in units.py. */
  function number(value, digits = 0) {
    const place = value % 1 ? Number(Math.abs(value).toExponential(1).split("e")[1]) : 1;
    const decimals = Math.min(20, Math.max(digits, 1 - place));
    return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }
  /** A round number, such as an axis has, as it is. */
  const round = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 12 });
  const mb = (bytes, digits = 1) => number(bytes / 1e6, digits);
  const bothUnits = (bytes, digits = 1) => `${mb(bytes, digits)} MB (${number(bytes / 2 ** 20, digits)} MiB)`;
  const gflops = (flops) => `${number(flops / 1e9, 1)} GFLOPs`;
  const percent = (value, digits = 1) => `${number(100 * value, digits)}%`;
  const quoted = (word) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`;
  const profile = (method, batch) =>
    data.profile
      .map((word) => (word === "<method>" ? method : word === "<batch>" ? String(batch) : word))
      .map(quoted)
      .join(" ");

  function hear(text) {
    at("heard").textContent = text;
  }

  /** Bytes of "1.5GB"; null if it cannot be read. Without a unit it says nothing. */
  function parseBytes(text) {
    const match = /^\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*$/.exec(text);
    const bytes = match && Object.hasOwn(data.units, match[2]) ? Math.round(match[1] * data.units[match[2]]) : 0;
    return bytes > 0 && Number.isSafeInteger(bytes) ? bytes : null;
  }

  function copyButton(parent, text, what) {
    const button = make(parent, "button", { type: "button", "aria-label": `Copy: ${what}` }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text());
        button.textContent = "Copied";
        hear("Copied");
      } catch {
        button.textContent = "Not allowed";
        hear("The browser does not allow copying; select the text instead");
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    return button;
  }

  // --- fronts ------------------------------------------------------------------------------------------

  /** The trials within a budget that no other beats in memory without losing accuracy, least memory first. */
  function frontOf(budget) {
    const ahead = [];
    const within = trials.filter((trial) => trial.bytes <= budget);
    within.sort((a, b) => a.bytes - b.bytes || b.accuracy - a.accuracy || a.number - b.number);
    for (const trial of within) {
      if (!ahead.length || trial.accuracy > ahead.at(-1).accuracy) ahead.push(trial);
    }
    return ahead;
  }

  /** The least memory whose accuracy cannot be told from the best. */
  function recommend(ahead) {
    const best = ahead.at(-1);
    return best && ahead.find((trial) => trial.accuracy >= best.accuracy - best.error);
  }

  // --- axes --------------------------------------------------------------------------------------------

  function niceStep(span, count) {
    const rough = span / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  }

  function linearTicks(low, high, count) {
    const step = niceStep(high - low, count);
    const ticks = [];
    for (let tick = Math.ceil(low / step); tick * step <= high; tick++) ticks.push(Number((tick * step).toPrecision(12)));
    return ticks;
  }

  /** Round numbers, as many as stand at least so many pixels apart. */
  function logTicks(low, high, x, apart) {
    for (const factors of [[1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 1.5, 2, 3, 5, 7], [1, 2, 3, 5], [1, 2, 5], [1, 3], [1]]) {
      const ticks = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        ticks.push(...factors.map((factor) => Number((factor * 10 ** power).toPrecision(12))));
      }
      const inside = ticks.filter((tick) => tick >= low && tick <= high);
      const roomy = inside.slice(1).every((tick, before) => Math.abs(x(tick) - x(inside[before])) >= apart);
      if (inside.length > 2 && roomy) return inside;
    }
    return linearTicks(low, high, 4);
  }

  function scale(low, high, from, to, log) {
    const bend = log ? Math.log : (value) => value;
    const [start, end] = [bend(low), bend(high)];
    return (value) => from + ((bend(value) - start) / (end - start)) * (to - from);
  }

  // --- the front ---------------------------------------------------------------------------------------

  const plot = at("plot");
  const tip = make(plot, "div", { class: "tip", hidden: true });
  let marks = new Map();

  function drawFront() {
    const [width, height] = [plot.clientWidth, plot.clientHeight];
    const margin = { left: 46, right: 14, top: 26, bottom: 42 };
    plot.querySelector("svg")?.remove();
    const svg = make(SVG, "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Accuracy against memory" });
    plot.prepend(svg);
    const sizes = [...trials.map((trial) => trial.bytes), data.full.bytes, data.budget, state.budget].map((b) => b / 1e6);
    const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
    const [low, high] = state.log ? [least / 1.15, most * 1.12] : [0, most * 1.05];
    const ends = trials.flatMap((t) => [100 * (t.accuracy - (t.deviation ?? 0)), 100 * (t.accuracy + (t.deviation ?? 0))]);
    const room = 0.08 * Math.max(Math.max(...ends) - Math.min(...ends), 2);
    const [bottom, top] = [Math.max(0, Math.min(...ends) - room), Math.max(...ends) + room];
    const x = scale(low, high, margin.left, width - margin.right, state.log);
    const y = scale(bottom, top, height - margin.bottom, margin.top, false);
    const [floor, ceiling] = [height - margin.bottom, margin.top];

    const frame = make(svg, "g", { "aria-hidden": "true" });
    for (const tick of linearTicks(bottom, top, Math.max(3, height / 45))) {
      make(frame, "line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) });
      make(frame, "text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, round(tick));
    }
    for (const tick of state.log ? logTicks(low, high, x, 44) : linearTicks(low, high, Math.max(3, (width - 60) / 68))) {
      make(frame, "line", { class: "gridline", x1: x(tick), x2: x(tick), y1: ceiling, y2: floor });
      make(frame, "text", { x: x(tick), y: floor + 18, "text-anchor": "middle" }, round(tick));
    }
    make(frame, "line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: floor, y2: floor });
    make(frame, "text", { x: width - margin.right, y: height - 4, "text-anchor": "end" }, data.axis);
    make(frame, "text", { x: 0, y: 12 }, "validation accuracy (%)");

    const limit = x(Math.min(Math.max(state.budget / 1e6, low), high));
    make(frame, "rect", { class: "over", x: limit, width: Math.max(0, width - margin.right - limit), y: ceiling, height: floor - ceiling });
    const full = x(data.full.bytes / 1e6);
    make(frame, "line", { class: "limit full", x1: full, x2: full, y1: ceiling, y2: floor });
    if (state.budget !== data.budget) {
      const own = x(data.budget / 1e6);
      make(frame, "line", { class: "limit own", x1: own, x2: own, y1: ceiling, y2: floor });
    }
    make(frame, "line", { class: "limit", id: "limit", x1: limit, x2: limit, y1: ceiling, y2: floor });
    const words = state.budget === data.budget ? "budget" : `${mb(state.budget, 0)} MB`;
    const side = limit > width * 0.75 ? "end" : limit < width * 0.25 ? "start" : "middle";
    make(frame, "text", { class: "strong", x: limit, y: ceiling - 7, "text-anchor": side }, words);

    const ahead = frontOf(state.budget);
    if (ahead.length) {
      let path = `M${x(ahead[0].bytes / 1e6)} ${y(100 * ahead[0].accuracy)}`;
      for (const trial of ahead.slice(1)) path += `H${x(trial.bytes / 1e6)}V${y(100 * trial.accuracy)}`;
      make(frame, "path", { class: "step", id: "step", d: `${path}H${Math.max(limit, x(ahead.at(-1).bytes / 1e6))}` });
    }

    const list = make(svg, "g", { role: "listbox", "aria-label": "Trained configurations, by memory", "aria-orientation": "horizontal" });
    marks = new Map();
    for (const trial of byBytes) drawPoint(list, trial, x(trial.bytes / 1e6), y(100 * trial.accuracy), y);
    const advised = recommend(ahead);
    if (advised) {
      const [px, py] = [x(advised.bytes / 1e6), y(100 * advised.accuracy)];
      const half = 36; // about half of the word's width
      const text = make(frame, "text", { class: "strong", "text-anchor": "middle" }, "recommended");
      text.setAttribute("x", Math.min(Math.max(px, margin.left + half), width - margin.right - half));
      const up = y(100 * (advised.accuracy + (advised.deviation ?? 0))) - 12;
      text.setAttribute("y", up > ceiling + 8 ? up : py + 24);
      svg.append(text);
      text.setAttribute("pointer-events", "none");
    }
    showStates();
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
    if (trial.deviation) {
      const [up, down] = [1, -1].map((sign) => y(100 * (trial.accuracy + sign * trial.deviation)) - py);
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

  // --- bars of memory ----------------------------------------------------------------------------------

  function stack(parts, most) {
    const svg = make(SVG, "svg", { class: "stack", "aria-hidden": "true" });
    let from = 0;
    for (const kind of data.kinds) {
      const size = parts[kind.key] ?? 0;
      if (!size) continue;
      const share = (bytes) => `${(100 * bytes) / most}%`;
      const rect = make(svg, "rect", { x: share(from), width: share(size), height: "100%", fill: kind.colour });
      make(rect, "title", {}, `${kind.name}: ${mb(size, 2)} MB`);
      from += size;
    }
    return svg;
  }

  const sum = (parts) => Object.values(parts).reduce((total, part) => total + part, 0);
  const fullest = (...all) => Math.max(1, ...all.flatMap((one) => one.blocks.map((block) => sum(block.held))));
  const tokens = (block) => (block.tokens ? [...new Set(block.tokens)].map((count) => number(count)).join("→") : "");

  function kindsOf(parts) {
    const list = make(null, "dl", { class: "kinds" });
    for (const kind of data.kinds) {
      if (!parts[kind.key]) continue;
      const swatch = make(SVG, "svg", { "aria-hidden": "true" });
      make(swatch, "rect", { width: "100%", height: "100%", fill: kind.colour });
      const row = make(list, "div");
      make(row, "dt", {}, make(null, "i", {}, swatch), kind.name);
      make(row, "dd", {}, `${mb(parts[kind.key])} MB`);
    }
    return list;
  }

  function totals(one) {
    const parts = {};
    for (const block of one.blocks) {
      for (const [kind, size] of Object.entries(block.held)) parts[kind] = (parts[kind] ?? 0) + size;
    }
    return parts;
  }

  function headings(table, ...names) {
    const row = make(make(table, "thead"), "tr");
    for (const [name, kind] of names) make(row, "th", { scope: "col", class: kind }, name);
    return make(table, "tbody");
  }

  // --- one configuration -------------------------------------------------------------------------------

  function choose(key, byHand) {
    state.chosen = key;
    state.picked ||= byHand;
    showStates();
    showDetails();
    if (byHand) {
      const trial = numbered.get(String(key));
      hear(`Trial ${key} is open: ${trial.said}, ${bothUnits(trial.bytes)}`);
    }
  }

  function showDetails() {
    const trial = numbered.get(String(state.chosen));
    const body = at("details-body");
    body.replaceChildren();
    body.dataset.trial = trial.number;
    at("details-title").textContent = `Trial ${trial.number}`;
    make(body, "code", { class: "method" }, trial.method);
    const figures = make(body, "dl", { class: "figures" });
    const [accuracy, ...spread] = trial.said.split(" (");
    for (const [name, value, more] of [
      ["Accuracy", accuracy, spread.length ? spread.join(" (").replace(")", "") : "one seed"],
      ["Memory", `${mb(trial.bytes)} MB`, `${number(trial.bytes / 2 ** 20, 1)} MiB, ${number(data.full.bytes / trial.bytes, 2)}× less than full`],
    ]) {
      const figure = make(figures, "div");
      make(figure, "dt", {}, name);
      make(make(figure, "dd", {}, value), "small", {}, more);
    }
    showValues(body, trial);
    showBlocks(body, trial);
    make(body, "h3", {}, "Command lines");
    const commands = make(body, "div", { class: "commands" });
    for (const [what, command] of Object.entries(trial.commands)) {
      const row = make(commands, "div", { class: "command" });
      make(row, "span", {}, what);
      make(row, "code", {}, command);
      copyButton(row, () => command, what);
    }
    const actions = make(body, "div", { class: "actions" });
    for (const side of ["a", "b"]) {
      const button = make(actions, "button", { type: "button" }, `Compare as ${side.toUpperCase()}`);
      button.addEventListener("click", () => {
        at(`compare-${side}`).value = String(trial.number);
        showComparison();
        hear(`Trial ${trial.number} is ${side.toUpperCase()} of the comparison`);
      });
    }
    make(actions, "a", { href: "#compare" }, "To the comparison");
  }

  function showValues(body, trial) {
    const values = make(body, "dl", { class: "values" });
    const said = [
      ["Fresh seeds", trial.fresh.map(([n, a]) => `${a === null ? "none" : percent(a)} (trial ${n})`).join(", ")],
      ["Peak of a step", bothUnits(trial.totals.peak_bytes)],
      ["Saved activations", bothUnits(trial.totals.saved_bytes)],
      ["FLOPs forward", gflops(trial.totals.forward_flops)],
      ["FLOPs of a step", `${gflops(trial.totals.train_flops)}, ${number(data.full.totals.train_flops / trial.totals.train_flops, 2)}× less than full`],
      ["Batch size", number(trial.batch)],
      ["Learning rate", trial.lr === null ? "" : String(trial.lr)],
      ["Trained on", trial.trained],
    ];
    for (const [name, value] of said) {
      if (!value) continue;
      make(values, "dt", {}, name);
      make(values, "dd", {}, value);
    }
  }

  function showBlocks(body, trial) {
    make(body, "h3", {}, "Memory by block, and tokens of an image");
    const table = make(body, "table", { class: "blocks" });
    const rows = headings(table, ["Block", ""], ["Tokens", "number"], ["What a step holds", "bars"], ["MB", "number"]);
    const most = fullest(trial);
    for (const block of trial.blocks) {
      const row = make(rows, "tr", { class: block.trains ? "trains" : null });
      make(row, "th", { scope: "row" }, block.name, block.trains ? " trains" : "");
      make(row, "td", { class: "number" }, tokens(block));
      make(row, "td", { class: "bars" }, stack(block.held, most));
      make(row, "td", { class: "number" }, mb(sum(block.held)));
    }
    body.append(kindsOf(totals(trial)));
    if (trial.peak) {
      const where = trial.peak.block === null ? "outside of the blocks" : `in block ${trial.peak.block}`;
      make(body, "h3", {}, "At the fullest moment");
      make(body, "p", { class: "note" }, `${trial.peak.phase}, ${where}, at ${trial.peak.operation}: ${bothUnits(trial.peak.bytes)}`);
      body.append(stack(trial.peak.alive, trial.peak.bytes), kindsOf(trial.peak.alive));
    }
  }

  // --- the budget --------------------------------------------------------------------------------------

  const slider = at("budget");
  const reach = (() => {
    const sizes = [...trials.map((trial) => trial.bytes), data.full.bytes, data.budget];
    if (data.grid) sizes.push(data.grid.least, data.grid.most, ...data.grid.beside.map(([, , bytes]) => bytes));
    return [Math.min(...sizes) * 0.95, Math.max(...sizes) * 1.05];
  })();
  const ratio = Math.log(reach[1] / reach[0]);
  /** A tenth of a megabyte apart, or less where that would leave fewer than three digits; and so it is written. */
  function bytesAt(place) {
    const bytes = reach[0] * Math.exp((ratio * place) / 1000);
    const step = Math.min(1e5, 10 ** Math.max(0, Math.floor(Math.log10(bytes)) - 2));
    return step * Math.round(bytes / step);
  }
  const placeOf = (bytes) => Math.min(1000, Math.max(0, Math.round((1000 * Math.log(bytes / reach[0])) / ratio)));

  function setBudget(bytes, from) {
    state.budget = bytes;
    const said = bothUnits(bytes);
    if (from !== "slider") slider.value = placeOf(bytes);
    if (from !== "text") at("budget-text").value = from === "start" ? data.written : `${round(bytes / 1e6).replaceAll(",", "")}MB`;
    slider.setAttribute("aria-valuetext", said);
    at("budget-said").textContent = `= ${said}`;
    at("budget-wrong").textContent = "";
    at("budget-text").removeAttribute("aria-invalid");
    const advised = recommend(frontOf(bytes));
    if (!state.picked && advised) {
      state.chosen = advised.number;
      showDetails();
    }
    drawFront();
    showAdvice(advised);
    showFitsSoon();
  }

  function showAdvice(advised) {
    const box = at("advice");
    box.replaceChildren();
    const within = trials.filter((trial) => trial.bytes <= state.budget).length;
    box.dataset.trial = advised ? advised.number : "";
    if (!advised) {
      box.append("Nothing that was trained fits this budget.");
      return;
    }
    const best = frontOf(state.budget).at(-1);
    const why = advised === best
      ? "it has the best accuracy, and none with less memory comes within its standard error"
      : `it is within one standard error (±${number(100 * best.error, 1)} points) of the best, ${best.said}, with ${percent(1 - advised.bytes / best.bytes, 0)} less memory`;
    box.append(`${within} of ${trials.length} trained configurations fit. Take `);
    const button = make(box, "button", { type: "button", class: "pick", "data-trial": advised.number }, `trial ${advised.number}`);
    button.addEventListener("click", () => choose(advised.number, true));
    box.append(`, ${advised.said} in ${mb(advised.bytes, 0)} MB: ${why}.`);
  }

  // --- all configurations ------------------------------------------------------------------------------

  /** Answers what fits a budget: unpacked bytes, or counts at some budgets where those would be too many. */
  let grid = null;

  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function openGrid(packed) {
    const [planes, bits] = [await inflate(packed.bytes), await inflate(packed.masks)];
    const rowBytes = Math.ceil(packed.depth / 8);
    const masks = bits.length / rowBytes;
    const trained = (mask) => {
      const blocks = [];
      for (let block = 0; block < packed.depth; block++) {
        if ((bits[(block >> 3) * masks + mask] >> (block & 7)) & 1) blocks.push(block);
      }
      return blocks;
    };
    const drops = packed.schedules.length;
    const size = packed.batch_sizes.length * drops * masks;
    const sizes = unpacked(planes, size, drops, masks, packed);
    const counted = Uint8Array.from({ length: masks }, (_, mask) => trained(mask).length);
    const dropping = packed.schedules.map(([keeps]) => Number(keeps.length > 0));
    const strata = () => Array.from({ length: packed.depth + 1 }, () => [0, 0]);
    const [all, least] = [strata(), strata().map(() => [Infinity, Infinity])];
    each((index, stratum, side) => {
      all[stratum][side]++;
      if (sizes[index] < least[stratum][side]) least[stratum][side] = sizes[index];
    });
    return { all, least, within };

    function each(see) {
      for (let row = 0; row < size / masks; row++) {
        const side = dropping[row % drops];
        for (let mask = 0; mask < masks; mask++) see(row * masks + mask, counted[mask], side);
      }
    }

    function within(budget) {
      const counts = strata();
      const near = []; // the largest that fit, largest first
      let next = Infinity;
      each((index, stratum, side) => {
        const bytes = sizes[index];
        if (bytes > budget) {
          if (bytes < next) next = bytes;
          return;
        }
        counts[stratum][side]++;
        if (near.length < NEAR || bytes > near.at(-1).bytes) {
          near.splice(near.findLastIndex((other) => other.bytes >= bytes) + 1, 0, { bytes, index });
          near.length = Math.min(near.length, NEAR);
        }
      });
      return { counts, next, near: near.map(describe) };
    }

    function describe({ bytes, index }) {
      const [keeps, fuse] = packed.schedules[Math.floor(index / masks) % drops];
      const batch = packed.batch_sizes[Math.floor(index / (masks * drops))];
      return { bytes, batch, method: expression(trained(index % masks), keeps, fuse) };
    }
  }

  const NEAR = 4;

  /** Bytes of every configuration, from differences along masks and schedules (see Layout in layout.py). */
  function unpacked(planes, size, drops, masks, packed) {
    const sizes = new Float64Array(size);
    for (let index = 0; index < size; index++) {
      let value = 0;
      for (let plane = planes.length / size - 1; plane >= 0; plane--) value = value * 256 + planes[plane * size + index];
      value = value % 2 ? -(value + 1) / 2 : value / 2;
      sizes[index] = value + (index % masks ? sizes[index - 1] : 0);
    }
    for (let index = masks; index < size; index++) {
      if (Math.floor(index / masks) % drops) sizes[index] += sizes[index - masks];
    }
    return sizes.map((steps) => packed.least + packed.unit * steps);
  }

  /** The method as it is written, and as Python prints it. */
  function expression(blocks, keeps, fuse) {
    const tuple = blocks.length === 1 ? `${blocks[0]},` : blocks.join(", ");
    const rates = keeps.map(([block, rate]) => `${block}: ${rate}`).join(", ");
    return `bsr(blocks=(${tuple}), keep={${rates}}, fuse=${fuse ? "True" : "False"})`;
  }

  function openSteps(packed) {
    const steps = packed.steps;
    const all = steps.counts.map((sides) => sides.map((counts) => counts.at(-1)));
    const least = steps.least.map((sides) => sides.map((bytes) => bytes ?? Infinity));
    const within = (budget) => {
      const place = steps.budgets.findLastIndex((step) => step <= budget);
      const counts = steps.counts.map((sides) => sides.map((each) => (place < 0 ? 0 : each[place])));
      return { counts, next: Infinity, near: [], step: place < 0 ? null : steps.budgets[place] };
    };
    return { all, least, within };
  }

  let waiting = false;

  /** Once a frame, however fast the budget moves. */
  function showFitsSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      showFits();
    });
  }

  function showFits() {
    if (!grid) return;
    const body = at("fits-body");
    const { rates, beside } = data.grid;
    const found = grid.within(state.budget);
    const besides = beside.filter(([, , bytes]) => bytes <= state.budget);
    const count = rates * (sum(found.counts.flat()) + besides.length);
    body.replaceChildren();
    body.dataset.fitting = count;
    const line = make(body, "p", { class: "count" }, `${number(count)} `);
    make(line, "small", {}, `of ${number(data.grid.size)} configurations take at most ${bothUnits(state.budget)}`);
    if ("step" in found) {
      const step = found.step === null ? "" : `; what stands here is for ${bothUnits(found.step)}`;
      make(body, "p", { class: "note" }, `They are too many to lie in this page one by one: they are counted at ${number(data.grid.steps.budgets.length)} budgets${step}.`);
    }
    const beyond = make(body, "ul", { class: "chips", "aria-label": "Beside the grid" });
    for (const [method, batch, bytes] of beside) {
      const fits = bytes <= state.budget;
      const which = data.grid.batch_sizes.length > 1 ? ` at batch ${batch}` : "";
      make(beyond, "li", { class: fits ? null : "out" }, `${method}${which}: ${mb(bytes)} MB, ${fits ? "fits" : "does not fit"}`);
    }
    showStrata(body, found, rates);
    showNear(body, found);
  }

  function showStrata(body, found, rates) {
    const sides = [0, 1].filter((side) => grid.all.some((counts) => counts[side] > 0));
    const names = ["All tokens", "Tokens dropped"];
    make(body, "h3", {}, "By number of trained blocks");
    const table = make(make(body, "div", { class: "wide" }), "table", { id: "strata" });
    const rows = headings(table, ["Blocks", ""], ...sides.map((side) => [names[side], ""]));
    grid.all.forEach((all, blocks) => {
      if (!sides.some((side) => all[side])) return;
      const row = make(rows, "tr");
      make(row, "th", { scope: "row" }, number(blocks));
      for (const side of sides) {
        const fit = found.counts[blocks][side];
        const cell = make(row, "td", { class: "fit", "data-fit": rates * fit });
        if (!all[side]) continue;
        const line = make(cell, "div", {}, make(null, "span", {}, `${number(rates * fit)} of ${number(rates * all[side])}`));
        make(line, "small", {}, `from ${mb(grid.least[blocks][side])} MB`);
        cell.append(share(fit / all[side]));
      }
    });
  }

  function share(part) {
    const svg = make(SVG, "svg", { "aria-hidden": "true" });
    make(svg, "rect", { class: "of", width: "100%", height: "100%", rx: 1.5 });
    make(svg, "rect", { class: "in", width: `${100 * part}%`, height: "100%", rx: 1.5 });
    return svg;
  }

  function showNear(body, found) {
    if (!found.near.length) return;
    make(body, "h3", {}, "Last to fit");
    const list = make(body, "ul", { class: "near" });
    for (const one of found.near) {
      const item = make(list, "li");
      make(item, "code", {}, one.method);
      const batch = data.grid.batch_sizes.length > 1 ? `, batch ${one.batch}` : "";
      make(item, "small", {}, bothUnits(one.bytes, 3) + batch);
      const button = copyButton(item, () => profile(one.method, one.batch), `the command that says what ${one.method} costs`);
      button.title = "Copy the command that says what it costs";
    }
    if (Number.isFinite(found.next)) make(body, "p", { class: "note" }, `The next to fit takes ${bothUnits(found.next, 3)}.`);
  }

  // --- two configurations ------------------------------------------------------------------------------

  const side = (name) => {
    const value = at(`compare-${name}`).value;
    return value === "full" ? { ...data.full, said: "not trained", number: null } : numbered.get(value);
  };

  function fillSelects() {
    for (const [name, start] of [["a", String(data.recommended)], ["b", "full"]]) {
      const select = at(`compare-${name}`);
      for (const trial of byBytes) {
        make(select, "option", { value: trial.number }, `trial ${trial.number} · ${trial.said} · ${mb(trial.bytes, 0)} MB · ${trial.method}`);
      }
      make(select, "option", { value: "full" }, `full fine-tuning, predicted · ${mb(data.full.bytes, 0)} MB`);
      select.value = start;
      select.addEventListener("change", () => {
        showComparison();
        hear(`A is ${side("a").method}, B is ${side("b").method}`);
      });
    }
  }

  function showComparison() {
    const [a, b] = [side("a"), side("b")];
    const body = at("compare-body");
    body.replaceChildren();
    body.dataset.pair = `${at("compare-a").value},${at("compare-b").value}`;
    const table = make(make(body, "div", { class: "wide" }), "table", { id: "differences" });
    const rows = headings(table, ["Of a step", ""], ["A", "number"], ["B", "number"], ["B against A", "number"]);
    const titles = make(rows, "tr");
    make(titles, "th", { scope: "row" }, "Method");
    for (const one of [a, b]) make(make(titles, "td", { class: "number" }), "code", {}, one.method);
    make(titles, "td");
    for (const [name, from, to, difference] of differences(a, b)) {
      const row = make(rows, "tr", { class: difference === "same" ? "same" : null });
      make(row, "th", { scope: "row" }, name);
      for (const text of [from, to, difference]) make(row, "td", { class: "number" }, text);
    }
    compareBlocks(body, a, b);
  }

  /** "0–6, 9" of 0, 1, 2, 3, 4, 5, 6 and 9. */
  function spans(blocks) {
    const ends = [];
    for (const block of blocks) {
      if (ends.length && ends.at(-1)[1] === block - 1) ends.at(-1)[1] = block;
      else ends.push([block, block]);
    }
    return ends.map(([low, high]) => (low === high ? low : `${low}–${high}`)).join(", ");
  }

  function differences(a, b) {
    const times = (from, to) => (from === to ? "same" : from && to ? `${number(to / from, 2)}×` : "");
    const bytes = (name, from, to) => [`${name}, MB`, mb(from), mb(to), times(from, to)];
    const flops = (name, key) => {
      const [from, to] = [a.totals[key], b.totals[key]];
      return [`${name}, GFLOPs`, number(from / 1e9, 1), number(to / 1e9, 1), times(from, to)];
    };
    const plain = (name, from, to) => [name, from, to, from === to ? "same" : ""];
    const trained = (one) => spans(one.blocks.flatMap((block) => (block.trains ? [Number(block.name)] : []))) || "none";
    const leaving = (one) => {
      const known = one.blocks.filter((block) => block.tokens);
      return known.length ? number(known.at(-1).tokens[1]) : "";
    };
    const rows = [];
    if (a.accuracy !== undefined || b.accuracy !== undefined) {
      const both = a.accuracy !== undefined && b.accuracy !== undefined;
      const points = both ? 100 * (b.accuracy - a.accuracy) : 0;
      const change = !both ? "" : points ? `${points > 0 ? "+" : "−"}${number(Math.abs(points), 1)} points` : "same";
      rows.push(["Accuracy", a.said, b.said, change]);
    }
    rows.push(bytes("Memory that counts", a.bytes, b.bytes));
    for (const [key, name] of [
      ["peak", "Peak of a step"],
      ["saved", "Saved activations"],
      ["parameter", "Parameters"],
      ["gradient", "Gradients"],
      ["optimizer", "Optimiser state"],
    ]) {
      rows.push(bytes(name, a.totals[`${key}_bytes`] ?? 0, b.totals[`${key}_bytes`] ?? 0));
    }
    rows.push(flops("Forward", "forward_flops"), flops("A step", "train_flops"));
    rows.push(plain("Trained blocks", trained(a), trained(b)), plain("Tokens at the end", leaving(a), leaving(b)));
    if (a.batch !== b.batch) rows.push(plain("Batch size", number(a.batch), number(b.batch)));
    if (a.lr !== b.lr) rows.push(plain("Learning rate", String(a.lr ?? "the recipe’s"), String(b.lr ?? "the recipe’s")));
    return rows;
  }

  function compareBlocks(body, a, b) {
    make(body, "h3", {}, "Memory by block, on one scale");
    const table = make(body, "table", { class: "blocks", id: "side-by-side" });
    const rows = headings(table, ["Block", ""], ["A", "bars"], ["MB", "number"], ["Tokens", "number optional"], ["B", "bars"], ["MB", "number"], ["Tokens", "number optional"]);
    const most = fullest(a, b);
    const names = [...new Set([...a.blocks, ...b.blocks].map((block) => block.name))];
    for (const name of names) {
      const row = make(rows, "tr");
      make(row, "th", { scope: "row" }, name);
      for (const one of [a, b]) {
        const block = one.blocks.find((each) => each.name === name) ?? { held: {}, tokens: null };
        make(row, "td", { class: "bars" }, stack(block.held, most));
        make(row, "td", { class: block.trains ? "number trains" : "number" }, mb(sum(block.held)));
        make(row, "td", { class: "number optional" }, tokens(block));
      }
    }
    const held = totals(a);
    for (const [kind, size] of Object.entries(totals(b))) held[kind] = Math.max(held[kind] ?? 0, size);
    const legend = kindsOf(held);
    for (const value of legend.querySelectorAll("dd")) value.remove();
    legend.classList.add("legend");
    body.append(legend);
    make(body, "p", { class: "note" }, "Bold: the block trains.");
  }

  // --- calibration -------------------------------------------------------------------------------------

  function drawCalibration() {
    const box = at("calibration-plot");
    if (!box || !data.measured.length) return;
    box.replaceChildren();
    const [width, height] = [box.clientWidth, box.clientHeight];
    const margin = { left: 52, right: 14, top: 26, bottom: 42 };
    const svg = make(SVG, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Measured against predicted memory; the table has the numbers" });
    box.append(svg);
    const values = data.measured.flatMap((one) => [one.predicted / 1e6, one.measured / 1e6]).filter((value) => value > 0);
    const [low, high] = [Math.min(...values) / 1.2, Math.max(...values) * 1.2];
    const x = scale(low, high, margin.left, width - margin.right, true);
    const y = scale(low, high, height - margin.bottom, margin.top, true);
    for (const tick of logTicks(low, high, x, 36)) {
      make(svg, "line", { class: "gridline", x1: x(tick), x2: x(tick), y1: margin.top, y2: height - margin.bottom });
      make(svg, "line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) });
      make(svg, "text", { x: x(tick), y: height - margin.bottom + 18, "text-anchor": "middle" }, round(tick));
      make(svg, "text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, round(tick));
    }
    make(svg, "line", { class: "step", x1: x(low), x2: x(high), y1: y(low), y2: y(high) });
    make(svg, "text", { x: width - margin.right, y: height - 4, "text-anchor": "end" }, "predicted (MB)");
    make(svg, "text", { x: 0, y: 12 }, "measured (MB)");
    const looks = { saved: ["#0072B2", "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z"], peak: ["#E69F00", "M0 -6L6 5L-6 5Z"] };
    for (const one of data.measured) {
      const [fill, d] = looks[one.kind];
      const mark = make(svg, "path", { class: "mark", d, fill, transform: `translate(${x(one.predicted / 1e6)} ${y(one.measured / 1e6)})` });
      make(mark, "title", {}, `trial ${one.trial}, ${one.kind}: predicted ${mb(one.predicted)} MB, measured ${mb(one.measured)} MB`);
    }
    Object.entries(looks).forEach(([kind, [fill, d]], row) => {
      make(svg, "path", { class: "mark", d, fill, transform: `translate(${margin.left + 16} ${margin.top + 14 + 18 * row})` });
      make(svg, "text", { x: margin.left + 28, y: margin.top + 18 + 18 * row }, kind);
    });
  }

  // --- all of it ---------------------------------------------------------------------------------------

  drawLegend();
  fillSelects();
  showDetails();
  setBudget(data.budget, "start");
  performance.mark("first-plot");
  showComparison();
  drawCalibration();

  slider.addEventListener("input", () => setBudget(bytesAt(Number(slider.value)), "slider"));
  at("budget-text").addEventListener("input", (event) => {
    const bytes = parseBytes(event.target.value);
    if (bytes !== null) {
      setBudget(bytes, "text");
      return;
    }
    event.target.setAttribute("aria-invalid", "true");
    at("budget-wrong").textContent = `Write a number and a unit, such as 1.5GB or 800MiB (${Object.keys(data.units).join(", ")}).`;
  });
  at("budget-reset").addEventListener("click", () => setBudget(data.budget, "start"));
  for (const radio of document.querySelectorAll("input[name=scale]")) {
    radio.addEventListener("change", () => {
      state.log = radio.value === "log";
      drawFront();
    });
  }
  for (const button of document.querySelectorAll("#trials button.pick")) {
    button.addEventListener("click", () => choose(Number(button.dataset.trial), true));
  }
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    drawFront();
    drawCalibration();
  }).observe(plot);

  if (data.grid) {
    const opened = data.grid.steps ? Promise.resolve(openSteps(data.grid)) : openGrid(data.grid);
    opened
      .then((made) => {
        grid = made;
        showFits();
        performance.mark("unpacked");
      })
      .catch((error) => {
        at("fits-body").textContent = `This browser cannot unpack the configurations (${error.message}).`;
      });
  }
})();
