// Numbers, bytes and commands as text, and bytes out of it.

/** With so many decimals, or as many more as its first two digits take: see format_number in units.py. */
function number(value, digits = 0) {
  const place = value % 1 ? Number(Math.abs(value).toExponential(1).split("e")[1]) : 1;
  const decimals = Math.min(20, Math.max(digits, 1 - place));
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}
/** A round number, such as an axis has, as it is. */
const round = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 12 });
const mb = (bytes, digits = 1) => number(bytes / 1e6, digits);
const bothUnits = (bytes, digits = 1) => `${mb(bytes, digits)} MB (${number(bytes / 2 ** 20, digits)} MiB)`;
const gflops = (flops) => `${number(flops / 1e9, 1)} GFLOPs`;
/** "2.73× less" of a ratio above 1, "1.31× more" of one below: see format_less in units.py. */
const less = (ratio) => (Math.round(100 * ratio) >= 100 ? `${number(ratio, 2)}× less` : `${number(1 / ratio, 2)}× more`);
const capital = (word) => word[0].toUpperCase() + word.slice(1);
const percent = (value, digits = 1) => `${number(100 * value, digits)}%`;
const quoted = (word) =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`;
const profile = (method, batch) =>
  data.profile
    .map((word) => (word === "<method>" ? method : word === "<batch>" ? String(batch) : word))
    .map(quoted)
    .join(" ");

/** Bytes of "1.5GB"; null if it cannot be read. Without a unit it says nothing. */
function parseBytes(text) {
  const match = /^\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*$/.exec(text);
  const bytes = match && Object.hasOwn(data.units, match[2]) ? Math.round(match[1] * data.units[match[2]]) : 0;
  return bytes > 0 && Number.isSafeInteger(bytes) ? bytes : null;
}

/** "0–6, 9" of 0, 1, 2, 3, 4, 5, 6 and 9. */
function spans(blocks) {
  const ends = [];
  for (const block of blocks) {
    if (ends.length && ends.at(-1)[1] === block - 1) ends.at(-1)[1] = block;
    else ends.push([block, block]);
  }
  return ends.map(([low, high]) => (low === high ? low : `${low}–${high}`)).join(", ");
}
