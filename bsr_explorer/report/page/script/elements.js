// Elements of the page: made, announced, copied from.

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

function hear(text) {
  at("heard").textContent = text;
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

function headings(table, ...names) {
  const row = make(make(table, "thead"), "tr");
  for (const [name, kind] of names) make(row, "th", { scope: "col", class: kind }, name);
  return make(table, "tbody");
}
