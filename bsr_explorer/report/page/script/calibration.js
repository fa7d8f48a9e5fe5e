// Memory as it was measured against memory as it was predicted.

const LOOKS = { saved: ["#0072B2", "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z"], peak: ["#E69F00", "M0 -6L6 5L-6 5Z"] };

function drawCalibration() {
  const box = at("calibration-plot");
  if (!box || !data.measured.length) return;
  box.replaceChildren();
  const area = areaOf(box, 52);
  const svg = make(SVG, "svg", { viewBox: `0 0 ${area.width} ${area.height}`, role: "img", "aria-label": "Measured against predicted memory; the table has the numbers" });
  box.append(svg);
  const values = data.measured.flatMap((one) => [one.predicted / 1e6, one.measured / 1e6]).filter((value) => value > 0);
  const [low, high] = [Math.min(...values) / 1.2, Math.max(...values) * 1.2];
  const x = scaleOf(true, [low, high], [area.left, area.right]);
  const y = scaleOf(true, [low, high], [area.bottom, area.top]);
  const ticks = logTicksOf(x, 36);
  drawAxes(svg, area, [x, ticks, "predicted (MB)"], [y, ticks, "measured (MB)"]);
  make(svg, "line", { class: "step", x1: x(low), x2: x(high), y1: y(low), y2: y(high) });
  for (const one of data.measured) {
    const [fill, d] = LOOKS[one.kind];
    const mark = make(svg, "path", { class: "mark", d, fill, transform: `translate(${x(one.predicted / 1e6)} ${y(one.measured / 1e6)})` });
    make(mark, "title", {}, `trial ${one.trial}, ${one.kind}: predicted ${mb(one.predicted)} MB, measured ${mb(one.measured)} MB`);
  }
  Object.entries(LOOKS).forEach(([kind, [fill, d]], row) => {
    make(svg, "path", { class: "mark", d, fill, transform: `translate(${area.left + 16} ${area.top + 14 + 18 * row})` });
    make(svg, "text", { x: area.left + 28, y: area.top + 18 + 18 * row }, kind);
  });
}
