// What of all configurations fits the budget.

/** Answers what fits a budget: unpacked bytes, or counts at some budgets where those would be too many. */
let grid = null;

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
