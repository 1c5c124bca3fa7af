// A softmax in JavaScript, checked through a pipe:
//
//     refimpl vectors emit softmax --stream | node softmax.mjs | refimpl vectors check softmax --stream
//
// It reads calls from standard input and answers each (docs/vectors.md has the protocol). Typed arrays are little-endian on every machine Node runs on.
import { readFileSync, writeSync } from "node:fs";

function softmax(x, n) {
  for (let start = 0; start < x.length; start += n) {
    const row = x.subarray(start, start + n);
    const largest = row.reduce((a, b) => Math.max(a, b));
    row.forEach((value, i) => (row[i] = Math.exp(value - largest)));
    const sum = row.reduce((a, b) => a + b);
    row.forEach((value, i) => (row[i] = value / sum));
  }
}

function write(bytes) {
  for (let done = 0; done < bytes.length; ) done += writeSync(1, bytes, done);
}

const input = readFileSync(0);
let at = 0;

function line() {
  const end = input.indexOf(10, at);
  const words = input.toString("utf8", at, end).split(" ");
  at = end + 1;
  return words;
}

line(); // refimpl-vectors 1 softmax float32 CASES
for (let words = line(); words[0] === "case"; words = line()) {
  const [, , dtype, rank, ...sizes] = line();
  if (dtype !== "float32") throw new Error(`${words[1]}: expected float32, got ${dtype}`);
  const count = sizes.reduce((a, b) => a * Number(b), 1);
  const x = new Float32Array(input.buffer.slice(input.byteOffset + at, input.byteOffset + at + 4 * count));
  at += 4 * count;
  softmax(x, Number(sizes.at(-1)));
  write(Buffer.from(`answer ${words[1]} float32 ${rank} ${sizes.join(" ")}\n`));
  write(new Uint8Array(x.buffer));
}
