// A service as Rocket.Chat registers it with BROKER=nats: NATS's own services, no Moleculer.
//
// Argument: JSON {url, host, service}. Orders come as lines on the standard input, and each is
// answered by a line with JSON on the standard output.

import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { connect } from "nats";

const plan = JSON.parse(process.argv[2]);
const id = `${plan.host}-${randomUUID()}`.replace(/[^A-Za-z0-9_-]/g, "_");
const connection = await connect({ servers: plan.url.replace("nats://", "") });
const service = await connection.services.add({
  name: plan.service,
  version: "0.1.0",
  metadata: { "rocketchat-node-id": id },
});
await connection.flush();

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

const orders = {
  /** Tells all services, as Rocket.Chat's `api.broadcast` does. */
  async broadcast({ event, args }) {
    connection.publish(`event.${event}`, JSON.stringify(args));
    await connection.flush();
    return {};
  },
  async stop() {
    await service.stop();
    return {};
  },
};

say({ id });
for await (const order of createInterface({ input: process.stdin })) {
  const [name, argument] = order.split(/ (.*)/);
  say(await orders[name](argument && JSON.parse(argument)));
}
process.exit(0);
