// A list of checks for a script: each prints one line, and the exit code says whether all passed.
import { strict as assert } from "node:assert";

export const URL = process.env.SD_URL;
export const SLOW = process.env.SD_SLOW_URL;
export const CLOSED = process.env.SD_CLOSED_URL;
export const TOKEN = process.env.SD_TOKEN;
export { assert };

const checks = [];
export const check = (title, run) => checks.push([title, run]);

export const main = async () => {
  let failed = 0;
  for (const [title, run] of checks) {
    const since = performance.now();
    let outcome = "ok  ";
    try {
      await run();
    } catch (fault) {
      console.error(fault);
      outcome = "FAIL";
      failed += 1;
    }
    console.log(`${outcome} ${title}  (${((performance.now() - since) / 1000).toFixed(1)} s)`);
  }
  process.exitCode = failed ? 1 : 0;
};

// The size of a PNG.
export const size = data => {
  assert.equal(data.subarray(1, 4).toString(), "PNG");
  return [data.readUInt32BE(16), data.readUInt32BE(20)];
};
