// Bars of memory, by kind.

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
