// The budget: a slider and words that say the same, and what to take within it.

const slider = at("budget");
const reach = (() => {
  const sizes = [...trials.map((trial) => trial.bytes), data.full.bytes, data.budget];
  if (data.grid) sizes.push(data.grid.least, data.grid.most, ...data.grid.beside.map(([, , bytes]) => bytes));
  return [Math.min(...sizes) * 0.95, Math.max(...sizes) * 1.05];
})();
const places = scaleOf(true, reach, [0, 1000]).clamp(true);
/** A tenth of a megabyte apart, or less where that would leave fewer than three digits; and so it is written. */
function bytesAt(place) {
  const bytes = places.invert(place);
  const step = Math.min(1e5, 10 ** Math.max(0, Math.floor(Math.log10(bytes)) - 2));
  return step * Math.round(bytes / step);
}

function setBudget(bytes, from) {
  state.budget = bytes;
  const said = bothUnits(bytes);
  if (from !== "slider") slider.value = Math.round(places(bytes));
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
    ? `it has the best ${data.quality.name}, and none with less memory comes within its standard error`
    : `it is within one standard error (${best.within}) of the best, ${best.said}, with ${percent(1 - advised.bytes / best.bytes, 0)} less memory`;
  box.append(`${within} of ${trials.length} trained configurations fit. Take `);
  const button = make(box, "button", { type: "button", class: "pick", "data-trial": advised.number }, `trial ${advised.number}`);
  button.addEventListener("click", () => choose(advised.number, true));
  box.append(`, ${advised.said} in ${mb(advised.bytes, 0)} MB: ${why}.`);
}

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
