// node-sd-webui, a stock client of A1111's interface, against the worker.
import { createRequire } from "node:module";
import { URL, assert, check, main, size } from "./checks.mjs";

const { default: sdwebui, SamplingMethod } = createRequire(import.meta.url)("node-sd-webui");
const client = sdwebui({ apiUrl: URL });
const small = { width: 64, height: 64, steps: 8, seed: 7 };

check("node-sd-webui: txt2img, pngInfo, img2img", async () => {
  const drawn = await client.txt2img({ prompt: "panda", negativePrompt: "green", samplingMethod: SamplingMethod.DPMPlusPlus_2M_Karras, ...small });
  assert.deepEqual(size(Buffer.from(drawn.images[0], "base64")), [64, 64]);
  const told = JSON.parse(drawn.info);
  assert.equal(told.sampler_name, "DPM++ 2M");
  assert.match(told.infotexts[0], /Schedule type: Karras/);
  const read = await client.pngInfo({ imageData: drawn.images[0] });
  assert.equal(read.prompt, "panda");
  assert.equal(read.negativePrompt, "green");
  assert.equal(read.steps, 8);
  const again = await client.img2img({ imageData: drawn.images, prompt: "panda", batchSize: 2, ...small });
  assert.equal(again.images.length, 2);
  await assert.rejects(client.txt2img({ prompt: "x", samplingMethod: "nothing" }));
});

await main();
