// Renders the icons of one Iconify emoji set to square RGB PNGs on white, one file an icon.
//
//   node render.mjs OUT_FOLDER [SIZE=128] [SET=noto]
//
// Skin-tone variants, country flags and keycaps are left out: hundreds of near-copies that teach nothing.
import { createRequire } from "node:module";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

const require = createRequire(import.meta.url);
const { Resvg } = require("@resvg/resvg-js");

const [out, sizeText = "128", set = "noto"] = process.argv.slice(2);
if (!out) {
  console.error("usage: node render.mjs OUT_FOLDER [SIZE=128] [SET=noto]");
  process.exit(2);
}
const size = Number(sizeText);
const icons = require(`@iconify-json/${set}/icons.json`);

const LEFT_OUT = /skin-tone|^flag-|^regional|keycap|^[0-9]$/;
// These two abort the whole process inside resvg 2.6.2; nobody asks for them.
const ABORTS = new Set(["package", "rainbow-flag"]);

/** The icon as a complete SVG document with its own view box. */
function document(icon) {
  const width = icon.width ?? icons.width ?? 16;
  const height = icon.height ?? icons.height ?? 16;
  const left = icon.left ?? 0;
  const top = icon.top ?? 0;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
    `viewBox="${left} ${top} ${width} ${height}" width="${width}" height="${height}">${icon.body}</svg>`
  );
}

mkdirSync(out, { recursive: true });
const names = [];
for (const [name, icon] of Object.entries(icons.icons)) {
  if (LEFT_OUT.test(name) || icon.hidden || ABORTS.has(name)) continue;
  const picture = new Resvg(document(icon), {
    background: "white",
    fitTo: { mode: "width", value: size },
  }).render();
  if (picture.width !== size || picture.height !== size) continue;
  writeFileSync(path.join(out, `${name}.png`), picture.asPng());
  names.push(name);
}
console.log(`${set}: ${names.length} icons at ${size} px in ${out}`);
