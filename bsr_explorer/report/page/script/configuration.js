// One configuration: what it comes to, block by block, and how to have it.

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
  const [quality, ...spread] = trial.said.split(" (");
  for (const [name, value, more] of [
    [capital(data.quality.name), quality, spread.length ? spread.join(" (").replace(")", "") : "one seed"],
    ["Memory", `${mb(trial.bytes)} MB`, `${number(trial.bytes / 2 ** 20, 1)} MiB, ${less(data.full.bytes / trial.bytes)} than full`],
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
    ["Fresh seeds", trial.fresh.map(([n, a]) => `${a ?? "none"} (trial ${n})`).join(", ")],
    ["Peak of a step", bothUnits(trial.totals.peak_bytes)],
    ["Saved activations", bothUnits(trial.totals.saved_bytes)],
    ["FLOPs forward", gflops(trial.totals.forward_flops)],
    ["FLOPs of a step", `${gflops(trial.totals.train_flops)}, ${less(data.full.totals.train_flops / trial.totals.train_flops)} than full`],
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
