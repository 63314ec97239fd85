// OpenAI's Node client against the worker.
import OpenAI, { toFile } from "openai";
import { CLOSED, SLOW, TOKEN, URL, assert, check, main, size } from "./checks.mjs";

const client = new OpenAI({ baseURL: URL + "/v1", apiKey: "none" });
const fast = { seed: 7, steps: 8 };
const bytes = entry => Buffer.from(entry.b64_json, "base64");

check("openai-node: models.list, models.retrieve, an unknown model", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert(names.includes("emoji-sd"));
  assert.equal((await client.models.retrieve("emoji-sd")).object, "model");
  await assert.rejects(client.models.retrieve("nothing"), fault => fault instanceof OpenAI.NotFoundError && fault.code === "model_not_found");
});

check("openai-node: images.generate with size, n and our own fields", async () => {
  const answer = await client.images.generate({ prompt: "panda", n: 2, size: "128x64", ...fast });
  assert.deepEqual(answer.data.map(entry => size(bytes(entry))), [[128, 64], [128, 64]]);
  assert.deepEqual(answer.data.map(entry => entry.seed), [7, 8]);
});

check("openai-node: images.generate as a stream with partial images", async () => {
  const plain = await client.images.generate({ prompt: "panda", ...fast });
  const events = [];
  for await (const event of await client.images.generate({ prompt: "panda", stream: true, partial_images: 2, ...fast })) events.push(event);
  assert.deepEqual(events.map(event => event.type),
    ["image_generation.partial_image", "image_generation.partial_image", "image_generation.completed"]);
  assert.deepEqual(size(bytes(events.at(-1))), [64, 64]);
  assert.equal(events.at(-1).b64_json.length, plain.data[0].b64_json.length);
});

check("openai-node: images.edit of one picture, of a list, as a stream; images.createVariation", async () => {
  const source = bytes((await client.images.generate({ prompt: "red apple", ...fast })).data[0]);
  const file = () => toFile(source, "apple.png", { type: "image/png" });
  assert.deepEqual(size(bytes((await client.images.edit({ image: await file(), prompt: "panda", ...fast })).data[0])), [64, 64]);
  assert.deepEqual(size(bytes((await client.images.edit({ image: [await file()], prompt: "panda", ...fast })).data[0])), [64, 64]);
  const kinds = [];
  for await (const event of await client.images.edit({ image: await file(), prompt: "panda", stream: true, ...fast })) kinds.push(event.type);
  assert.deepEqual(kinds, ["image_edit.completed"]);
  const variation = await client.images.createVariation({ image: await file(), response_format: "b64_json" });
  assert.deepEqual(size(bytes(variation.data[0])), [64, 64]);
  await assert.rejects(client.images.edit({ image: [await file(), await file()], prompt: "x" }), fault => fault.param === "image");
});

check("openai-node: BadRequestError, NotFoundError, AuthenticationError, APIConnectionTimeoutError", async () => {
  await assert.rejects(client.images.generate({ prompt: "x", n: 11 }),
    fault => fault instanceof OpenAI.BadRequestError && fault.param === "n" && fault.type === "invalid_request_error");
  await assert.rejects(client.images.generate({ prompt: "x", model: "nothing" }), OpenAI.NotFoundError);
  await assert.rejects(new OpenAI({ baseURL: CLOSED + "/v1", apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError);
  const good = await new OpenAI({ baseURL: CLOSED + "/v1", apiKey: TOKEN }).images.generate({ prompt: "x", steps: 1 });
  assert(good.data[0].b64_json);
  const hasty = new OpenAI({ baseURL: SLOW + "/v1", apiKey: "none", timeout: 300, maxRetries: 0 });
  await assert.rejects(hasty.images.generate({ prompt: "x", steps: 100 }), OpenAI.APIConnectionTimeoutError);
});

check("openai-node: an aborted stream takes its job along", async () => {
  const slow = new OpenAI({ baseURL: SLOW + "/v1", apiKey: "none" });
  const stream = await slow.images.generate({ prompt: "x", stream: true, partial_images: 3, steps: 100 });
  for await (const event of stream) {
    assert.equal(event.type, "image_generation.partial_image");
    break;
  }
  const newest = async () => (await (await fetch(SLOW + "/v1/jobs?limit=1")).json()).data[0].status;
  for (let tries = 0; (await newest()) !== "cancelled"; tries += 1) {
    assert(tries < 200, "the job still runs");
    await new Promise(done => setTimeout(done, 20));
  }
});

await main();
