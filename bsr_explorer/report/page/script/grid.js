// Every configuration that the study may choose: unpacked, or counted at some budgets.

const NEAR = 4;

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** All grids of a page as one. */
async function openGrid(packed) {
  const { depth, batch_sizes } = packed;
  const parts = [];
  for (const part of [packed, ...(packed.more ?? [])]) parts.push(await openPart({ ...part, depth, batch_sizes }));
  const merged = (each, merge) => each.reduce((a, b) => a.map((sides, blocks) => sides.map((one, side) => merge(one, b[blocks][side]))));
  const add = (a, b) => a + b;
  const within = (budget) => {
    const found = parts.map((part) => part.within(budget));
    const near = found.flatMap((each) => each.near).sort((a, b) => b.bytes - a.bytes);
    return {
      counts: merged(found.map((each) => each.counts), add),
      next: Math.min(...found.map((each) => each.next)),
      near: near.slice(0, NEAR),
    };
  };
  return { all: merged(parts.map((part) => part.all), add), least: merged(parts.map((part) => part.least), Math.min), within };
}

async function openPart(packed) {
  const [planes, bits] = [await inflate(packed.bytes), await inflate(packed.masks)];
  const rowBytes = Math.ceil(packed.depth / 8);
  const masks = bits.length / rowBytes;
  const trained = (mask) => {
    const blocks = [];
    for (let block = 0; block < packed.depth; block++) {
      if ((bits[(block >> 3) * masks + mask] >> (block & 7)) & 1) blocks.push(block);
    }
    return blocks;
  };
  const drops = packed.schedules.length;
  const size = packed.batch_sizes.length * drops * masks;
  const sizes = unpacked(planes, size, drops, masks, packed);
  const counted = Uint8Array.from({ length: masks }, (_, mask) => trained(mask).length);
  const dropping = packed.schedules.map(([keeps]) => Number(keeps.length > 0));
  const strata = () => Array.from({ length: packed.depth + 1 }, () => [0, 0]);
  const [all, least] = [strata(), strata().map(() => [Infinity, Infinity])];
  each((index, stratum, side) => {
    all[stratum][side]++;
    if (sizes[index] < least[stratum][side]) least[stratum][side] = sizes[index];
  });
  return { all, least, within };

  function each(see) {
    for (let row = 0; row < size / masks; row++) {
      const side = dropping[row % drops];
      for (let mask = 0; mask < masks; mask++) see(row * masks + mask, counted[mask], side);
    }
  }

  function within(budget) {
    const counts = strata();
    const near = []; // the largest that fit, largest first
    let next = Infinity;
    each((index, stratum, side) => {
      const bytes = sizes[index];
      if (bytes > budget) {
        if (bytes < next) next = bytes;
        return;
      }
      counts[stratum][side]++;
      if (near.length < NEAR || bytes > near.at(-1).bytes) {
        near.splice(near.findLastIndex((other) => other.bytes >= bytes) + 1, 0, { bytes, index });
        near.length = Math.min(near.length, NEAR);
      }
    });
    return { counts, next, near: near.map(describe) };
  }

  function describe({ bytes, index }) {
    const [keeps, fuse] = packed.schedules[Math.floor(index / masks) % drops];
    const batch = packed.batch_sizes[Math.floor(index / (masks * drops))];
    return { bytes, batch, method: expression(trained(index % masks), keeps, fuse) + (packed.added ?? "") };
  }
}

/** Bytes of every configuration, from differences along masks and schedules (see Layout in layout.py). */
function unpacked(planes, size, drops, masks, packed) {
  const sizes = new Float64Array(size);
  for (let index = 0; index < size; index++) {
    let value = 0;
    for (let plane = planes.length / size - 1; plane >= 0; plane--) value = value * 256 + planes[plane * size + index];
    value = value % 2 ? -(value + 1) / 2 : value / 2;
    sizes[index] = value + (index % masks ? sizes[index - 1] : 0);
  }
  for (let index = masks; index < size; index++) {
    if (Math.floor(index / masks) % drops) sizes[index] += sizes[index - masks];
  }
  return sizes.map((steps) => packed.base + packed.unit * steps);
}

/** The method as it is written, and as Python prints it. */
function expression(blocks, keeps, fuse) {
  const tuple = blocks.length === 1 ? `${blocks[0]},` : blocks.join(", ");
  const rates = keeps.map(([block, rate]) => `${block}: ${rate}`).join(", ");
  return `bsr(blocks=(${tuple}), keep={${rates}}, fuse=${fuse ? "True" : "False"})`;
}

function openSteps(packed) {
  const steps = packed.steps;
  const all = steps.counts.map((sides) => sides.map((counts) => counts.at(-1)));
  const least = steps.least.map((sides) => sides.map((bytes) => bytes ?? Infinity));
  const within = (budget) => {
    const place = steps.budgets.findLastIndex((step) => step <= budget);
    const counts = steps.counts.map((sides) => sides.map((each) => (place < 0 ? 0 : each[place])));
    return { counts, next: Infinity, near: [], step: place < 0 ? null : steps.budgets[place] };
  };
  return { all, least, within };
}
