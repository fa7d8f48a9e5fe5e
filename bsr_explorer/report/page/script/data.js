// What lies in the page, and what the reader has chosen of it.

const data = JSON.parse(document.getElementById("data").textContent);
const trials = data.trials;
const byBytes = [...trials].sort((a, b) => a.bytes - b.bytes || a.score - b.score || a.number - b.number);
const numbered = new Map(trials.map((trial) => [String(trial.number), trial]));
const state = {
  budget: data.budget,
  log: true,
  chosen: data.recommended,
  picked: false, // until something is, the recommended configuration is shown
  focused: null,
};
