// Axes: scales and round numbers are d3-scale's; drawn are lines, numbers and names.

/** From values to pixels, along a straight or a logarithmic axis. */
const scaleOf = (log, values, pixels) => (log ? d3.scaleLog : d3.scaleLinear)(values, pixels);

/** Round numbers, about one every so many pixels. */
const ticksOf = (scale, apart) => scale.ticks(Math.max(3, Math.abs(scale.range()[1] - scale.range()[0]) / apart));

/** Round numbers of a logarithmic axis: the most of one digit that stand at least so many pixels apart. Between ends
    that are close there are none such, and it has those of a straight axis. */
function logTicksOf(scale, apart) {
  const digitsOf = (tick) => tick.toExponential().split("e")[0]; // "3" of 300, "1.2" of 1,200
  const all = scale.ticks();
  const choices = all.every((tick) => digitsOf(tick).length === 1) ? ["123456789", "12357", "1235", "125", "13", "1"] : [];
  for (const digits of choices) {
    const ticks = all.filter((tick) => digits.includes(digitsOf(tick)));
    const places = ticks.map((tick) => scale(tick));
    const roomy = places.slice(1).every((place, before) => Math.abs(place - places[before]) >= apart);
    if (ticks.length > 2 && roomy) return ticks;
  }
  return scaleOf(false, scale.domain(), scale.range()).ticks(4);
}

/** Where a plot draws within its element: pixels of its four sides, and of the whole. */
function areaOf(element, left) {
  const [width, height] = [element.clientWidth, element.clientHeight];
  return { left, right: width - 14, top: 26, bottom: height - 42, width, height };
}

/** Lines across a plot at round numbers, the numbers, and what the axes measure. */
function drawAxes(parent, area, [x, across, below], [y, upwards, above]) {
  const { left, right, top, bottom } = area;
  for (const tick of upwards) {
    make(parent, "line", { class: "gridline", x1: left, x2: right, y1: y(tick), y2: y(tick) });
    make(parent, "text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, round(tick));
  }
  for (const tick of across) {
    make(parent, "line", { class: "gridline", x1: x(tick), x2: x(tick), y1: top, y2: bottom });
    make(parent, "text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, round(tick));
  }
  make(parent, "line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
  make(parent, "text", { x: right, y: area.height - 4, "text-anchor": "end" }, below);
  make(parent, "text", { x: 0, y: 12 }, above);
}
