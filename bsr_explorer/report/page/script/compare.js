// Two configurations beside each other.

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
  if (a.score !== undefined || b.score !== undefined) {
    const both = a.score !== undefined && b.score !== undefined;
    const { name, points: unit, decimals } = data.quality;
    const points = both ? b.drawn - a.drawn : 0;
    const change = !both ? "" : points ? `${points > 0 ? "+" : "−"}${number(Math.abs(points), decimals)} ${unit}`.trim() : "same";
    rows.push([capital(name), a.said, b.said, change]);
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
