// All of it, once.

drawLegend();
fillSelects();
showDetails();
setBudget(data.budget, "start");
performance.mark("first-plot");
showComparison();
drawCalibration();

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
