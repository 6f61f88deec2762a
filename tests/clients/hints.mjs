// node:http2 as a client: early hints of the monolith arrive before the answer, then its trailers.

import http2 from "node:http2";
import { assert, base, done, step, within } from "./steps.mjs";

const session = http2.connect(base.origin);
const stream = session.request({ ":path": "/page", te: "trailers" });
const seen = [];
stream.on("headers", (headers) => seen.push([headers[":status"], headers.link]));
stream.on("response", (headers) => seen.push([headers[":status"], headers["content-type"]]));
stream.on("trailers", (headers) => seen.push(["trailers", headers["x-sum"]]));
let body = "";
stream.setEncoding("utf8").on("data", (text) => (body += text));
await within(new Promise((resolve, reject) => stream.on("end", resolve).on("error", reject)), "the answer");
assert.deepEqual(seen, [
  [103, "</one.css>; rel=preload"],
  [103, "</two.css>; rel=preload"],
  [200, "text/plain"],
  ["trailers", "7"],
]);
assert.equal(body, "the page");
step("two hints, the answer and its trailers, in this order");
session.close();

done();
